"""One run from inputs to outputs: working folder, engine, products."""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rsmamba_cli.errors import InputError, Interrupted, OutputError, ResumeError
from rsmamba_cli.events import EventHandler, Warned
from rsmamba_cli.inference.device import (
    resolve_devices,
    scan_backend,
    torch_threads,
)
from rsmamba_cli.inference.engine import Engine, InProcessEngine
from rsmamba_cli.inference.interrupt import interruptible
from rsmamba_cli.inference.options import PredictOptions, PredictResult
from rsmamba_cli.inference.plan import Chunk
from rsmamba_cli.inference.predictor import LazyPredictor
from rsmamba_cli.inference.prepare import Prepared, prepare
from rsmamba_cli.inference.products import Outputs, Tally
from rsmamba_cli.raster.align import Aligned
from rsmamba_cli.raster.opening import gdal_settings
from rsmamba_cli.raster.registration import residual_shift
from rsmamba_cli.raster.store import Store, partial_folder, read_plan
from rsmamba_cli.resident import peak_bytes

Name = str | os.PathLike[str]
_SHIFT_WORTH_TELLING = 1.0


def run(
    task: str,
    inputs: tuple[Name, ...],
    outputs: Outputs,
    options: PredictOptions,
    on_event: EventHandler,
    compute: bool = True,
) -> PredictResult:
    """Compute a map and write it, or a part of it.

    Args:
        task: "segmentation" or "change".
        inputs: scenes, in the order of the model's arguments.
        outputs: what is written.
        options: see `PredictOptions`.
        on_event: told about progress and warnings.
        compute: whether what is missing is computed; False refuses instead.

    Raises:
        RsmambaError: see `predict`.
    """
    began = time.perf_counter()
    paths = tuple(os.fspath(path) for path in inputs)
    more = (options.sar, options.mask, options.aoi, options.model)
    reads = [*paths, *(os.fspath(p) for p in more if p)]
    skip = outputs.there(reads, options)
    devices = resolve_devices(options.device, options.workers)
    options = replace(options, device=devices[0], workers=len(devices))
    folder = partial_folder(outputs.main)
    begun = read_plan(folder) if options.resume or options.shard else None
    with contextlib.ExitStack() as stack:
        check = stack.enter_context(interruptible())
        prepared = stack.enter_context(
            contextlib.closing(
                prepare(task, paths, options, on_event, (begun or {}).get("_strips"))
            )
        )
        if skip or outputs.finished_before(prepared):
            return _result(prepared, outputs, began, None, 0, {}, skipped=True)
        if options.min_area and prepared.grid.world_crs is None:
            raise InputError(
                "--min-area is in square metres, and the scene has no CRS to measure with"
            )
        if complaint := prepared.memory_complaint():
            raise InputError(complaint)
        stack.enter_context(gdal_settings(prepared.cache_bytes))
        stack.enter_context(torch_threads(options.threads))
        details = _alignment_details(prepared, on_event)
        store = Store(
            outputs.main,
            _with_command(prepared, task, paths),
            prepared.plan.layout,
            resume=options.resume,
            restart=(options.overwrite or options.update) and not (options.resume or options.shard),
            shard=options.shard,
        )
        store.kept_bytes = min(store.kept_bytes, options.memory_bytes() // 8)
        with store:
            try:
                _check_space(prepared, store)
                if options.update and not store.done:
                    outputs.reuse(prepared, store, check)
                chunks = _chunks(prepared, store)
                if chunks and not compute:
                    raise ResumeError(_unfinished(prepared, store))
                engine = _engine(prepared, task, paths, store, devices, on_event, check)
                predictor = LazyPredictor(lambda: prepared.predictor(on_event))
                computed = engine.run(prepared.plan, predictor, store, chunks)
                prepared.refuse_changed_inputs()
                if options.shard is not None:
                    details |= _shard_details(store, options.shard)
                    return _result(prepared, outputs, began, None, computed, details)
                tally = outputs.write(prepared, store, on_event, check)
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
                Warned(f"{outputs.main}: holds no answer anywhere: no valid pixel was asked for")
            )
        return _result(prepared, outputs, began, tally, computed, details)


