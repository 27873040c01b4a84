"""The engine of a Dask cluster: workers on any machines that share the output's folder."""

import contextlib
import queue
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rsmamba_cli.errors import DeviceError, InputError, RsmambaError
from rsmamba_cli.events import EventHandler, Warned, ignore_events
from rsmamba_cli.inference.dispatch import WorkersLost, run_on_pool
from rsmamba_cli.inference.engine import BatchPredictor
from rsmamba_cli.inference.plan import Chunk, Plan
from rsmamba_cli.inference.worker import ChunkResult, RunSpec, compute_chunk
from rsmamba_cli.raster.blocks import Blocks

_PATIENCE_SECONDS = 60
_RETRIES = 3


@dataclass(frozen=True)
class DaskEngine:
    """The workers of a running Dask scheduler.

    A chunk is one task. Tasks of a worker that vanishes are given to others by the scheduler;
    bands that it had committed are kept, since a task skips what is finished.

    Attributes:
        spec: the run.
        address: of the scheduler, such as ``tcp://host:8786``.
        gpu: ask for workers that were started with ``--resources "GPU=1"``.
        on_event: told about progress in windows.
        check: called often; raises to stop the run. Finished bands stay finished.
    """

    spec: RunSpec
    address: str
    gpu: bool
    on_event: EventHandler = ignore_events
    check: Callable[[], None] = lambda: None

    def run(
        self,
        plan: Plan,
        predictor: BatchPredictor,
        store: Blocks,
        chunks: Sequence[Chunk] | None = None,
    ) -> int:
        """Compute what the store does not hold yet, or some chunks.

        Raises:
            InputError: dask is not installed, or nobody answers at the address.
            DeviceError: the cluster has no workers that could do it.
        """
        client = _connect(self.address)
        try:
            workers = _count_workers(client, self.gpu)
            if not workers:
                self.on_event(Warned(f"{self.address}: has no workers yet; waiting for them"))
                workers = _await_workers(client, self.gpu, self.check)
            tall = plan.chunk_height(workers)
            others = (
                set()
                if chunks is None
                else set(plan.layout.block_keys()) - {(b, c.strip) for c in chunks for b in c.bands}
            )
            return run_on_pool(
                plan,
                store,
                _DaskPool(client, self.spec, self.gpu),
                lambda: list(plan.chunks(tall, store.done | others)),
                self.on_event,
                self.check,
            )
        finally:
            client.close()


def _connect(address: str) -> Any:
    try:
        from distributed import Client
    except ImportError as error:
        raise InputError(
            "--scheduler needs Dask, which is not installed; run pip install 'rsmamba[dask]' here "
            "and on the workers"
        ) from error
    try:
        return Client(address, timeout="10s", set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        raise InputError(
            f"--scheduler {address}: nobody answers ({error}); start one with `dask scheduler`"
        ) from error


def _count_workers(client: Any, gpu: bool) -> int:
    """Tasks that the workers can run at a time."""
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    if gpu:
        return int(sum(w.get("resources", {}).get("GPU", 0) for w in workers))
    return int(sum(w["nthreads"] for w in workers))


def _await_workers(client: Any, gpu: bool, check: Callable[[], None]) -> int:
    import time

    for _ in range(4 * _PATIENCE_SECONDS):
        if workers := _count_workers(client, gpu):
            return workers
        check()
        time.sleep(0.25)
    wanted = ' --resources "GPU=1"' if gpu else ""
    raise DeviceError(
        f"no worker came within {_PATIENCE_SECONDS} s; start some with "
        f"`dask worker ADDRESS --nthreads 1{wanted}`"
    )


class _DaskPool:
    def __init__(self, client: Any, spec: RunSpec, gpu: bool) -> None:
        self._client = client
        self._spec = spec
        self._resources = {"GPU": 1} if gpu else None
        self._futures: set[Any] = set()
        self._finished: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._round = 0

    def submit(self, chunks: Iterable[Chunk]) -> None:
        self._round += 1
        for chunk in chunks:
            future = self._client.submit(
                compute_chunk,
                self._spec,
                chunk,
                key=f"rsmamba-{self._spec.run}-{self._round}-{chunk.strip}-{chunk.bands[0]}",
                pure=False,
                retries=_RETRIES,
                resources=self._resources,
            )
            self._futures.add(future)
            future.add_done_callback(self._finished.put)

    def wait(self, seconds: float) -> list[ChunkResult]:
        results = []
        with contextlib.suppress(queue.Empty):
            results.append(self._result(self._finished.get(timeout=seconds)))
            while True:
                results.append(self._result(self._finished.get_nowait()))
        return results

    def _result(self, future: Any) -> ChunkResult:
        from distributed.client import FutureCancelledError
        from distributed.scheduler import KilledWorker

        self._futures.discard(future)
        try:
            result: ChunkResult = future.result()
        except (KilledWorker, FutureCancelledError) as error:
            self.stop()
            raise WorkersLost("workers of the cluster vanished") from error
        except RsmambaError:
            raise
        except Exception as error:
            raise DeviceError(f"a worker of the cluster failed: {error!r}") from error
        return result

    def stop(self) -> None:
        futures, self._futures = self._futures, set()
        self._finished = queue.SimpleQueue()
        if futures and self._client.status == "running":
            self._client.cancel(list(futures), force=True)
