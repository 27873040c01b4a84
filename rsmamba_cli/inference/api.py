"""`predict`, `change`, `merge` and `plan_summary`: the functions behind the commands."""

import contextlib
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rsmamba_cli.errors import ResumeError
from rsmamba_cli.events import EventHandler, Warned, ignore_events
from rsmamba_cli.inference.device import torch_threads
from rsmamba_cli.inference.options import PredictOptions, PredictResult
from rsmamba_cli.inference.plan import BANDS_PER_CHUNK
from rsmamba_cli.inference.predictor import Predictor
from rsmamba_cli.inference.prepare import Prepared, prepare
from rsmamba_cli.inference.products import MapOutputs, Outputs, output_files
from rsmamba_cli.inference.running import Name, run
from rsmamba_cli.inference.sheet_outputs import SheetOutputs
from rsmamba_cli.raster.sheets import find_sheets
from rsmamba_cli.raster.store import partial_folder, read_plan

_MEASURED = 1024
"""Side of the largest window that is run to forecast the time."""


def predict(
    scene: Name | Sequence[Name] | None,
    output: Name,
    options: PredictOptions | None = None,
    on_event: EventHandler = ignore_events,
) -> PredictResult:
    """Map one scene with a segmentation model, of one modality or of optical and radar images.

    The radar image of ``options.sar`` is warped on to the scene's grid; without it, a scene that
    holds the bands of both is split. What a model takes and is not given is refused or fed as
    zeros, as its checkpoint says.

    Args:
        scene: any raster that GDAL reads; with ``options.stack`` several, one over the other; None
            where ``options.sar`` is all there is.
        output: the mask, a GeoTIFF (COG) on exactly the scene's grid: uint8 class values, 255 where
            there is no answer (uint16 and 65535 when a class value is 255 or more).
        options: see `PredictOptions`.
        on_event: told about progress and warnings.

    Returns:
        What was written and counted.

    Raises:
        RsmambaError: a subclass says whose fault it is; `Interrupted` after SIGINT or SIGTERM.
    """
    options = options or PredictOptions()
    scenes = _names(scene)
    return run("segmentation", scenes, _map_outputs(output, options), options, on_event)


def change(
    t1: Name,
    t2: Name,
    output: Name,
    options: PredictOptions | None = None,
    on_event: EventHandler = ignore_events,
) -> PredictResult:
    """Map what changed between two dates.

    The second date is warped on to the first one's grid (``options.grid="t2"`` for the other way
    round). ``details`` of the result hold the overlap and the shift that the two seem to have.

    Args:
        t1: the earlier scene.
        t2: the later scene, on any grid that overlaps.
        output: the mask; see `predict`.
        options: see `PredictOptions`.
        on_event: told about progress and warnings.

    Returns:
        What was written and counted.

    Raises:
        RsmambaError: see `predict`; `InputError` when the scenes do not overlap, or when just one
            of them has a georeference.
    """
    options = options or PredictOptions()
    return run("change", (t1, t2), _map_outputs(output, options), options, on_event)


def merge(
    output: Name, overwrite: bool = False, on_event: EventHandler = ignore_events
) -> PredictResult:
    """Make the outputs of a run whose parts (``PredictOptions.shard``) were computed separately.

    Args:
        output: the mask, as the parts were told.
        overwrite: replace existing outputs.
        on_event: told about progress and warnings.

    Returns:
        What was written and counted.

    Raises:
        ResumeError: no parts are there, or some are not finished.
        RsmambaError: see `predict`.
    """
    mask = Path(os.path.realpath(output))
    folder = partial_folder(mask)
    command = (read_plan(folder) or {}).get("_command")
    if command is None:
        raise ResumeError(
            f"{folder}: holds no parts of a run; compute them first with `--shard I/N`"
        )
    options = replace(
        PredictOptions.from_json(command["options"]), resume=True, overwrite=overwrite
    )
    paths = tuple(command["paths"])
    outputs: Outputs = (
        SheetOutputs.of(paths, mask.parent, options)
        if options.mosaic
        else _map_outputs(mask, options)
    )
    return run(command["task"], paths, outputs, options, on_event, compute=False)


def predict_mosaic(
    sheets: Sequence[Name],
    out_dir: Name,
    options: PredictOptions | None = None,
    on_event: EventHandler = ignore_events,
) -> PredictResult:
    """Map many sheets as one seamless scene, each into a file of its own.

    Windows lie on the mosaic's lattice and see across the sheets' borders; what no sheet covers has
    no data. One working folder and journal serve all. `merge` takes ``out_dir / "rsmamba-mosaic"``.

    Args:
        sheets: rasters on one pixel lattice; or folders, patterns, index files, VRTs and STAC
            items that stand for rasters (see `find_sheets`).
        out_dir: where the masks go, under the sheets' stems + "_mask.tif"; has to exist.
        options: see `PredictOptions`; ``polygons`` is one file for all sheets.
        on_event: told about progress and warnings.

    Returns:
        What was written and counted; ``files`` has the sheets' masks by stem.

    Raises:
        RsmambaError: see `predict`; `InputError` for sheets that make no mosaic.
    """
    options = replace(options or PredictOptions(), mosaic=True)
    paths = tuple(find_sheets([os.fspath(sheet) for sheet in sheets]))
    outputs = SheetOutputs.of(paths, Path(out_dir), options)
    return run("segmentation", paths, outputs, options, on_event)


