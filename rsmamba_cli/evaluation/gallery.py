"""Which tiles of an evaluation are painted: the worst, and some at random."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsmamba_cli.datasets import Sample
from rsmamba_cli.datasets.info import Color
from rsmamba_cli.evaluation.results import Shown
from rsmamba_cli.report.pictures import row_of


class Gallery:
    """Keeps pictures of the worst tiles so far, and of tiles chosen beforehand.

    Args:
        count: of the worst, and of random ones.
        tiles: that there will be.
        colors: of the classes.
        seed: of the choice.
    """

    def __init__(self, count: int, tiles: int, colors: Sequence[Color], seed: int) -> None:
        generator = np.random.default_rng(seed)
        chosen = generator.choice(tiles, min(count, tiles), replace=False)
        self._count = count
        self._colors = colors
        self._chosen = set(chosen.tolist())
        self._worst: list[tuple[int, Shown]] = []
        self._random: list[tuple[int, Shown]] = []

    def show(self, index: int, sample: Sample, prediction: NDArray[Any], wrong: float) -> None:
        """Paint a tile where it is wanted: ``wrong`` is the share of its pixels that are."""
        full = len(self._worst) >= self._count
        bad = self._count > 0 and (not full or wrong > self._worst[-1][1].wrong)
        if not bad and index not in self._chosen:
            return
        shown = Shown(sample.stem, wrong, row_of(sample, prediction, self._colors, errors=True))
        if bad:
            self._worst = _worst([*self._worst, (index, shown)], self._count)
        if index in self._chosen:
            self._random.append((index, shown))

    def merged(self, parts: Sequence["Gallery"]) -> "Gallery":
        """The gallery of all tiles, from galleries of some each."""
        out = Gallery(0, 0, self._colors, 0)
        out._worst = _worst([item for part in parts for item in part._worst], self._count)
        out._random = sorted((i for part in parts for i in part._random), key=lambda item: item[0])
        return out

    @property
    def worst(self) -> tuple[Shown, ...]:
        """The worst tiles, the worst first."""
        return tuple(shown for _, shown in self._worst)

    @property
    def random(self) -> tuple[Shown, ...]:
        """Tiles chosen at random, in the order of the split."""
        return tuple(shown for _, shown in self._random)


def _worst(items: list[tuple[int, Shown]], count: int) -> list[tuple[int, Shown]]:
    """The worst first; of equals the one that comes first in the split."""
    return sorted(items, key=lambda item: (-item[1].wrong, item[0]))[:count]
