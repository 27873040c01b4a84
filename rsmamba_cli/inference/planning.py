"""From options and inputs to a plan: axes, layers, strips, and how much is read at a time."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

import rsmamba_cli
from rsmamba_cli.inference.emit import QUANTITY_NODATA, SCORE_NODATA, SCORES
from rsmamba_cli.inference.inputs import Inputs
from rsmamba_cli.inference.options import PredictOptions
from rsmamba_cli.inference.plan import (
    CACHE_SHARE,
    NARROWEST_STRIP,
    Plan,
    auto_batch_size,
    plan_axes,
    plan_strips,
)
from rsmamba_cli.inference.source import ROWS_AT_LEAST, Source, rows_at_once
from rsmamba_cli.raster.blend import shared
from rsmamba_cli.raster.blocks import Layer
from rsmamba_cli.raster.grid import Grid
from rsmamba_cli.raster.opening import local_identity
from rsmamba_models import CheckpointMeta

PLAN_FORMAT = 1
_CACHE_LEAST = 16 << 20


def make_plan(
    inputs: Inputs,
    working: Grid | None,
    meta: CheckpointMeta,
    options: PredictOptions,
    device: torch.device,
    precision: str,
    sampler: dict[str, Any] | None,
    strips: Sequence[int] | None,
) -> Plan:
    """Settle what is computed, and describe it so that a resumed run can compare.

    Args:
        inputs: opened.
        working: the grid of the windows where it is not the outputs'.
        meta: of the checkpoint.
        options: as asked for.
        device: to run on.
        precision: resolved.
        sampler: of a diffusion model, or None.
        strips: how the columns are cut, for a run that others have begun; None cuts by the memory.

    Raises:
        InputError: tile, overlap or trim do not fit together.
    """
    tile = meta.tile if options.tile is None else options.tile
    overlap = meta.overlap if options.overlap is None else options.overlap
    trim = meta.trim if options.trim is None else options.trim
    shape = (working or inputs.grid).shape
    rows, cols = plan_axes(shape, tile, overlap, trim, options.blend, meta.size_multiple)
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
    values = tuple(c.value for c in meta.classes)
    wide = max(values) >= 255
    nodata = 65535 if wide else 255
    layers = {"mask": Layer(1, "uint16" if wide else "uint8", nodata)}
    if options.probabilities is not None:
        layers["probabilities"] = Layer(channels, "uint8", QUANTITY_NODATA)
    if options.uncertainty is not None:
        layers["uncertainty"] = Layer(1, "uint8", QUANTITY_NODATA)
    stored = None if working is None else {SCORES: Layer(channels, "uint16", SCORE_NODATA)}
    if strips is None or strips[-1] != len(cols.starts):
        share = options.memory_bytes() // options.workers
        depth = pixel_bytes(stored or layers)
        width = inputs.grid.width
        cached = sum(scene.cache_bytes(ROWS_AT_LEAST, width) for scene in inputs.given) // width
        strips = plan_strips(rows, cols, channels, bands, depth, batch, share, cached)
        if options.update:  # narrow ones: what is left alone is left alone by blocks
            count = len(cols.starts)
            strips = (*range(0, count, NARROWEST_STRIP), count)
    resolved = _resolved_options(
        options, rows.tile, cols.tile, rows.stride, cols.stride, trim, batch,
        threshold, device, precision,
    )  # fmt: skip
    if meta.task == "change":
        resolved["grid"] = options.grid
    if working is not None:
        resolved["resampled"] = list(shape)
    if sampler is not None:
        resolved["sampler"] = sampler
    names = [spec.name for spec in meta.inputs]
    if missing := [n for n, s in zip(names, inputs.scenes, strict=True) if s is None]:
        resolved["missing"] = missing
    description: dict[str, Any] = {
        "format": PLAN_FORMAT,
        "version": rsmamba_cli.__version__,
        "task": meta.task,
        "inputs": [scene.identity() for scene in inputs.given],
        "checkpoint": {"sha256": meta.sha256, "architecture": meta.architecture},
        "options": resolved,
        "aoi": None if options.aoi is None else local_identity(options.aoi),
        "output": {name: [layer.count, layer.dtype] for name, layer in layers.items()},
        "_strips": list(strips),
        "_paths": [scene.path for scene in inputs.given],
    }
    return Plan(
        rows, cols, tuple(strips), batch, layers, values, nodata, threshold, description, stored
    )  # fmt: skip


def _resolved_options(
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


def plan_reading(
    inputs: Inputs, plan: Plan, source: Source, options: PredictOptions
) -> tuple[int, int]:
    """Rows that are read at a time, and the cache with which no block is decoded twice for that."""
    height, width = inputs.grid.shape
    widest = widest_reading(plan)
    cols = math.ceil(widest * width / plan.cols.length)

    def needed(rows: int) -> int:
        rows = math.ceil(min(rows, plan.rows.tile) * height / plan.rows.length)
        return sum(scene.cache_bytes(rows, cols) for scene in inputs.given)

    share = options.memory_bytes() // options.workers
    rows = rows_at_once(sum(source.bands), widest)
    while needed(rows) > share // CACHE_SHARE and rows > ROWS_AT_LEAST:
        rows = max(ROWS_AT_LEAST, rows // 2)
    most = 2 * share // CACHE_SHARE
    if needed(rows) > most:
        # Blocks are decoded again for each reading: the fewer, the better.
        return plan.rows.tile, most
    return rows, max(_CACHE_LEAST, needed(rows))


def widest_reading(plan: Plan) -> int:
    """Columns that are read for the widest strip."""
    cuts = plan.cols.cuts
    widest = max(cuts[b] - cuts[a] for a, b in pairwise(plan.strips))
    return min(widest + 2 * shared(plan.cols), plan.cols.length)


def pixel_bytes(layers: Mapping[str, Layer]) -> int:
    """Bytes of a pixel in all layers."""
    return sum(layer.count * np.dtype(layer.dtype).itemsize for layer in layers.values())