def _names(scene: Name | Sequence[Name] | None) -> tuple[Name, ...]:
    if scene is None:
        return ()
    return (scene,) if isinstance(scene, str | os.PathLike) else tuple(scene)


def _map_outputs(output: Name, options: PredictOptions) -> MapOutputs:
    return MapOutputs(output_files(Path(output), options))


def plan_summary(
    scene: Name | Sequence[Name] | None,
    options: PredictOptions | None = None,
    t2: Name | None = None,
    on_event: EventHandler = ignore_events,
    measure: bool = True,
) -> dict[str, Any]:
    """What a run would do: windows, memory, disk and time. Nothing is written.

    Args:
        scene: the scene or scenes (see `predict`), the first of two dates, or with
            ``options.mosaic`` the sheets (see `predict_mosaic`).
        options: see `PredictOptions`.
        t2: the second date.
        on_event: told about warnings.
        measure: look into the model: what memory it needs, and how long two empty batches take.

    Returns:
        JSON values: "grid", "inputs", "model", "window", "stride", "windows", "batch_size",
        "batches", "strips", "chunks", "device", "precision", "memory_bytes" (beside the model),
        "model_memory_bytes" (weights and a forward pass; None unless measured), "disk_bytes",
        "disk_free_bytes" (of the current folder), "seconds" (None unless measured), "overlap".

    Raises:
        RsmambaError: see `predict`.
    """
    options = options or PredictOptions()
    task = "segmentation" if t2 is None else "change"
    paths = tuple(os.fspath(path) for path in (*_names(scene), *_names(t2)))
    if options.mosaic:
        paths = tuple(find_sheets(paths))
    prepared = prepare(task, paths, options, on_event)
    with contextlib.closing(prepared), torch_threads(options.threads):
        plan, aligned = prepared.plan, prepared.inputs.aligned
        batches = -(-plan.windows // plan.batch_size)
        predictor = prepared.predictor(bounded=False) if measure else None
        if complaint := prepared.memory_complaint(predictor):
            on_event(Warned(complaint))
        return {
            "grid": prepared.grid.to_json(),
            "description": prepared.grid.describe(),
            "inputs": [
                {
                    "name": spec.name,
                    "path": s.path,
                    "bands": list(s.bands),
                    "band_names": list(s.band_names),
                    "dtype": str(s.dtype),
                    "nodata": [None if n is None else str(n) for n in s.nodata],
                }
                for s, spec in zip(prepared.inputs.scenes, prepared.meta.inputs, strict=True)
                if s is not None
            ],
            "model": prepared.meta.architecture,
            "window": list(plan.window_shape),
            "stride": plan.description["options"]["stride"],
            "windows": plan.windows,
            "batch_size": plan.batch_size,
            "batches": batches,
            "strips": len(plan.strips) - 1,
            "chunks": sum(1 for _ in plan.chunks(BANDS_PER_CHUNK)),
            "device": str(prepared.device),
            "precision": prepared.precision,
            "memory_bytes": prepared.memory_forecast(),
            "model_memory_bytes": predictor
            and predictor.memory_forecast(prepared.source.bands, plan.window_shape),
            "disk_bytes": prepared.disk_forecast(),
            "disk_free_bytes": shutil.disk_usage(Path.cwd()).free,
            "seconds": predictor and _seconds_a_batch(predictor, prepared) * batches,
            "overlap": None if aligned is None else aligned.overlap,
        }


def _seconds_a_batch(predictor: Predictor, prepared: Prepared) -> float:
    """Measured; windows beyond 1024 pixels are forecast by the area from a smaller one."""
    shape, multiple = prepared.plan.window_shape, prepared.meta.size_multiple
    height, width = (min(n, -(-_MEASURED // multiple) * multiple) for n in shape)
    empty = [
        np.zeros((predictor.batch_size, bands, height, width), dtype=np.float32)
        for bands in prepared.source.bands
    ]
    seconds = 0.0
    for _ in range(2):  # the first also pays for allocations and kernels
        began = time.perf_counter()
        predictor(empty, [(0, 0)] * predictor.batch_size)
        seconds = time.perf_counter() - began
    return seconds * (shape[0] * shape[1]) / (height * width)
