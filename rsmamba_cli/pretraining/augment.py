"""Random changes to an image that has one class."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsmamba_cli.datasets.files import Box
from rsmamba_cli.pretraining.config import ImageChangePart
from rsmamba_cli.pretraining.rand_augment import rand_augment
from rsmamba_cli.training.augment import orient, shift_colors
from rsmamba_models import Transform

_TRIES = 10
_ERASED = (0.02, 1 / 3)
_ERASED_RATIO = 0.3


def crop_box(rng: np.random.Generator, height: int, width: int, options: ImageChangePart) -> Box:
    """A random part of an image: its share of the area even, its ratio even in the logarithm."""
    for _ in range(_TRIES):
        area = rng.uniform(*options.area) * height * width
        ratio = np.exp(rng.uniform(*np.log(options.ratio)))
        tall, wide = round(np.sqrt(area / ratio)), round(np.sqrt(area * ratio))
        if 0 < tall <= height and 0 < wide <= width:
            row, column = rng.integers(height - tall + 1), rng.integers(width - wide + 1)
            return (int(row), int(column), tall, wide)
    side = min(height, width)
    return ((height - side) // 2, (width - side) // 2, side, side)


def change_image(
    rng: np.random.Generator, image: NDArray[Any], transform: Transform, options: ImageChangePart
) -> NDArray[np.float32]:
    """Flip, change the colours of, normalise and erase a part of an image (C, S, S)."""
    if options.rand_augment and image.dtype == np.uint8 and len(image) == 3:
        image = rand_augment(rng, image, options.rand_augment)
    (shown,), _ = orient(
        rng, (transform.apply(image),), np.zeros(image.shape[1:], np.int64), options
    )
    shown = np.ascontiguousarray(shift_colors(rng, shown, options))
    if rng.random() < options.erase:
        erase(rng, shown)
    return shown


def erase(rng: np.random.Generator, image: NDArray[np.float32]) -> None:
    """Turn a rectangle of a normalised image into white noise, in place."""
    _, height, width = image.shape
    for _ in range(_TRIES):
        area = rng.uniform(*_ERASED) * height * width
        ratio = np.exp(rng.uniform(-1, 1) * np.log(1 / _ERASED_RATIO))
        tall, wide = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
        if 0 < tall < height and 0 < wide < width:
            row, column = rng.integers(height - tall + 1), rng.integers(width - wide + 1)
            part = image[:, row : row + tall, column : column + wide]
            part[...] = rng.standard_normal(part.shape, dtype=np.float32)
            return
