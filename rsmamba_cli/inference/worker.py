"""What a worker does, in whatever process and on whatever machine: compute one chunk of a plan.

A worker gets a `RunSpec`, which is small and can be pickled. It opens the inputs and makes the plan
for itself, refuses if that is not the plan of the run, and commits every band of its chunk to the
run's working folder, which it shares with the others (a local disk, or a network mount).
"""

import contextlib
import ctypes
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rsmamba_cli.errors import Interrupted, OutputError, ResumeError
from rsmamba_cli.events import Event, Warned, ignore_events
from rsmamba_cli.inference.device import torch_threads
from rsmamba_cli.inference.engine import InProcessEngine
from rsmamba_cli.inference.options import PredictOptions
from rsmamba_cli.inference.plan import Chunk
from rsmamba_cli.inference.predictor import LazyPredictor
from rsmamba_cli.inference.prepare import Prepared, prepare
from rsmamba_cli.raster.blocks import BLOCK_FOLDER, Blocks
from rsmamba_cli.raster.lock import holder
from rsmamba_cli.raster.opening import gdal_settings


@dataclass(frozen=True)
class RunSpec:
    """Everything that a worker needs to know of a run.

    Attributes:
        task: "segmentation", "change" or "multimodal".
        paths: the scenes, in the order of the model's arguments.
        options: of the run.
        strips: how the run's plan is cut (see `Plan.strips`).
        folder: the working folder.
        lock: the run's lock file; where it has another holder, the run has ended.
        run: who holds the lock.
        plan_id: what the blocks are filed under.
    """

    task: str
    paths: tuple[str, ...]
    options: PredictOptions
    strips: tuple[int, ...]
    folder: str
    lock: str
    run: str
    plan_id: str


@dataclass(frozen=True)
class ChunkResult:
    """What became of a chunk.

    Attributes:
        chunk: the chunk.
        computed: windows that went through the model.
        where: host and process.
        warnings: what the user should know.
    """

    chunk: Chunk
    computed: int
    where: str
    warnings: tuple[str, ...] = ()


class _Opened(threading.local):
    """The run that this thread of a worker has open: rasters must not be shared by threads."""

    spec: RunSpec | None = None
    device: str | None = None
    prepared: Prepared | None = None
    predictor: LazyPredictor | None = None
    store: Blocks | None = None
    warnings: tuple[str, ...] = ()


_opened = _Opened()


def compute_chunk(
    spec: RunSpec,
    chunk: Chunk,
    device: str | None = None,
    check: Callable[[], None] = lambda: None,
) -> ChunkResult:
    """Compute a chunk and commit its bands.

    Args:
        spec: the run.
        chunk: bands that are not finished yet.
        device: where to compute instead of the options' device (one GPU of several).
        check: called often; raises to stop the work.

    Raises:
        Interrupted: the run that the chunk belongs to has ended.
        OutputError: the working folder is not to be seen here, or cannot be written.
        ResumeError: inputs, checkpoint or version differ from those of the run.
        RsmambaError: as `predict`.
    """
    prepared, predictor, store = _open(spec, device)

    def still_wanted() -> None:
        check()
        if holder(Path(spec.lock)) != spec.run:
            raise Interrupted("the run that this chunk belongs to has ended")

    still_wanted()
    # A task that is run again, because its worker vanished, finds what the other had committed.
    store.refresh()
    bands = tuple(band for band in chunk.bands if (band, chunk.strip) not in store.done)
    if not bands:
        return ChunkResult(chunk, 0, worker_name())
    engine = InProcessEngine(prepared.source, ignore_events, still_wanted)
    with gdal_settings(prepared.cache_bytes), torch_threads(spec.options.threads):
        computed = engine.run(prepared.plan, predictor, store, [replace(chunk, bands=bands)])
    warnings, _opened.warnings = _opened.warnings, ()
    return ChunkResult(chunk, computed, worker_name(), warnings)


def _note(event: Event) -> None:
    """Keep a warning for the result of the chunk."""
    if isinstance(event, Warned):
        _opened.warnings = (*_opened.warnings, f"{worker_name()}: {event.message}")


def worker_name() -> str:
    """Host, process and thread, fit for a file name."""
    return f"{socket.gethostname()}-{os.getpid()}-{threading.get_native_id()}"


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_KEPT = 32 << 20


def keep_freed_memory() -> None:
    """Let the C library keep freed memory for the next pass, where Dask has told it not to.

    Dask starts its workers with ``MALLOC_TRIM_THRESHOLD_=65536``. Every tensor of more than
    128 KiB then comes from the kernel and goes back to it, page by page, which doubles the time of
    a model on the CPU. What is set here is where glibc arrives by itself otherwise.
    """
    if "MALLOC_TRIM_THRESHOLD_" not in os.environ:
        return
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
        libc.mallopt(_M_TRIM_THRESHOLD, 2 * _LARGEST_KEPT)


def _open(spec: RunSpec, device: str | None) -> tuple[Prepared, LazyPredictor, Blocks]:
    """The run, opened once in each thread."""
    if _opened.spec != spec or _opened.device != device:
        if _opened.prepared is not None:
            _opened.prepared.close()
            _opened.prepared = _opened.predictor = _opened.spec = None
        folder = Path(spec.folder)
        if not (folder / BLOCK_FOLDER).is_dir():
            raise OutputError(
                f"{folder}: cannot be seen on {socket.gethostname()}; workers need the output's "
                "folder under the same path (a network mount)"
            )
        keep_freed_memory()
        options = spec.options if device is None else replace(spec.options, device=device)
        prepared = prepare(spec.task, spec.paths, options, ignore_events, spec.strips)
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.closing(prepared))
            store = Blocks(folder, prepared.plan.layout, prepared.block_id(), worker_name())
            if store.plan_id != spec.plan_id:
                raise ResumeError(
                    f"{folder}: on {socket.gethostname()} this is another run: inputs, checkpoint, "
                    "device or version of rsmamba differ there from those of the run that was begun"
                )
            stack.pop_all()
        _opened.prepared = prepared
        _opened.warnings = ()
        _opened.predictor = LazyPredictor(partial(prepared.predictor, _note))
        _opened.store = store
        _opened.spec, _opened.device = spec, device
    assert _opened.prepared and _opened.predictor and _opened.store
    return _opened.prepared, _opened.predictor, _opened.store
