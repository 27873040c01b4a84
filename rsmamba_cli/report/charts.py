"""Curves as lines of an inline SVG."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from rsmamba_cli.report.painting import DISTINCT

Points = Sequence[tuple[float, float]]

_MOST_POINTS = 300
_LOG_FROM = 20.0
"""Positive values are drawn on a logarithmic axis when the largest is so many times the least."""


@dataclass(frozen=True)
class Line:
    """A curve: its name, its CSS colour, and its points in pixels as SVG writes them."""

    name: str
    color: str
    points: str


@dataclass(frozen=True)
class Chart:
    """Curves over one axis, ready to be drawn.

    Attributes:
        title: above it.
        lines: the curves.
        rows: y in pixels and label of horizontal lines.
        columns: x in pixels and label below.
    """

    title: str
    lines: tuple[Line, ...]
    rows: tuple[tuple[float, str], ...]
    columns: tuple[tuple[float, str], ...]

    width: ClassVar[int] = 520
    height: ClassVar[int] = 240
    left: ClassVar[int] = 62
    right: ClassVar[int] = 506
    top: ClassVar[int] = 10
    bottom: ClassVar[int] = 212


def draw_chart(title: str, series: Mapping[str, Points]) -> Chart | None:
    """Lay curves out; None where no point is finite.

    Args:
        title: of the chart.
        series: name -> (x, y), x rising. Points that are not finite are left out; many are averaged
            to a few hundred.
    """
    curves = {name: _thinned(points) for name, points in series.items()}
    curves = {name: points for name, points in curves.items() if len(points)}
    if not curves:
        return None
    xs, ys = np.concatenate(list(curves.values())).T
    log = bool(ys.min() > 0 and ys.max() > _LOG_FROM * ys.min())
    scale = np.log10 if log else np.asarray
    x_low, x_high = _room(xs.min(), xs.max())
    y_low, y_high = _room(*scale(np.array([ys.min(), ys.max()])))

    def across(x: float) -> float:
        share = (x - x_low) / (x_high - x_low)
        return round(Chart.left + share * (Chart.right - Chart.left), 1)

    def down(y: float) -> float:
        share = (float(scale(np.float64(y))) - y_low) / (y_high - y_low)
        return round(Chart.bottom - share * (Chart.bottom - Chart.top), 1)

    lines = []
    for index, (name, points) in enumerate(curves.items()):
        placed = [f"{across(x)},{down(y)}" for x, y in points.tolist()]
        # A round cap makes a dot of a line without length.
        placed = placed * 2 if len(placed) == 1 else placed
        color = "#{:02x}{:02x}{:02x}".format(*_COLORS[index % len(_COLORS)])
        lines.append(Line(name, color, " ".join(placed)))
    decades = range(math.ceil(y_low), math.floor(y_high) + 1)
    if log and len(decades) > 1:
        rows = [10.0**n for n in decades]
    else:
        rows = _ticks(*((10**y_low, 10**y_high) if log else (y_low, y_high)))
        rows = [tick for tick in rows if not log or tick > 0]
    return Chart(
        title,
        tuple(lines),
        tuple((down(y), f"{y:g}") for y in rows),
        tuple((across(x), f"{x:g}") for x in _ticks(x_low, x_high)),
    )


# Yellow cannot be read on white.
_COLORS = (DISTINCT[4], DISTINCT[5], DISTINCT[2], DISTINCT[0], DISTINCT[6], DISTINCT[1])


def _thinned(points: Points) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """The finite points (N, 2), neighbours averaged where there are too many."""
    known = np.array([p for p in points if math.isfinite(p[1])], np.float64).reshape(-1, 2)
    if len(known) > _MOST_POINTS:
        known = np.stack([part.mean(axis=0) for part in np.array_split(known, _MOST_POINTS)])
    return known


def _room(low: float, high: float) -> tuple[float, float]:
    """The ends of an axis; a single value gets some room around it."""
    if high > low:
        return float(low), float(high)
    margin = abs(low) / 10 or 1.0
    return float(low) - margin, float(high) + margin


def _ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) from ``low`` to ``high``."""
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(n * step, 12) for n in range(first, last + 1)]
