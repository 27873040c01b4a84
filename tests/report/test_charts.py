"""Curves stay inside their axes and say what they show."""

import itertools
import math

import hypothesis.strategies as st
from hypothesis import given, settings

from rsmamba_cli.report.charts import Chart, draw_chart

finite = st.floats(-1e6, 1e6, allow_subnormal=False).filter(lambda v: v == 0 or abs(v) > 1e-6)


def points(line: str) -> list[tuple[float, float]]:
    return [tuple(map(float, pair.split(","))) for pair in line.split()]


@given(st.lists(finite, min_size=1, max_size=400))
@settings(max_examples=60, deadline=None)
def test_points_and_ticks_lie_inside(values: list[float]) -> None:
    chart = draw_chart("c", {"a": list(enumerate(values))})
    assert chart is not None
    placed = points(chart.lines[0].points)
    assert all(Chart.left <= x <= Chart.right for x, _ in placed)
    assert all(Chart.top <= y <= Chart.bottom for _, y in placed)
    assert all(Chart.top <= at <= Chart.bottom for at, _ in chart.rows)
    assert all(Chart.left <= at <= Chart.right for at, _ in chart.columns)


def test_larger_is_higher_and_decades_are_evenly_spaced() -> None:
    chart = draw_chart("loss", {"a": [(0, 1000.0), (1, 100.0), (2, 10.0), (3, 1.0)]})
    heights = [y for _, y in points(chart.lines[0].points)]
    steps = {round(b - a) for a, b in itertools.pairwise(heights)}
    assert len(steps) == 1 and steps.pop() > 0
    assert [label for _, label in chart.rows] == ["1", "10", "100", "1000"]


def test_what_is_not_finite_is_left_out() -> None:
    assert draw_chart("c", {"a": [(0, math.nan)], "b": []}) is None
    chart = draw_chart("c", {"a": [(0, math.nan), (1, 2.0)], "b": [(0, math.inf)]})
    assert [line.name for line in chart.lines] == ["a"]


def test_many_points_are_averaged() -> None:
    chart = draw_chart("c", {"a": [(n, float(n % 2)) for n in range(3000)]})
    placed = points(chart.lines[0].points)
    assert len(placed) == 300 and placed[0][1] == placed[-1][1]
