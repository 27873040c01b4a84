"""What the library tells its caller while it works: one union of frozen records, one callback."""

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Started:
    """A stage with a known amount of work begins.

    Attributes:
        stage: what is done, in words for a user ("predict", "write", "epoch 3/50").
        total: number of units, or None when unknown.
        unit: what is counted ("window", "block", "batch").
    """

    stage: str
    total: int | None = None
    unit: str = "it"


@dataclass(frozen=True, slots=True)
class Progress:
    """``advance`` more units of ``stage`` are done; ``detail`` is a short state ("loss 0.21")."""

    stage: str
    advance: int = 1
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Warned:
    """Something the user should know. ``essential`` warnings are shown even with ``--quiet``."""

    message: str
    essential: bool = False


@dataclass(frozen=True, slots=True)
class Finished:
    """A stage ended; ``summary`` is one line for the log (may be empty)."""

    stage: str
    summary: str = ""


Event = Started | Progress | Warned | Finished
EventHandler = Callable[[Event], None]


def ignore_events(event: Event) -> None:
    """The handler of callers that do not listen."""
