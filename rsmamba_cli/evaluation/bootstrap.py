"""How sure a figure is: resampling the scenes or tiles that it was measured on.

Pixels of a tile depend on each other; tiles, or better scenes, are what was drawn from the world.
Source: B. Efron and R. Tibshirani, "An Introduction to the Bootstrap", 1993 (percentile intervals,
chapter 13).
"""

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from rsmamba_cli.evaluation.metrics import Floats

Figures = Callable[[Floats], Mapping[str, Floats]]
"""Counts (..., V) -> named figures of the shape of the leading axes."""

ROUNDS = 1000
LEVEL = 0.95
_AT_ONCE = 100

_FEW = 10
"""Fewer units hardly show how much they vary (the percentile interval of 5 covers about 80 %)."""


def resampled(
    counts: tuple[Floats, ...], figures: Figures, rounds: int = ROUNDS, seed: int = 0
) -> list[dict[str, Floats]]:
    """Draw units with replacement and measure what was drawn.

    Args:
        counts: tables (U, V) of what adds up, a row a unit; several are drawn alike (paired).
        figures: makes figures of sums of rows.
        rounds: how often.
        seed: of the draws.

    Returns:
        For each table its figures, float64 (rounds,) each.
    """
    units = len(counts[0])
    generator = np.random.default_rng(seed)
    parts: list[list[Mapping[str, Floats]]] = [[] for _ in counts]
    for first in range(0, rounds, _AT_ONCE):
        number = min(_AT_ONCE, rounds - first)
        weights = generator.multinomial(units, np.full(units, 1 / units), size=number)
        for table, found in zip(counts, parts, strict=True):
            found.append(figures(weights @ table))
    return [
        {name: np.concatenate([np.atleast_1d(p[name]) for p in found]) for name in found[0]}
        for found in parts
    ]


def remark_on(units: int, rounds: int) -> list[str]:
    """What a reader should know where few units were resampled: nothing, or one line."""
    if not rounds or not 1 < units < _FEW:
        return []
    return [f"only {units} units were resampled: intervals and p-values are surer than they may be"]


def interval(draws: NDArray[np.float64], level: float = LEVEL) -> tuple[float, float]:
    """The central interval that holds ``level`` of the draws; NaN where none is defined."""
    known = draws[~np.isnan(draws)]
    if not known.size:
        return math.nan, math.nan
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def p_value(differences: NDArray[np.float64]) -> float:
    """Two-sided: how often the resampled difference lies on the other side of 0, twice.

    One imagined draw lies beyond, so that no finite number of draws proves certainty.
    """
    known = differences[~np.isnan(differences)]
    if not known.size:
        return math.nan
    beyond = min((known <= 0).sum(), (known >= 0).sum())
    return float(min(1.0, 2 * (beyond + 1) / (known.size + 1)))


def mcnemar(only_first: int, only_second: int) -> float:
    """McNemar's test of two classifiers on the same cases: a two-sided p-value.

    Source: Q. McNemar, Psychometrika 12, 1947; exact (binomial) up to 1000 cases on which the two
    disagree, else chi-squared with Edwards' correction.

    Args:
        only_first: cases that only the first has right.
        only_second: cases that only the second has right.
    """
    total, few = only_first + only_second, min(only_first, only_second)
    if not total:
        return 1.0
    if total <= 1000:
        tail = sum(math.comb(total, k) for k in range(few + 1))
        return min(1.0, 2 * tail / (1 << total))
    chi = (max(0, abs(only_first - only_second) - 1)) ** 2 / total
    return math.erfc(math.sqrt(chi / 2))
