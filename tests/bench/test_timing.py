"""Who runs when and how often, on a clock that the functions themselves move."""

import gc

import pytest

from rsmamba_cli.bench.timing import Pace, interleave


class Clock:
    """Functions that take known times, and the order in which they ran."""

    def __init__(self, **seconds: float) -> None:
        self.now = 0.0
        self.log: list[str] = []
        self.calls = {name: self._call(name, taken) for name, taken in seconds.items()}

    def _call(self, name: str, taken: float):
        def run() -> str:
            self.now += taken
            self.log.append(name)
            return f"{name} {self.log.count(name)}"

        return run

    def __call__(self) -> float:
        return self.now


def run(clock: Clock, **pace: float):
    given = {"rounds": 3, "slot": 0.0, "budget": 1e9, "least": 1, "settle": 1.0}
    return interleave(clock.calls, Pace(**{**given, **pace}), clock=clock)


def test_forms_take_turns_and_every_round_begins_with_another() -> None:
    clock = Clock(a=0.1, b=0.2)
    run(clock)
    assert "".join(clock.log) == "ab" + "ab" + "ba" + "ab"


def test_every_timed_run_is_kept_at_its_length() -> None:
    found = run(Clock(a=0.1, b=0.25))
    assert found["b"].seconds == pytest.approx([0.25] * 3)


def test_a_short_first_run_is_a_warm_up() -> None:
    assert len(run(Clock(a=0.9))["a"].seconds) == 3


def test_a_long_first_run_counts() -> None:
    assert len(run(Clock(a=1.0))["a"].seconds) == 4


def test_the_first_result_is_kept() -> None:
    assert run(Clock(a=0.1))["a"].result == "a 1"


def test_quick_forms_run_several_times_a_turn() -> None:
    found = run(Clock(a=0.125, b=1.0), slot=0.5, rounds=1, settle=9)
    assert {name: len(s.seconds) for name, s in found.items()} == {"a": 4, "b": 1}


def test_a_form_stops_when_its_budget_is_used() -> None:
    assert len(run(Clock(a=2.0), rounds=9, budget=7.0)["a"].seconds) == 3


def test_the_least_number_of_runs_goes_over_the_budget() -> None:
    assert len(run(Clock(a=5.0), rounds=9, budget=7.0, least=3)["a"].seconds) == 3


def test_one_run_is_enough_where_it_takes_more_than_the_budget() -> None:
    assert len(run(Clock(a=8.0), rounds=9, budget=7.0, least=3)["a"].seconds) == 1


def test_a_form_without_memory_is_left_out_and_says_so() -> None:
    clock = Clock(a=0.1)

    def starve() -> None:
        raise MemoryError("needs 9 GiB")

    clock.calls = {"hungry": starve, **clock.calls}
    found = run(clock)
    assert (found["hungry"].note, found["hungry"].seconds) == ("needs 9 GiB", [])
    assert len(found["a"].seconds) == 3


def test_garbage_collection_is_off_while_timing_and_on_again_afterwards() -> None:
    states = []
    interleave({"a": lambda: states.append(gc.isenabled())}, Pace(rounds=1))
    assert (set(states), gc.isenabled()) == ({False}, True)
