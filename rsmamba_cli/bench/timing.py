"""Interleaved timing: the forms of a case take turns, so that drift hits all of them."""

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Pace:
    """How long to measure.

    Attributes:
        rounds: Turns of every form.
        slot: Seconds that a turn may take; quick forms run several times in it.
        budget: A form that has used this many seconds takes no more turns ...
        least: ... once it has run this often; one run is enough where one takes the whole budget.
        settle: A first run shorter than this many seconds is a warm-up and does not count.
    """

    rounds: int = 7
    slot: float = 0.1
    budget: float = 30.0
    least: int = 3
    settle: float = 1.0


@dataclass
class Samples:
    """Runs of one form.

    Attributes:
        result: What its first run returned; None if it found no memory.
        seconds: Every timed run.
        note: Why there is none.
    """

    result: Any
    seconds: list[float] = field(default_factory=list)
    note: str = ""


_MOST_RUNS_A_TURN = 20


def interleave(
    calls: Mapping[str, Callable[[], Any]],
    pace: Pace,
    *,
    clock: Callable[[], float] = time.perf_counter,
    ran: Callable[[str], None] = lambda name: None,
) -> dict[str, Samples]:
    """Time functions in turns; every round begins with another one.

    Args:
        calls: The functions by name.
        pace: How long to measure.
        clock: Seconds, from any origin.
        ran: Called after the first run of each function, with its name.

    Returns:
        Per name its samples, at least one each, but none for those that raised ``MemoryError``.
    """
    found: dict[str, Samples] = {}
    estimates: dict[str, float] = {}
    collects = gc.isenabled()
    gc.collect()
    gc.disable()  # a collection would be charged to whoever runs when it comes
    try:
        for name, call in calls.items():
            began = clock()
            try:
                result = call()
            except MemoryError as error:
                found[name] = Samples(None, note=str(error) or "out of memory")
                continue
            estimates[name] = clock() - began
            counts = estimates[name] >= pace.settle
            found[name] = Samples(result, [estimates[name]] if counts else [])
            ran(name)
        names = list(estimates)
        for turn in range(pace.rounds):
            first = turn % max(1, len(names))
            for name in names[first:] + names[:first]:
                _turn(calls[name], found[name].seconds, estimates[name], pace, clock)
    finally:
        if collects:
            gc.enable()
    return found


def _turn(
    call: Callable[[], Any],
    seconds: list[float],
    estimate: float,
    pace: Pace,
    clock: Callable[[], float],
) -> None:
    runs = int(pace.slot / estimate) if estimate > 0 else _MOST_RUNS_A_TURN
    for _ in range(min(max(runs, 1), _MOST_RUNS_A_TURN)):
        enough = len(seconds) >= (1 if estimate > pace.budget else pace.least)
        if enough and sum(seconds) + estimate > pace.budget:
            return
        began = clock()
        call()
        seconds.append(clock() - began)
