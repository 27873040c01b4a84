"""How often each class occurs, and what it should weigh for that."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rsmamba_cli.datasets import Dataset, Split
from rsmamba_cli.datasets.info import IGNORE
from rsmamba_cli.errors import InputError


def class_weights(
    wanted: Literal["auto"] | Sequence[float] | None, split: Split, dataset: Dataset
) -> Sequence[float] | None:
    """The weights that a recipe asks for.

    Args:
        wanted: them, ``auto`` to measure, or None.
        split: the training split.
        dataset: its classes.

    Raises:
        InputError: another number of weights than of classes.
    """
    if wanted is None:
        return None
    classes = len(dataset.classes)
    if wanted == "auto":
        return inverse_root(measure_shares(split, classes))
    if len(wanted) != classes:
        raise InputError(
            f"loss.class_weights holds {len(wanted)} numbers, but {dataset.info.name} has "
            f"{classes} classes: {', '.join(c.name for c in dataset.classes)}."
        )
    return wanted


def measure_shares(split: Split, classes: int, most: int = 256) -> NDArray[np.float64]:
    """Each class's share of the labelled pixels, (K,), sum 1.

    Args:
        split: where to count.
        classes: K.
        most: count in at most so many tiles, evenly spread.
    """
    known = split.class_counts()
    if known is not None:
        return _shares(known.sum(axis=0))
    counts = np.zeros(classes, np.int64)
    for index in np.unique(np.linspace(0, len(split) - 1, min(most, len(split))).astype(int)):
        label = split.read(int(index)).label
        counts += np.bincount(label[label != IGNORE], minlength=classes)[:classes]
    return _shares(counts)


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    shares: NDArray[np.float64] = counts / max(int(counts.sum()), 1)
    return shares


def inverse_root(shares: NDArray[np.float64]) -> list[float]:
    """Weights in proportion to 1 / sqrt(share), so that a pixel weighs 1 on average.

    The root keeps rare classes from drowning all others; a class that does not occur weighs as much
    as the rarest that does.
    """
    present = shares[shares > 0]
    if not len(present):
        return [1.0] * len(shares)
    raw = 1 / np.sqrt(np.maximum(shares, present.min()))
    return [float(w) for w in raw / (raw * shares).sum()]
