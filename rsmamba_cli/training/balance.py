"""Samples drawn around labelled pixels, rare classes as often as common ones."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from rsmamba_cli.datasets import Sample, Split
from rsmamba_cli.datasets.files import Box
from rsmamba_cli.datasets.info import IGNORE
from rsmamba_cli.errors import InputError
from rsmamba_cli.training.crops import cut

Counts = NDArray[np.int64]


def count_classes(split: Split, tiles: int) -> Counts:
    """Labelled pixels of each class in the first so many tiles, (tiles, K)."""
    known = split.class_counts()
    if known is not None:
        return known[:tiles]
    classes = len(split.dataset.classes)
    rows = []
    for index in range(tiles):
        label = split.read(index).label
        rows.append(np.bincount(label[label != IGNORE], minlength=classes))
    return np.stack(rows)


class BalancedWindows:
    """Draws a tile and a square of it around a labelled pixel.

    Args:
        counts: (tiles, K) labelled pixels of each class.
        share: of the draws that first choose a class, each that occurs equally often; the others
            choose any labelled pixel.

    Raises:
        InputError: no pixel is labelled.
    """

    def __init__(self, counts: Counts, share: float) -> None:
        self.share = share
        self.present = np.flatnonzero(counts.sum(axis=0))
        if not len(self.present):
            raise InputError("No tile has a labelled pixel: there is nothing to draw around.")
        self.by_class = np.cumsum(counts, axis=0)
        self.by_all = np.cumsum(counts.sum(axis=1))

    def draw(self, rng: np.random.Generator, read: Callable[[int], Sample], side: int) -> Sample:
        """One sample: a square of ``side`` pixels, or all of a shorter axis.

        Args:
            rng: the sample's generator.
            read: reads a tile by its number.
            side: of the square.
        """
        chosen: int | None = None
        edges = self.by_all
        if rng.random() < self.share:
            chosen = int(rng.choice(self.present))
            edges = self.by_class[:, chosen]
        tile = int(np.searchsorted(edges, rng.integers(edges[-1]), side="right"))
        whole = read(tile)
        wanted = whole.label != IGNORE if chosen is None else whole.label == chosen
        places = np.flatnonzero(wanted)
        # A tile that is drawn anew in every epoch need not hold what it held when it was counted.
        place = int(rng.choice(places)) if len(places) else int(rng.integers(wanted.size))
        return cut(whole, box_around(rng, divmod(place, wanted.shape[1]), wanted.shape, side))


def box_around(
    rng: np.random.Generator, pixel: tuple[int, int], size: tuple[int, ...], side: int
) -> Box:
    """A square inside a tile that holds a pixel, at any place of it, or all of a shorter axis."""
    starts, lengths = [], []
    for at, length in zip(pixel, size, strict=True):
        span = min(side, length)
        first, last = max(0, at - span + 1), min(at, length - span)
        starts.append(int(rng.integers(first, last + 1)))
        lengths.append(span)
    return (starts[0], starts[1], lengths[0], lengths[1])
