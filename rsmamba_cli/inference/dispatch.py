"""Handing the chunks of a plan to workers, and watching the journals for what they finish."""

from collections.abc import Callable, Iterable
from typing import Protocol

from rsmamba_cli.errors import DeviceError, RsmambaError
from rsmamba_cli.events import EventHandler, Finished, Progress, Started, Warned
from rsmamba_cli.inference.plan import Chunk, Plan
from rsmamba_cli.inference.worker import ChunkResult
from rsmamba_cli.raster.blocks import Blocks

_PATIENCE = 3


class WorkersLost(Exception):
    """Some workers died; what they had not finished has to be handed out again."""


class Pool(Protocol):
    """Some workers."""

    def submit(self, chunks: Iterable[Chunk]) -> None:
        """Take chunks; they are computed in any order."""
        ...

    def wait(self, seconds: float) -> list[ChunkResult]:
        """What has been finished since the last call, waiting for it at most so long.

        Raises:
            WorkersLost: see there; what was submitted and not finished is forgotten.
            RsmambaError: what went wrong in a worker.
        """
        ...

    def stop(self) -> None:
        """Drop what is not finished."""
        ...


def run_on_pool(
    plan: Plan,
    store: Blocks,
    pool: Pool,
    chunks: Callable[[], list[Chunk]],
    on_event: EventHandler,
    check: Callable[[], None],
) -> int:
    """Have chunks computed until none is left.

    Args:
        plan: what is computed.
        store: of the run; told about blocks as the workers note them.
        pool: the workers.
        chunks: says what is left, by what the store knows.
        on_event: told about progress in windows.
        check: called often; raises to stop the run.

    Returns:
        Windows that went through the model.

    Raises:
        DeviceError: workers died again and again without getting anything done.
        RsmambaError: what went wrong in a worker, or what ``check`` raised.
    """
    windows_of = {s: _windows_across(plan, s) for s in range(len(plan.strips) - 1)}
    todo = chunks()
    total = sum(len(chunk.bands) * windows_of[chunk.strip] for chunk in todo)
    on_event(Started("predict", total, "window"))
    computed = lost = 0
    try:
        pool.submit(todo)
        waiting = {(chunk.strip, band) for chunk in todo for band in chunk.bands}
        while waiting:
            try:
                results = pool.wait(0.25)
            except WorkersLost as error:
                found = _noted(store, windows_of, on_event)
                waiting -= found
                lost = 0 if found else lost + 1
                if lost >= _PATIENCE:
                    raise DeviceError(
                        f"workers died {lost} times in a row without finishing anything ({error}); "
                        "too little memory for so many of them is the usual reason: try fewer "
                        "--workers, a smaller --tile or --batch-size"
                    ) from error
                if waiting:
                    on_event(Warned(f"{error}; what they had in hand is given to others"))
                    pool.submit(chunks())
                continue
            computed += sum(result.computed for result in results)
            for warning in (text for result in results for text in result.warnings):
                on_event(Warned(warning, essential=True))
            found = _noted(store, windows_of, on_event)
            waiting -= found
            if found or results:
                lost = 0
                # A network mount may show a worker's journal late; its answer comes first then.
                waiting -= {(r.chunk.strip, band) for r in results for band in r.chunk.bands}
            check()
    except BaseException:
        pool.stop()
        raise
    _wait_for_journals(store, todo, check)
    on_event(Finished("predict", f"{computed} of {total} windows held valid pixels"))
    return computed


def _noted(
    store: Blocks, windows_of: dict[int, int], on_event: EventHandler
) -> set[tuple[int, int]]:
    """Blocks that were noted meanwhile, as (strip, band)."""
    new = store.refresh()
    if new:
        on_event(Progress("predict", sum(windows_of[strip] for _, strip in new)))
    return {(strip, band) for band, strip in new}


def _wait_for_journals(store: Blocks, todo: list[Chunk], check: Callable[[], None]) -> None:
    """Wait until everything that the workers say they finished can be seen here.

    Raises:
        RsmambaError: it cannot, after a minute.
    """
    import time

    wanted = {(band, chunk.strip) for chunk in todo for band in chunk.bands}
    for _ in range(240):
        store.refresh()
        if wanted <= store.done:
            return
        check()
        time.sleep(0.25)
    raise RsmambaError(
        f"{store.folder}: workers finished blocks that cannot be seen here; is the folder shared?"
    )


def _windows_across(plan: Plan, strip: int) -> int:
    cuts = plan.cols.cuts
    return len(plan.cols.reaching(cuts[plan.strips[strip]], cuts[plan.strips[strip + 1]]))
