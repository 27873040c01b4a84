"""Work that goes on beside the caller, item by item in order, behind a bounded queue."""

import threading
from collections.abc import Callable
from queue import Queue
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")


class Stage(Generic[T]):
    """A thread that does one thing with everything that is put in, in that order.

    When the work fails, what was put in after it is dropped, and the next `put` raises the error,
    or leaving the ``with`` block does. Leaving waits for all that was put in, also after an error
    of the block: what had been handed over is finished.
    """

    def __init__(self, name: str, work: Callable[[T], None], depth: int) -> None:
        """Start the thread.

        Args:
            name: of the thread.
            work: what is done with an item.
            depth: items that may wait; `put` waits for room beyond that.
        """
        self._work = work
        self._waiting: Queue[tuple[T] | None] = Queue(depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"rsmamba-{name}", daemon=True)
        self._thread.start()

    def put(self, item: T) -> None:
        """Hand an item over.

        Raises:
            BaseException: what the work on an earlier item raised.
        """
        if self._error is not None:
            raise self._error
        self._waiting.put((item,))

    def _run(self) -> None:
        while (entry := self._waiting.get()) is not None:
            if self._error is None:
                try:
                    self._work(entry[0])
                except BaseException as error:
                    self._error = error
            # Nothing may hold on to an item while the next one is waited for.
            del entry

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._waiting.put(None)
        self._thread.join()
        if error is None and self._error is not None:
            raise self._error
