"""The engine of several local processes: N on the CPU, or one a GPU."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import torch

from rsmamba_cli.errors import Interrupted
from rsmamba_cli.events import EventHandler, ignore_events
from rsmamba_cli.inference.dispatch import WorkersLost, run_on_pool
from rsmamba_cli.inference.engine import BatchPredictor
from rsmamba_cli.inference.plan import Chunk, Plan
from rsmamba_cli.inference.worker import ChunkResult, RunSpec, compute_chunk
from rsmamba_cli.raster.blocks import Blocks


@dataclass(frozen=True)
class ProcessEngine:
    """Local worker processes, each with the model on a device of its own.

    Attributes:
        spec: the run.
        devices: one for each worker.
        threads: CPU threads of each worker.
        on_event: told about progress in windows.
        check: called often; raises to stop the run. Finished bands stay finished.
    """

    spec: RunSpec
    devices: Sequence[str]
    threads: int
    on_event: EventHandler = ignore_events
    check: Callable[[], None] = lambda: None

    def run(
        self,
        plan: Plan,
        predictor: BatchPredictor,
        store: Blocks,
        chunks: Sequence[Chunk] | None = None,
    ) -> int:
        """Compute what the store does not hold yet, or some chunks."""
        given = None if chunks is None else {(b, c.strip) for c in chunks for b in c.bands}
        tall = plan.chunk_height(len(self.devices))

        def left() -> list[Chunk]:
            if given is None:
                return list(plan.chunks(tall, store.done))
            others = set(plan.layout.block_keys()) - given
            return list(plan.chunks(tall, store.done | others))

        pool = _ProcessPool(self.spec, self.devices, self.threads)
        try:
            return run_on_pool(plan, store, pool, left, self.on_event, self.check)
        finally:
            pool.stop()


class _ProcessPool:
    """A pool of processes that is made anew when one of them dies."""

    def __init__(self, spec: RunSpec, devices: Sequence[str], threads: int) -> None:
        self._spec = spec
        self._devices = list(devices)
        self._threads = threads
        self._executor: ProcessPoolExecutor | None = None
        self._futures: set[Future[ChunkResult]] = set()

    def submit(self, chunks: Iterable[Chunk]) -> None:
        if self._executor is None:
            self._executor = self._start()
        for chunk in chunks:
            self._futures.add(self._executor.submit(_work, self._spec, chunk))

    def _start(self) -> ProcessPoolExecutor:
        # Forked children would share this process's threads, CUDA state and open rasters.
        context = multiprocessing.get_context("spawn")
        devices: Any = context.Queue()
        for device in self._devices:
            devices.put(device)
        return ProcessPoolExecutor(
            len(self._devices),
            mp_context=context,
            initializer=_initialise,
            initargs=(devices, self._threads, os.getpid()),
        )

    def wait(self, seconds: float) -> list[ChunkResult]:
        finished, self._futures = wait(self._futures, seconds, FIRST_COMPLETED)
        try:
            return [future.result() for future in finished]
        except BrokenProcessPool as error:
            self.stop()
            raise WorkersLost("a worker process died") from error

    def stop(self) -> None:
        executor, self._executor, self._futures = self._executor, None, set()
        if executor is None:
            return
        # Bands are committed one by one: a worker that is ended loses the one it is at.
        processes = list((executor._processes or {}).values())
        executor.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


_device: str | None = None
_parent = 0


def _initialise(devices: Any, threads: int, parent: int) -> None:
    global _device, _parent
    # Ctrl-C reaches the whole group; it is for the run to say what becomes of its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    _device, _parent = devices.get(), parent


def _work(spec: RunSpec, chunk: Chunk) -> ChunkResult:
    return compute_chunk(spec, chunk, _device, _check_parent)


def _check_parent() -> None:
    """Stop when the run was killed: nobody waits for this worker any more."""
    if os.getppid() != _parent:
        raise Interrupted("the run that this worker belongs to is gone")
