"""SIGINT and SIGTERM end a run between two batches instead of in the middle of one."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from rsmamba_cli.errors import Interrupted


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Yield a function that raises `Interrupted` once a signal has come.

    A second signal is handled as if this were not here (Ctrl-C twice stops at once). Outside the
    main thread, where Python allows no handlers, signals are left alone.
    """
    received: list[int] = []

    def check() -> None:
        if received:
            name = signal.Signals(received[0]).name
            raise Interrupted(f"stopped by {name}")

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    for number in before:
        signal.signal(number, note)
    try:
        yield check
    finally:
        restore()
