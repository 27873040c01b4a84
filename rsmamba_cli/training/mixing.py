"""Two samples in one, images and labels alike."""

import numpy as np
from numpy.typing import NDArray

from rsmamba_cli.datasets.info import IGNORE
from rsmamba_cli.training.crops import Label, Planes


def cutmix_mask(rng: np.random.Generator, size: int) -> NDArray[np.bool_]:
    """A random rectangle, bool (size, size), True inside (CutMix, Yun et al. 2019).

    Its share of the area is uniform in 0..1 (a Beta(1, 1)), its centre anywhere; what sticks out
    is cut off.
    """
    side = size * np.sqrt(rng.random())
    row, column = rng.uniform(0, size, 2)
    places = np.arange(size) + 0.5
    inside: NDArray[np.bool_] = (abs(places - row) < side / 2)[:, None] & (
        abs(places - column) < side / 2
    )
    return inside


def classmix_mask(rng: np.random.Generator, label: Label) -> NDArray[np.bool_]:
    """The pixels of a random half of a label's classes (ClassMix, Olsson et al. 2021).

    Args:
        rng: the sample's generator.
        label: class indices (H, W) of what is pasted; unlabelled pixels stay behind.
    """
    classes = np.unique(label[label != IGNORE])
    chosen = rng.permutation(classes)[: (len(classes) + 1) // 2]
    return np.isin(label, chosen)


def paste(mask: NDArray[np.bool_], onto: Planes, other: Planes) -> Planes:
    """Take ``other`` where the mask says so: every image (C, H, W) and every plane (..., H, W)."""
    images = tuple(np.where(mask, b, a) for a, b in zip(onto[0], other[0], strict=True))
    return images, np.where(mask, other[1], onto[1])