def _with_command(prepared: Prepared, task: str, paths: Iterable[str]) -> dict[str, Any]:
    """The plan, with what `merge` needs to make the outputs."""
    command = {
        "task": task,
        "paths": _absolute(paths),
        "options": prepared.options.to_json(),
    }
    return {**prepared.plan.description, "_command": command}


def _absolute(paths: Iterable[str]) -> list[str]:
    """Local files by their full names; what only GDAL understands is left alone."""
    return [str(Path(p).absolute()) if Path(p).exists() else p for p in paths]


def _chunks(prepared: Prepared, store: Store) -> list[Chunk]:
    """What this run has to compute."""
    plan, shard = prepared.plan, prepared.options.shard
    if shard is None:
        return list(plan.chunks(done=store.done))
    part, parts = shard
    tall = plan.chunk_height(parts)
    mine = {
        (band, chunk.strip)
        for chunk in list(plan.chunks(tall))[part - 1 :: parts]
        for band in chunk.bands
    }
    others = set(plan.layout.block_keys()) - mine
    return list(plan.chunks(tall, others | store.done))


def _engine(
    prepared: Prepared,
    task: str,
    paths: Iterable[str],
    store: Store,
    devices: Sequence[str],
    on_event: EventHandler,
    check: Callable[[], None],
) -> Engine:
    """Whatever does the work: this process, several, or a cluster."""
    options = prepared.options
    if options.scheduler is None and len(devices) == 1:
        return InProcessEngine(prepared.source, on_event, check)
    from rsmamba_cli.inference.worker import RunSpec

    spec = RunSpec(
        task=task,
        paths=tuple(_absolute(paths)),
        options=options.with_absolute_paths(),
        strips=prepared.plan.strips,
        folder=str(store.folder),
        lock=str(store.lock.path),
        run=store.lock.run,
        plan_id=store.plan_id,
    )
    if options.scheduler is not None:
        from rsmamba_cli.inference.cluster import DaskEngine

        gpu = prepared.device.type == "cuda"
        return DaskEngine(spec, options.scheduler, gpu, on_event, check)
    from rsmamba_cli.inference.processes import ProcessEngine

    threads = options.threads or max(1, torch.get_num_threads() // len(devices))
    return ProcessEngine(spec, devices, threads, on_event, check)


def _unfinished(prepared: Prepared, store: Store) -> str:
    total = len(prepared.plan.layout.block_keys())
    return (
        f"{store.folder}: {total - len(store.done)} of {total} blocks are not finished: run the "
        "missing parts (--shard I/N) again, or let `--resume` without a part compute the rest"
    )


def _shard_details(store: Store, shard: tuple[int, int]) -> dict[str, Any]:
    store.refresh()
    return {
        "shard": f"{shard[0]}/{shard[1]}",
        "blocks": len(store.layout.block_keys()),
        "blocks_done": len(store.done),
    }


def _how_to_go_on(store: Store) -> str:
    if not store.done:
        return "nothing was finished yet, so nothing is kept"
    total = len(store.layout.block_keys())
    return (
        f"{len(store.done)} of {total} blocks are kept in {store.folder}: run the same command "
        "with --resume to go on"
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


def _check_space(prepared: Prepared, store: Store) -> None:
    """Refuse what will not fit on the disk; finished blocks of a resumed run are there already.

    Raises:
        OutputError: says how much is missing.
    """
    needed = prepared.disk_forecast() - store.block_bytes()
    free = shutil.disk_usage(store.folder).free
    if needed > free:
        raise OutputError(
            f"{store.folder.parent}: about {needed / 2**20:.1f} MiB are needed and "
            f"{free / 2**20:.1f} MiB are free; make room or write elsewhere"
        )


def _result(
    prepared: Prepared,
    outputs: Outputs,
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
        output=outputs.main,
        files=dict(outputs.files),
        width=grid.width,
        height=grid.height,
        windows=plan.windows,
        windows_computed=computed,
        pixels_per_class=pixels,
        area_m2_per_class=area,
        seconds=seconds,
        megapixels_per_second=grid.height * grid.width / 1e6 / seconds,
        peak_memory_bytes=peak_bytes(),
        device=str(prepared.device),
        precision=prepared.precision,
        backend=scan_backend(prepared.device),
        model=prepared.meta.architecture,
        skipped=skipped,
        details=details,
    )
