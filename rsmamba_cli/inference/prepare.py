"""Everything that is settled before the first window: inputs, checkpoint, device, plan."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rsmamba_cli.errors import InputError, ResumeError
from rsmamba_cli.events import EventHandler, Warned, ignore_events
from rsmamba_cli.inference.checkpoint import checkpoint_path, load_model, read_task_meta
from rsmamba_cli.inference.checks import georeference_warning, input_warnings, working_grid
from rsmamba_cli.inference.device import precision_warning, resolve_device, resolve_precision
from rsmamba_cli.inference.emit import SCORES
from rsmamba_cli.inference.inputs import Inputs, open_inputs
from rsmamba_cli.inference.options import PredictOptions
from rsmamba_cli.inference.plan import (
    RESERVE_BYTES,
    Plan,
    batch_bytes,
    check_threshold,
    column_bytes,
)
from rsmamba_cli.inference.planning import (
    make_plan,
    pixel_bytes,
    plan_reading,
    widest_reading,
)
from rsmamba_cli.inference.predictor import Predictor
from rsmamba_cli.inference.sampler import resolve_sampler, set_sampler
from rsmamba_cli.inference.source import Source
from rsmamba_cli.raster.blocks import Layer, canonical_json
from rsmamba_cli.raster.grid import Grid
from rsmamba_cli.raster.resample import Axis, Resampled
from rsmamba_cli.raster.selection import Selection
from rsmamba_cli.raster.store import block_id
from rsmamba_models import CheckpointMeta

_PACKED = {"mask": 0.05, SCORES: 0.9}
_QUANTITY_PACKED = 0.5
"""Bytes that a byte takes deflated: of layers by name, and of any other (probabilities)."""
_POLYGONS_PACKED = 0.7
"""Bytes of polygons a pixel: the most that maps of towns took."""
_MODEL_BYTES = 2 << 10
"""A pixel of a window, inside a model: what the models of the zoo take is 0.1 to 1.2 KiB."""
_BESIDE = 4
"""Pixels around a selection within which resampling may look for it."""


@dataclass
class Prepared:
    """A run that is ready to start; close it when done.

    Attributes:
        options: as asked for.
        meta: of the checkpoint.
        checkpoint: its file.
        inputs: opened, in the order of the model's arguments.
        grid: of the outputs.
        source: what the engine reads, on the grid of the windows: that of the outputs, or a
            coarser or finer one of the same area.
        map_source: the same on the grid of the outputs.
        device: to run on.
        precision: resolved.
        sampler: settings of a diffusion model's sampler, "seed" among them, or None.
        plan: what is computed.
        cache_bytes: GDAL cache that fits the reading.
    """

    options: PredictOptions
    meta: CheckpointMeta
    checkpoint: Path
    inputs: Inputs
    grid: Grid
    source: Source
    map_source: Source
    device: torch.device
    precision: str
    sampler: dict[str, Any] | None
    plan: Plan
    cache_bytes: int
    _stack: ExitStack = field(repr=False)

    def close(self) -> None:
        """Close the files."""
        self._stack.close()

    def block_id(self) -> str:
        """What the blocks of this run are filed under."""
        return block_id(self.plan.description, self.plan.layout)

    def refuse_changed_inputs(self) -> None:
        """Make sure that the inputs are still the files that were opened.

        Raises:
            ResumeError: one is not.
        """
        before = self.plan.description["inputs"]
        for scene, identity in zip(self.inputs.given, before, strict=True):
            if scene.identity() != identity:
                raise ResumeError(
                    f"{scene.path}: was changed while it was being mapped, so what is finished may "
                    "be of two states; start anew with --overwrite when nothing writes to it"
                )

    def predictor(self, on_event: EventHandler = ignore_events, bounded: bool = True) -> Predictor:
        """Load the model on to its device.

        Args:
            on_event: told when the device turns out to be too small for the batches.
            bounded: whether the memory bound has to be kept.

        Raises:
            CheckpointError: damaged, or changed since its metadata was read.
            InputError: the memory bound leaves too little for it.
        """
        model = load_model(self.checkpoint, self.meta)
        seed = 0
        if self.sampler is not None:
            set_sampler(model, self.sampler)
            seed = self.sampler["seed"]
        predictor = Predictor(
            model,
            self.meta,
            self.device,
            self.precision,
            self.plan.batch_size,
            self.options.tta,
            seed,
            on_event,
        )
        if bounded and (complaint := self.memory_complaint(predictor)):
            raise InputError(complaint)
        return predictor

    def memory_forecast(self) -> int:
        """Bytes that a worker will take beside the model and what it needs inside."""
        plan, bands = self.plan, sum(self.source.bands)
        fixed = batch_bytes(plan.rows, plan.cols, plan.channels(), bands, plan.batch_size)
        column = column_bytes(plan.rows, plan.channels(), bands, pixel_bytes(plan.layout.layers))
        return widest_reading(plan) * column + fixed + RESERVE_BYTES + self.cache_bytes

    def memory_complaint(self, predictor: Predictor | None = None) -> str:
        """Why the memory bound cannot be kept, and what would help; "" if it can.

        Args:
            predictor: to look into as well. What it needs on a GPU is not counted.
        """
        share = self.options.memory_bytes() // self.options.workers
        needed = self.memory_forecast()
        what = f"about {_mebibytes(needed)} are needed beside the model"
        if needed <= share and predictor is not None and self.device.type == "cpu":
            batch, (height, width) = self.plan.batch_size, self.plan.window_shape
            most = predictor.fixed_bytes() + batch * height * width * _MODEL_BYTES
            if most > share - needed:
                inside = predictor.memory_forecast(self.source.bands, (height, width))
                needed += inside
                what = (
                    f"about {_mebibytes(needed)} are needed, {_mebibytes(inside)} of them in the "
                    f"model for a batch of {batch} windows of {height} x {width} pixels"
                )
        if needed <= share:
            return ""
        workers = self.options.workers
        more = "" if workers == 1 else f" for each of {workers} workers"
        smaller = " or --batch-size" if self.plan.batch_size > 1 else ""
        return (
            f"{what}, and --memory allows {_mebibytes(share)}{more}: use --memory "
            f"{-(-needed * workers // 2**20)}MiB or more, or a smaller --tile{smaller}"
        )

    def disk_forecast(self) -> int:
        """Bytes of disk that a run takes at most at one time, roughly.

        There are the blocks, the outputs, and the raster that is being assembled.
        """
        plan, pixels = self.plan, self.grid.height * self.grid.width
        stored = plan.rows.length * plan.cols.length
        blocks = stored * sum(_packed(name, layer) for name, layer in plan.layout.layers.items())
        layers = [pixels * _packed(name, layer) for name, layer in plan.layers.items()]
        # Overviews are a third more.
        outputs = sum(layers) * 4 / 3
        if self.options.polygons is not None:
            outputs += pixels * _POLYGONS_PACKED
        return int(blocks + outputs + max(layers)) + (1 << 16)


def _packed(name: str, layer: Layer) -> float:
    """Bytes that a pixel of a layer takes, roughly."""
    packed = _PACKED.get(name, _QUANTITY_PACKED)
    return packed * layer.count * np.dtype(layer.dtype).itemsize


def prepare(
    task: str,
    paths: tuple[str, ...],
    options: PredictOptions,
    on_event: EventHandler,
    strips: Sequence[int] | None = None,
) -> Prepared:
    """Open the inputs, read the checkpoint's metadata and make the plan.

    Args:
        task: "segmentation" (one scene, of one modality or two) or "change" (two scenes).
        paths: the scenes; none where ``options.sar`` is all there is.
        options: as asked for.
        on_event: told what the user should know.
        strips: how the columns are cut (see `Plan.strips`), for a run that others have begun; None
            cuts them by the memory.

    Raises:
        InputError: a scene, mask, AOI or option cannot be used.
        CheckpointError: the model file cannot be used.
        DeviceError: the device is not there.
    """
    tasks = _possible_tasks(task, options)
    checkpoint = checkpoint_path(options.model, tasks[0])
    meta = read_task_meta(checkpoint, tasks)
    if meta.demo:
        on_event(Warned(DEMO_WARNING, essential=True))
    return prepare_model(checkpoint, meta, paths, options, on_event, strips)


def prepare_model(
    checkpoint: Path,
    meta: CheckpointMeta,
    paths: tuple[str, ...],
    options: PredictOptions,
    on_event: EventHandler,
    strips: Sequence[int] | None = None,
) -> Prepared:
    """As `prepare`, for a model whose metadata is at hand; ``checkpoint`` is read when it is built.

    Raises:
        InputError: a scene, mask, AOI or option cannot be used.
        DeviceError: the device is not there.
    """
    device = resolve_device(options.device)
    precision = resolve_precision(options.precision, device)
    if message := precision_warning(precision, device):
        on_event(Warned(message))
    check_threshold(options.threshold, len(meta.classes))
    sampler = resolve_sampler(meta, options)
    with ExitStack() as stack:
        inputs = open_inputs(paths, meta, options, stack)
        grid = inputs.grid
        selection = None
        if options.aoi is not None or options.bbox is not None:
            selection = Selection(grid, options.aoi, options.bbox, options.bbox_crs)
        _warn(inputs, meta, selection, on_event)
        map_source = source = Source(inputs.readers, meta.inputs, selection)
        working, message = working_grid(inputs.base_scene, meta, options.resample)
        if message:
            on_event(Warned(message))
        if working is not None:
            if options.update:
                raise InputError(
                    "--update is for scenes of the model's own pixel size, and this one is brought "
                    "to it first; make the map anew with --overwrite"
                )
            readers = [None if r is None else Resampled(r, working) for r in inputs.readers]
            nearby = None if selection is None else _Nearby(selection, grid, working)
            source = Source(readers, meta.inputs, nearby)
        plan = make_plan(inputs, working, meta, options, device, precision, sampler, strips)
        source.rows_at_once, cache = plan_reading(inputs, plan, source, options)
        return Prepared(
            options, meta, checkpoint, inputs, grid, source, map_source, device, precision,
            sampler, plan, cache, stack.pop_all(),
        )  # fmt: skip


def _mebibytes(number: int) -> str:
    return f"{number / 2**20:,.0f} MiB"


DEMO_WARNING = (
    "this is the embedded demonstration model, trained on drawn scenes only: its map says nothing "
    "about the real world and is tagged as such. Give a trained checkpoint with --model FILE."
)


def _possible_tasks(task: str, options: PredictOptions) -> tuple[str, ...]:
    """Tasks of the models that can do what is asked for.

    Raises:
        InputError: a second modality for two dates.
    """
    sar = options.sar is not None or options.sar_bands is not None
    if task != "segmentation":
        if sar:
            raise InputError("--sar and --sar-bands are options of predict, not of change")
        return (task,)
    return ("multimodal",) if sar else ("segmentation", "multimodal")


def _warn(
    inputs: Inputs,
    meta: CheckpointMeta,
    selection: Selection | None,
    on_event: EventHandler,
) -> None:
    messages: list[str | None] = []
    for scene, spec in zip(inputs.scenes, meta.inputs, strict=True):
        if scene is None:
            messages.append(f"there is no {spec.name} image: the model is fed zeros in its place")
            continue
        messages.append(f"{scene.path}: {scene.note}" if scene.note else None)
        messages += input_warnings(scene, spec)
    messages.append(georeference_warning([inputs.base_scene]))
    messages.append(selection.note if selection is not None else None)
    for message in messages:
        if message:
            on_event(Warned(message))


class _Nearby:
    """The parts of a working grid that a selection on the map's grid reaches into.

    Which pixels are answered is settled on the map's grid; here it is about sparing windows.
    """

    def __init__(self, selection: Selection, grid: Grid, working: Grid) -> None:
        self._selection = selection
        self._rows = Axis(grid.height, working.height)
        self._cols = Axis(grid.width, working.width)

    def touches(self, row: int, col: int, height: int, width: int) -> bool:
        """Whether a window of the working grid has anything to do with the selection."""
        top, bottom = self._rows.reach(row, row + height)
        left, right = self._cols.reach(col, col + width)
        return self._selection.touches(
            top - _BESIDE, left - _BESIDE, bottom - top + 2 * _BESIDE, right - left + 2 * _BESIDE
        )

    def read(self, row: int, col: int, height: int, width: int) -> npt.NDArray[np.bool_]:
        """True for all pixels of a window that touches."""
        return np.full((height, width), self.touches(row, col, height, width))


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
