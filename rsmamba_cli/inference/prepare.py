"""Everything that is settled before the first window: inputs, checkpoint, device, plan."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import rsmamba_cli
from rsmamba_cli.events import EventHandler, Warned
from rsmamba_cli.inference.checkpoint import checkpoint_path, read_task_meta
from rsmamba_cli.inference.checks import georeference_warning, gsd_warning, input_warnings
from rsmamba_cli.inference.device import resolve_device, resolve_precision
from rsmamba_cli.inference.emit import QUANTITY_NODATA
from rsmamba_cli.inference.options import PredictOptions
from rsmamba_cli.inference.plan import (
    Plan,
    auto_batch_size,
    batch_bytes,
    check_threshold,
    column_bytes,
    plan_axes,
    plan_strips,
)
from rsmamba_cli.inference.source import Reader, Source
from rsmamba_cli.raster.align import Aligned, align
from rsmamba_cli.raster.grid import Grid
from rsmamba_cli.raster.opening import local_identity
from rsmamba_cli.raster.scene import Scene, open_scene
from rsmamba_cli.raster.selection import Selection
from rsmamba_cli.raster.store import Layer, canonical_json
from rsmamba_models import CheckpointMeta, InputSpec

PLAN_FORMAT = 1
_CACHE_LEAST = 64 << 20


@dataclass
class Prepared:
    """A run that is ready to start; close it when done.

    Attributes:
        options: as asked for.
        meta: of the checkpoint.
        checkpoint: its file.
        scenes: opened inputs in the order of the model's arguments.
        aligned: the input that was brought on to the other's grid (change only).
        grid: of the run and its outputs.
        source: what the engine reads.
        device: to run on.
        precision: resolved.
        plan: what is computed.
        cache_bytes: GDAL cache that fits the reading.
    """

    options: PredictOptions
    meta: CheckpointMeta
    checkpoint: Path
    scenes: tuple[Scene, ...]
    aligned: Aligned | None
    grid: Grid
    source: Source
    device: torch.device
    precision: str
    plan: Plan
    cache_bytes: int
    _stack: ExitStack = field(repr=False)

    def close(self) -> None:
        """Close the files."""
        self._stack.close()

    def memory_forecast(self) -> int:
        """Bytes that a run will take beside the model and what it needs inside."""
        plan = self.plan
        bands = sum(self.source.bands)
        cuts = plan.cols.cuts
        widest = max(cuts[b] - cuts[a] for a, b in zip(plan.strips, plan.strips[1:], strict=False))
        widest += 2 * (plan.cols.tile - min(plan.cols.tile, plan.cols.stride))
        columns = min(widest, self.grid.width)
        return (
            columns * column_bytes(plan.rows, plan.channels(), bands)
            + batch_bytes(plan.rows, plan.cols, plan.channels(), bands, plan.batch_size)
            + self.cache_bytes
        )

    def disk_forecast(self) -> int:
        """Bytes that blocks, assembled file and overviews together will take, roughly.

        Masks deflate to about a twentieth, probabilities to about half of their size.
        """
        pixels = self.grid.height * self.grid.width
        share = 0.0
        for name, layer in self.plan.layers.items():
            packed = 0.05 if name == "mask" else 0.5
            share += packed * layer.count * (2 if layer.dtype == "uint16" else 1)
        return int(pixels * share * (1 + 1 + 4 / 3)) + (1 << 16)


def prepare(
    task: str, paths: tuple[str, ...], options: PredictOptions, on_event: EventHandler
) -> Prepared:
    """Open the inputs, read the checkpoint's metadata and make the plan.

    Args:
        task: "segmentation" (one path) or "change" (two).
        paths: scenes in the order of the model's arguments.
        options: as asked for.
        on_event: told what the user should know.

    Raises:
        InputError: a scene, mask, AOI or option cannot be used.
        CheckpointError: the model file cannot be used.
        DeviceError: the device is not there.
    """
    checkpoint = checkpoint_path(options.model, task)
    meta = read_task_meta(checkpoint, task)
    if meta.demo:
        on_event(Warned(DEMO_WARNING, essential=True))
    device = resolve_device(options.device)
    precision = resolve_precision(options.precision, device)
    check_threshold(options.threshold, len(meta.classes))
    with ExitStack() as stack:
        base = 1 if task == "change" and options.grid == "t2" else 0
        scenes = tuple(
            stack.enter_context(_open(path, spec, options, with_mask=i == base))
            for i, (path, spec) in enumerate(zip(paths, meta.inputs, strict=True))
        )
        grid = scenes[base].grid
        readers: list[Reader] = list(scenes)
        aligned = None
        if task == "change":
            other = 1 - base
            aligned = align(scenes[other], grid, scenes[base].path, meta.inputs[other].resampling)
            readers[other] = aligned
        selection = None
        if options.aoi is not None or options.bbox is not None:
            selection = Selection(grid, options.aoi, options.bbox, options.bbox_crs)
        _warn(scenes, base, meta, selection, on_event)
        source = Source(readers, meta.inputs, selection)
        plan = _plan(task, scenes, grid, meta, options, device, precision)
        rows = min(plan.rows.tile, grid.height)
        cache = sum(scene.cache_bytes(rows) for scene in scenes)
        cache = max(_CACHE_LEAST, min(cache, options.memory_bytes() // 4))
        prepared = Prepared(
            options, meta, checkpoint, scenes, aligned, grid, source, device, precision, plan,
            cache, stack.pop_all(),
        )  # fmt: skip
        forecast, bound = prepared.memory_forecast(), options.memory_bytes()
        if forecast > bound:
            on_event(
                Warned(
                    f"about {forecast / 2**30:.1f} GiB are needed beside the model, more than "
                    f"--memory {bound / 2**30:.1f} GiB; a smaller --tile or --batch-size needs less"
                )
            )
        return prepared


DEMO_WARNING = (
    "this is the embedded demonstration model, trained on drawn scenes only: its map says nothing "
    "about the real world and is tagged as such. Give a trained checkpoint with --model FILE."
)


def _open(path: str, spec: InputSpec, options: PredictOptions, with_mask: bool) -> Scene:
    return open_scene(
        path,
        bands=options.bands,
        nodata=options.nodata,
        nodata_rule=options.nodata_rule,
        mask=options.mask if with_mask else None,
        expected_bands=len(spec.bands),
        expected_names=spec.bands,
        fallback_nodata=spec.nodata,
    )


def _warn(
    scenes: tuple[Scene, ...],
    base: int,
    meta: CheckpointMeta,
    selection: Selection | None,
    on_event: EventHandler,
) -> None:
    messages: list[str | None] = []
    for scene, spec in zip(scenes, meta.inputs, strict=True):
        messages.append(f"{scene.path}: {scene.note}" if scene.note else None)
        messages += input_warnings(scene, spec)
    messages.append(gsd_warning(scenes[base], meta))
    messages.append(georeference_warning([scenes[base]]))
    messages.append(selection.note if selection is not None else None)
    for message in messages:
        if message:
            on_event(Warned(message))


def _plan(
    task: str,
    scenes: tuple[Scene, ...],
    grid: Grid,
    meta: CheckpointMeta,
    options: PredictOptions,
    device: torch.device,
    precision: str,
) -> Plan:
    tile = meta.tile if options.tile is None else options.tile
    overlap = meta.overlap if options.overlap is None else options.overlap
    trim = meta.trim if options.trim is None else options.trim
    rows, cols = plan_axes(grid.shape, tile, overlap, trim, options.blend, meta.size_multiple)
    batch = (
        auto_batch_size((rows.tile, cols.tile), device.type)
        if options.batch_size == "auto"
        else options.batch_size
    )
    classes = len(meta.classes)
    threshold = None
    if classes == 2:
        threshold = meta.threshold if options.threshold is None else options.threshold
    channels = 1 if classes == 2 else classes
    bands = sum(len(spec.bands) for spec in meta.inputs)
    strips = plan_strips(rows, cols, channels, bands, batch, options.memory_bytes())
    values = tuple(c.value for c in meta.classes)
    wide = max(values) >= 255
    nodata = 65535 if wide else 255
    layers = {"mask": Layer(1, "uint16" if wide else "uint8", nodata)}
    if options.probabilities is not None:
        layers["probabilities"] = Layer(channels, "uint8", QUANTITY_NODATA)
    if options.uncertainty is not None:
        layers["uncertainty"] = Layer(1, "uint8", QUANTITY_NODATA)
    resolved = resolved_options(
        options, rows.tile, cols.tile, rows.stride, cols.stride, trim, batch,
        threshold, device, precision,
    )  # fmt: skip
    if task == "change":
        resolved["grid"] = options.grid
    description: dict[str, Any] = {
        "format": PLAN_FORMAT,
        "version": rsmamba_cli.__version__,
        "task": task,
        "inputs": [scene.identity() for scene in scenes],
        "checkpoint": {"sha256": meta.sha256, "architecture": meta.architecture},
        "options": resolved,
        "aoi": None if options.aoi is None else local_identity(options.aoi),
        "output": {name: [layer.count, layer.dtype] for name, layer in layers.items()},
        "strips": list(strips),
        "_paths": [scene.path for scene in scenes],
    }
    return Plan(rows, cols, strips, batch, layers, values, nodata, threshold, description)


def resolved_options(
    options: PredictOptions,
    tile_rows: int,
    tile_cols: int,
    stride_rows: int,
    stride_cols: int,
    trim: int,
    batch: int,
    threshold: float | None,
    device: torch.device,
    precision: str,
) -> dict[str, Any]:
    """The options that the answer depends on, every default filled in, as JSON values."""
    return {
        "tile": [tile_rows, tile_cols],
        "stride": [stride_rows, stride_cols],
        "trim": trim,
        "blend": options.blend,
        "tta": options.tta,
        "threshold": threshold,
        "batch_size": batch,
        "device": device.type,
        "precision": precision,
        "bbox": None if options.bbox is None else list(options.bbox),
        "bbox_crs": options.bbox_crs,
    }


def tags(prepared: Prepared) -> dict[str, str]:
    """Provenance for the outputs: no times, no paths, nothing about how the work was shared."""
    meta = prepared.meta
    description: Mapping[str, Any] = prepared.plan.description
    found = {
        "RSMAMBA_VERSION": str(description["version"]),
        "RSMAMBA_ARCHITECTURE": meta.architecture,
        "RSMAMBA_TASK": meta.task,
        "RSMAMBA_CHECKPOINT_SHA256": meta.sha256,
        "RSMAMBA_OPTIONS": canonical_json(description["options"]),
        "RSMAMBA_LICENCE": meta.licence,
        "RSMAMBA_CITATION": meta.citation,
        "RSMAMBA_DEMO": DEMO_WARNING.split(". ")[0] if meta.demo else "",
    }
    return {name: value for name, value in found.items() if value}
