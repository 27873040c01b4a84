"""RandAugment (Cubuk et al. 2020) in the form of today's recipes: more is always stronger."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps

Change = Callable[[Image.Image, float], Image.Image]
"""Image and a strength in -1..1, whose sign is the direction where a change has two."""

_ROUNDS = 2
_PROBABILITY = 0.5
_SPREAD = 0.5
_FILL = (124, 116, 104)  # ImageNet's mean


def _affine(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=_FILL
    )


def _add_to_dark(image: Image.Image, amount: int) -> Image.Image:
    return image.point([min(255, v + amount) if v < 128 else v for v in range(256)] * 3)


_CHANGES: tuple[Change, ...] = (
    lambda i, s: ImageOps.autocontrast(i),
    lambda i, s: ImageOps.equalize(i),
    lambda i, s: ImageOps.invert(i),
    lambda i, s: i.rotate(30 * s, Image.Resampling.BILINEAR, fillcolor=_FILL),
    lambda i, s: ImageOps.posterize(i, max(1, 4 - int(4 * abs(s)))),
    lambda i, s: ImageOps.solarize(i, 256 - int(256 * abs(s))),
    lambda i, s: _add_to_dark(i, min(128, int(110 * abs(s)))),
    lambda i, s: ImageEnhance.Color(i).enhance(max(0.1, 1 + 0.9 * s)),
    lambda i, s: ImageEnhance.Contrast(i).enhance(max(0.1, 1 + 0.9 * s)),
    lambda i, s: ImageEnhance.Brightness(i).enhance(max(0.1, 1 + 0.9 * s)),
    lambda i, s: ImageEnhance.Sharpness(i).enhance(max(0.1, 1 + 0.9 * s)),
    lambda i, s: _affine(i, (1, 0.3 * s, 0, 0, 1, 0)),
    lambda i, s: _affine(i, (1, 0, 0, 0.3 * s, 1, 0)),
    lambda i, s: _affine(i, (1, 0, 0.45 * s * i.width, 0, 1, 0)),
    lambda i, s: _affine(i, (1, 0, 0, 0, 1, 0.45 * s * i.height)),
)


def rand_augment(
    rng: np.random.Generator, image: NDArray[np.uint8], magnitude: float
) -> NDArray[np.uint8]:
    """Two random changes, each made with probability 0.5.

    Args:
        rng: the sample's generator.
        image: (3, H, W), red, green, blue.
        magnitude: 0..10; each change's is drawn about it with deviation 0.5.
    """
    picture = Image.fromarray(np.ascontiguousarray(np.moveaxis(image, 0, -1)))
    for number in rng.integers(len(_CHANGES), size=_ROUNDS):
        strength = float(np.clip(rng.normal(magnitude, _SPREAD), 0, 10)) / 10
        sign = 1 if rng.random() < 0.5 else -1
        if rng.random() < _PROBABILITY:
            picture = _CHANGES[number](picture, sign * strength)
    return np.ascontiguousarray(np.moveaxis(np.asarray(picture), -1, 0))
