"""How far a stage is: a tqdm bar on a terminal, elsewhere a line now and then, in the log too."""

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rsmamba_cli.events import Progress

if TYPE_CHECKING:
    from tqdm import tqdm

_LINE_SHARE = 0.05
"""Without a terminal, a progress line every this share of a stage ..."""
_LINE_SECONDS = 5.0
"""... but not more often than this, ..."""
_LINE_AT_LEAST = 60.0
"""... and at least this often while there is progress: batch jobs are watched by their logs."""


@dataclass
class Stage:
    """One running stage: a tqdm bar on a terminal, else what the next progress line needs."""

    name: str
    total: int | None
    unit: str
    clock: Callable[[], float] = time.monotonic
    done: int = 0
    detail: str = ""
    bar: "tqdm[Any] | None" = None
    line_done: int = 0

    def __post_init__(self) -> None:
        self.began = self.line_time = self.clock()

    def open_bar(self) -> None:
        """Draw the bar, with units a second and the time left."""
        from tqdm import tqdm

        self.bar = tqdm(
            total=self.total,
            desc=self.name,
            unit=f" {self.unit}",
            file=sys.stderr,
            dynamic_ncols=True,
            leave=False,
        )

    def advance(self, event: Progress) -> None:
        """Count the units of one event."""
        self.done += event.advance
        self.detail = event.detail or self.detail
        if self.bar is not None:
            with suppress(BrokenPipeError):
                if event.detail:
                    self.bar.set_postfix_str(event.detail, refresh=False)
                self.bar.update(event.advance)

    def line_due(self) -> bool:
        """Whether enough work and time have passed since the last line."""
        seconds = self.clock() - self.line_time
        if seconds < _LINE_SECONDS or seconds >= _LINE_AT_LEAST:
            return seconds >= _LINE_AT_LEAST
        return self.total is None or self.done - self.line_done >= _LINE_SHARE * self.total

    def line(self) -> str:
        """Describe the state in one line and remember when that was."""
        now = self.clock()
        rate = self.done / max(now - self.began, 1e-9)
        parts = [f"{rate:.3g} {self.unit}s/s"]
        if self.total:
            left = (self.total - self.done) / rate if rate > 0 else 0.0
            count = f"{100 * self.done / self.total:.0f}% ({self.done}/{self.total} {self.unit}s)"
            parts += [f"{duration(left)} left"]
        else:
            count = f"{self.done} {self.unit}s"
        if self.detail:
            parts.append(self.detail)
        self.line_done, self.line_time = self.done, now
        return f"{self.name}: {count}, {', '.join(parts)}"

    def close(self) -> None:
        """Take the bar off the screen."""
        if self.bar is not None:
            with suppress(BrokenPipeError):
                self.bar.close()
            self.bar = None


def duration(seconds: float) -> str:
    """Write a time for people: ``9.4 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
