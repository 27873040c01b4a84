"""The learning rate over time."""

import math

import pytest

from rsmamba_cli.training.schedule import Schedule


def test_the_warm_up_reaches_the_full_rate() -> None:
    schedule = Schedule("constant", warmup_steps=1000, warmup_start=1e-4)
    assert schedule.factor(999, 0) == pytest.approx(1)
    assert schedule.factor(0, 0) == pytest.approx(1e-4 + (1 - 1e-4) / 1000)
    assert schedule.factor(5000, 0.5) == 1


def test_a_plateau_of_patience_validations_cuts_the_rate_and_counts_anew() -> None:
    schedule = Schedule("plateau", patience=3)
    for score in (0.5, 0.6, 0.6, 0.59, 0.1):
        schedule.validated(score)
    assert schedule.factor(0, 0) == pytest.approx(0.1)
    for score in (0.1, 0.1, 0.1):
        schedule.validated(score)
    assert schedule.factor(0, 0) == pytest.approx(0.01)


def test_a_better_score_resets_the_count_and_nan_never_counts_as_better() -> None:
    schedule = Schedule("plateau", patience=2)
    for score in (math.nan, 0.5, math.nan, 0.6, 0.5):
        schedule.validated(score)
    assert schedule.factor(0, 0) == 1
    schedule.validated(math.nan)
    assert schedule.factor(0, 0) == pytest.approx(0.1)


@pytest.mark.parametrize("course", ["cosine", "poly"])
def test_courses_fall_from_one_to_their_floor(course: str) -> None:
    schedule = Schedule(course, floor=0.05)
    values = [schedule.factor(0, p / 20) for p in range(21)]
    assert values[0] == pytest.approx(1) and values[-1] == pytest.approx(0.05)
    assert values == sorted(values, reverse=True)


def test_the_state_carries_over() -> None:
    before, after = Schedule("plateau", patience=2), Schedule("plateau", patience=2)
    for score in (0.5, 0.4):
        before.validated(score)
    after.load_state_dict(before.state_dict())
    after.validated(0.4)
    assert after.factor(0, 0) == pytest.approx(0.1)


def test_after_the_warm_up_the_course_starts_from_its_end() -> None:
    schedule = Schedule("poly", warmup_steps=1500, power=1.0, after_warmup=True)
    assert schedule.factor(1499, 1499 / 15000, 15000) == pytest.approx(1)
    assert schedule.factor(1500, 0.1, 15000) == pytest.approx(1)
    assert schedule.factor(8250, 0.55, 15000) == pytest.approx(0.5)
    assert schedule.factor(15000, 1, 15000) == 0


def test_with_the_warm_up_the_course_starts_at_the_first_step() -> None:
    schedule = Schedule("poly", warmup_steps=1500, power=1.0)
    assert schedule.factor(1499, 0.1, 15000) == pytest.approx(0.9)


def test_steps_cut_the_rate_at_their_milestones() -> None:
    schedule = Schedule("step", milestones=(0.5, 0.75), step_factor=0.1)
    found = [schedule.factor(0, p) for p in (0, 0.49, 0.5, 0.74, 0.75, 1)]
    assert found == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])
