"""`predict`, `change` and `plan_summary`: the functions behind the commands."""

import contextlib
import os
import resource
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rsmamba_cli.errors import InputError, Interrupted, OutputError
from rsmamba_cli.events import EventHandler, Warned, ignore_events
from rsmamba_cli.inference.checkpoint import load_model
from rsmamba_cli.inference.device import scan_backend
from rsmamba_cli.inference.engine import InProcessEngine
from rsmamba_cli.inference.interrupt import interruptible
from rsmamba_cli.inference.options import PredictOptions, PredictResult
from rsmamba_cli.inference.predictor import Predictor
from rsmamba_cli.inference.prepare import Prepared, prepare
from rsmamba_cli.inference.products import (
    Tally,
    check_outputs,
    finished_before,
    output_files,
    write_products,
)
from rsmamba_cli.inference.sampler import set_sampler
from rsmamba_cli.raster.align import Aligned
from rsmamba_cli.raster.opening import gdal_settings
from rsmamba_cli.raster.registration import residual_shift
from rsmamba_cli.raster.store import Store, partial_folder

Name = str | os.PathLike[str]
_SHIFT_WORTH_TELLING = 1.0


def predict(
    scene: Name | None,
    output: Name,
    options: PredictOptions | None = None,
    on_event: EventHandler = ignore_events,
) -> PredictResult:
    """Map one scene with a segmentation model, of one modality or of optical and radar images.

    The radar image of ``options.sar`` is warped on to the scene's grid; without it, a scene that
    holds the bands of both is split. What a model takes and is not given is refused or fed as
    zeros, as its checkpoint says.

    Args:
        scene: any raster that GDAL reads; None where ``options.sar`` is all there is.
        output: the mask, a GeoTIFF (COG) on exactly the scene's grid: uint8 class values, 255 where
            there is no answer (uint16 and 65535 when a class value is 255 or more).
        options: see `PredictOptions`.
        on_event: told about progress and warnings.

    Returns:
        What was written and counted.

    Raises:
        RsmambaError: a subclass says whose fault it is; `Interrupted` after SIGINT or SIGTERM.
    """
    scenes = () if scene is None else (scene,)
    return _run("segmentation", scenes, output, options or PredictOptions(), on_event)


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
    return _run("change", (t1, t2), output, options or PredictOptions(), on_event)


def plan_summary(
    scene: Name | None,
    options: PredictOptions | None = None,
    t2: Name | None = None,
    on_event: EventHandler = ignore_events,
    measure: bool = True,
) -> dict[str, Any]:
    """What a run would do: windows, memory, disk and time. Nothing is written.

    Args:
        scene: the scene (see `predict`), or the first of two dates.
        options: see `PredictOptions`.
        t2: the second date.
        on_event: told about warnings.
        measure: run the model on two empty batches to forecast the time.

    Returns:
        JSON values: "grid", "inputs", "model", "window", "stride", "windows", "batch_size",
        "batches", "strips", "chunks", "device", "precision", "memory_bytes", "disk_bytes",
        "disk_free_bytes" (of the current folder), "seconds" (None unless measured), "overlap".

    Raises:
        RsmambaError: see `predict`.
    """
    options = options or PredictOptions()
    task = "segmentation" if t2 is None else "change"
    paths = tuple(os.fspath(path) for path in (scene, t2) if path is not None)
    prepared = prepare(task, paths, options, on_event)
    with contextlib.closing(prepared), _threads(options.threads):
        plan, aligned = prepared.plan, prepared.inputs.aligned
        batches = -(-plan.windows // plan.batch_size)
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
            "chunks": sum(1 for _ in plan.chunks()),
            "device": str(prepared.device),
            "precision": prepared.precision,
            "memory_bytes": prepared.memory_forecast(),
            "disk_bytes": prepared.disk_forecast(),
            "disk_free_bytes": shutil.disk_usage(Path.cwd()).free,
            "seconds": _seconds_a_batch(prepared) * batches if measure else None,
            "overlap": None if aligned is None else aligned.overlap,
        }


def _run(
    task: str,
    inputs: tuple[Name, ...],
    output: Name,
    options: PredictOptions,
    on_event: EventHandler,
) -> PredictResult:
    began = time.perf_counter()
    paths = tuple(os.fspath(path) for path in inputs)
    files = output_files(Path(output), options)
    more = (options.sar, options.mask, options.aoi, options.model)
    reads = [*paths, *(os.fspath(p) for p in more if p)]
    skip = check_outputs(files, reads, options)
    with contextlib.ExitStack() as stack:
        check = stack.enter_context(interruptible())
        prepared = stack.enter_context(contextlib.closing(prepare(task, paths, options, on_event)))
        if skip or finished_before(files, prepared):
            return _result(prepared, files, began, None, 0, {}, skipped=True)
        if options.min_area and prepared.grid.world_crs is None:
            raise InputError(
                "--min-area is in square metres, and the scene has no CRS to measure with"
            )
        stack.enter_context(gdal_settings(prepared.cache_bytes))
        stack.enter_context(_threads(options.threads))
        details = _alignment_details(prepared, on_event)
        folder = partial_folder(files["mask"])
        store = Store(
            files["mask"],
            prepared.plan.description,
            prepared.plan.layout,
            resume=options.resume,
            restart=options.overwrite and not options.resume,
        )
        with store:
            try:
                _check_space(prepared, folder)
                predictor = _predictor(prepared)
                engine = InProcessEngine(prepared.source, on_event, check)
                computed = engine.run(prepared.plan, predictor, store)
                tally = write_products(prepared, store, files, on_event, check)
            except InputError:
                # The same input fails the same way again: there is nothing to resume.
                store.discard()
                raise
            except OutputError as error:
                if store.done and "--resume" not in str(error):
                    raise OutputError(f"{error}; {_how_to_go_on(store)}") from error
                raise
            except Interrupted as error:
                raise Interrupted(f"{error}; {_how_to_go_on(store)}") from error
            store.discard()
        if tally.pixels[prepared.plan.nodata] == prepared.grid.height * prepared.grid.width:
            on_event(
                Warned(f"{files['mask']}: holds no answer anywhere: no valid pixel was asked for")
            )
        return _result(prepared, files, began, tally, computed, details)


