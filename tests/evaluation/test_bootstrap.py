"""Intervals and tests: seeded, of the right size, and silent where nothing differs."""

import math

import numpy as np
import pytest

from rsmamba_cli.errors import InputError
from rsmamba_cli.evaluation.bootstrap import interval, mcnemar, p_value, remark_on, resampled
from rsmamba_cli.evaluation.ledger import scene_names
from rsmamba_cli.evaluation.metrics import margins_of, summarise, summarise_margins


def share(counts: np.ndarray) -> dict[str, np.ndarray]:
    return {"share": counts[..., 0] / counts[..., 1]}


def units(count: int, seed: int = 0) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return np.stack([generator.binomial(100, 0.4, count), np.full(count, 100)], axis=1) * 1.0


def test_the_spread_is_the_standard_error_of_the_units() -> None:
    table = units(200)
    (draws,) = resampled((table,), share, 2000, seed=3)
    shares = table[:, 0] / 100
    assert draws["share"].std() == pytest.approx(shares.std() / math.sqrt(200), rel=0.08)
    low, high = interval(draws["share"])
    assert low < shares.mean() < high


def test_the_same_seed_gives_the_same_draws() -> None:
    first, second, other = (resampled((units(9),), share, 50, s)[0]["share"] for s in (1, 1, 2))
    assert np.array_equal(first, second) and not np.array_equal(first, other)


def test_paired_draws_of_one_table_do_not_differ() -> None:
    a, b = resampled((units(9), units(9)), share, 50)
    assert np.array_equal(a["share"], b["share"])
    assert p_value(b["share"] - a["share"]) == 1


def test_a_constant_advantage_is_certain_however_much_tiles_vary() -> None:
    table = units(30)
    better = table + np.array([2, 0])
    a, b = resampled((table, better), share, 500)
    assert p_value(b["share"] - a["share"]) == pytest.approx(2 / 501)


def test_stacked_figures_are_the_single_ones() -> None:
    generator = np.random.default_rng(0)
    several = generator.integers(0, 9, (4, 3, 3))
    several[:, 2] = several[:, :, 2] = 0
    stacked = summarise_margins(np.stack([margins_of(c) for c in several]), "abc", ("b",))
    for i, confusion in enumerate(several):
        for name, value in summarise(confusion, "abc", ("b",)).items():
            assert stacked[name][i] == pytest.approx(value, nan_ok=True), name


def test_classes_left_out_of_means_still_count_as_pixels() -> None:
    confusion = np.array([[8, 0, 2], [0, 5, 0], [0, 5, 0]])
    full, five = summarise(confusion, "abc"), summarise(confusion, "abc", ("c",))
    assert five["miou"] == pytest.approx((0.8 + 0.5) / 2)
    assert full["oa"] == five["oa"] == pytest.approx(13 / 20)
    assert five["area_bias/b"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [(0, 0, 1.0), (5, 5, 1.0), (0, 6, 2 / 2**6), (1, 9, 2 * 11 / 2**10)],
)
def test_mcnemar_is_binomial(one: int, two: int, expected: float) -> None:
    assert mcnemar(one, two) == mcnemar(two, one) == pytest.approx(expected)


def test_mcnemar_of_many_cases_goes_on_where_the_exact_one_ends() -> None:
    assert mcnemar(470, 530) == pytest.approx(mcnemar(471, 531), rel=0.05)
    assert mcnemar(0, 10**6) == 0


def test_scenes_are_read_off_names() -> None:
    assert scene_names(["a_1_2", "a_3_4", "b_1_1"], r"^(.+)_\d+_\d+$") == ["a", "a", "b"]
    with pytest.raises(InputError, match="finds nothing"):
        scene_names(["a"], "b")
    with pytest.raises(InputError, match="no regular expression"):
        scene_names(["a"], "(")


def coverage(count: int) -> float:
    """How often the interval of a mean of so many normal numbers holds the true mean."""
    rng = np.random.default_rng(0)
    hits = []
    for _ in range(300):
        table = rng.normal(size=(count, 1))
        (found,) = resampled((table,), lambda sums: {"mean": sums[..., 0]}, 400)
        low, high = interval(found["mean"])
        hits.append(low <= 0 <= high)
    return float(np.mean(hits))


def test_few_units_cover_less_than_they_say_and_are_remarked_on() -> None:
    assert coverage(5) < 0.87 < 0.9 < coverage(40)
    assert remark_on(5, 400) and not remark_on(40, 400)
    assert remark_on(5, 0) == remark_on(1, 400) == []