def _how_to_go_on(store: Store) -> str:
    if not store.done:
        return "nothing was finished yet, so nothing is kept"
    total = len(store.layout.block_keys())
    return (
        f"{len(store.done)} of {total} blocks are kept in {store.folder}: run the same command "
        "with --resume to go on"
    )


def _predictor(prepared: Prepared) -> Predictor:
    model = load_model(prepared.checkpoint, prepared.meta)
    seed = 0
    if prepared.sampler is not None:
        set_sampler(model, prepared.sampler)
        seed = prepared.sampler["seed"]
    return Predictor(
        model,
        prepared.meta,
        prepared.device,
        prepared.precision,
        prepared.plan.batch_size,
        prepared.options.tta,
        seed,
    )


def _alignment_details(prepared: Prepared, on_event: EventHandler) -> dict[str, Any]:
    """How the inputs lie on each other, for the result; warns where that leaves gaps."""
    inputs, task = prepared.inputs, prepared.meta.task
    details: dict[str, Any] = {}
    specs = zip(prepared.meta.inputs, inputs.scenes, strict=True)
    if missing := [spec.name for spec, scene in specs if scene is None]:
        details["missing"] = missing
    if inputs.aligned is None:
        return details
    overlap = inputs.aligned.overlap
    details |= {"alignment": inputs.aligned.how, "overlap": overlap}
    if task == "change":
        details["shift"] = _shift(prepared, inputs.aligned, on_event)
    if overlap < 0.995:
        what = "dates" if task == "change" else "images"
        on_event(
            Warned(f"the two {what} overlap on {overlap:.1%} of the map; the rest has no answer")
        )
    return details


def _shift(prepared: Prepared, aligned: Aligned, on_event: EventHandler) -> dict[str, Any] | None:
    """The shift that two dates seem to have; a large one is told."""
    shift = residual_shift(prepared.inputs.base_scene, aligned, prepared.grid)
    if shift is not None and shift.reliable and shift.pixels >= _SHIFT_WORTH_TELLING:
        length = "" if shift.metres is None else f" ({shift.metres:.3g} m)"
        on_event(
            Warned(
                f"the two dates look shifted by {shift.pixels:.1f} pixels{length}: "
                f"{shift.rows:+.1f} down, {shift.cols:+.1f} to the right. It is not corrected; "
                "co-register them first if that is real."
            )
        )
    return None if shift is None else shift.to_json()


def _check_space(prepared: Prepared, folder: Path) -> None:
    needed, free = prepared.disk_forecast(), shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"{folder.parent}: about {needed / 2**20:.1f} MiB are needed and "
            f"{free / 2**20:.1f} MiB are free; make room or write elsewhere"
        )


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    if count is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _seconds_a_batch(prepared: Prepared) -> float:
    predictor = _predictor(prepared)
    height, width = prepared.plan.window_shape
    empty = [
        np.zeros((prepared.plan.batch_size, bands, height, width), dtype=np.float32)
        for bands in prepared.source.bands
    ]
    seconds = 0.0
    for _ in range(2):  # the first also pays for allocations and kernels
        began = time.perf_counter()
        predictor(empty, [(0, 0)] * prepared.plan.batch_size)
        seconds = time.perf_counter() - began
    return seconds


def _result(
    prepared: Prepared,
    files: dict[str, Path],
    began: float,
    tally: Tally | None,
    computed: int,
    details: dict[str, Any],
    skipped: bool = False,
) -> PredictResult:
    grid, plan = prepared.grid, prepared.plan
    names = {c.value: c.name for c in prepared.meta.classes}
    pixels: dict[str, int] = {}
    area: dict[str, float] | None = None
    if tally is not None:
        pixels = {names.get(v, "nodata"): n for v, n in tally.pixels.items()}
        if tally.area is not None:
            area = {names[v]: a for v, a in tally.area.items() if v in names}
    seconds = time.perf_counter() - began
    return PredictResult(
        output=files["mask"],
        files=dict(files),
        width=grid.width,
        height=grid.height,
        windows=plan.windows,
        windows_computed=computed,
        pixels_per_class=pixels,
        area_m2_per_class=area,
        seconds=seconds,
        megapixels_per_second=grid.height * grid.width / 1e6 / seconds,
        peak_memory_bytes=_peak_memory(),
        device=str(prepared.device),
        precision=prepared.precision,
        backend=scan_backend(prepared.device),
        model=prepared.meta.architecture,
        skipped=skipped,
        details=details,
    )


def _peak_memory() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
