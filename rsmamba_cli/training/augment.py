"""Random changes to a training sample; geometry moves images and label together.

Everything is drawn from one generator a sample, seeded with (seed, epoch, sample), so that a sample
does not depend on workers, on how processes share the work, or on what was drawn before it.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from rsmamba_cli.datasets.files import Box
from rsmamba_cli.datasets.info import IGNORE

Image = NDArray[np.float32]
Label = NDArray[np.int64]
"""(..., H, W): class indices, and whatever else must move with them and never be blended."""


@dataclass(frozen=True)
class AugmentOptions:
    """Probabilities and ranges.

    Attributes:
        flip: probability of a flip: vertical, horizontal or both, equally likely.
        transpose: probability of exchanging rows and columns. With ``flip`` 0.75 and ``transpose``
            0.5 all eight symmetries of the square are equally likely.
        swap_dates: probability of exchanging the two dates of a change sample.
        scale: the range of random zoom, (1, 1) for none.
        brightness: largest shift of all bands together, in standard deviations.
        contrast: largest relative change of the spread about the mean.
        band_shift: largest further shift of each band alone, in standard deviations.
        noise: largest standard deviation of added white noise, in standard deviations.
    """

    flip: float = 0.5
    transpose: float = 0.5
    swap_dates: float = 0.5
    scale: tuple[float, float] = (1.0, 1.0)
    brightness: float = 0.0
    contrast: float = 0.0
    band_shift: float = 0.0
    noise: float = 0.0


def sample_rng(seed: int, epoch: int, sample: int) -> np.random.Generator:
    """The generator of one sample of one epoch; samples are numbered over all processes."""
    return np.random.default_rng(np.random.SeedSequence((seed, epoch, sample)))


def zoomed_crop(rng: np.random.Generator, crop: int, scale: tuple[float, float]) -> int:
    """The side of the part of a tile that, resized to ``crop``, shows the drawn zoom."""
    low, high = scale
    if low == high == 1.0:
        return crop
    factor = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    return max(1, round(crop / factor))


def random_box(rng: np.random.Generator, height: int, width: int, side: int) -> Box:
    """A random square of ``side`` pixels inside a tile, or all of a shorter axis."""
    tall, wide = min(side, height), min(side, width)
    row = int(rng.integers(height - tall + 1))
    column = int(rng.integers(width - wide + 1))
    return (row, column, tall, wide)


def grid_boxes(height: int, width: int, side: int) -> list[Box]:
    """Side by side squares over a tile; the last of a row or column is shifted inwards."""
    rows = sorted({min(r, max(height - side, 0)) for r in range(0, height, side)})
    columns = sorted({min(c, max(width - side, 0)) for c in range(0, width, side)})
    return [(r, c, min(side, height), min(side, width)) for r in rows for c in columns]


def resize(images: tuple[Image, ...], label: Label, size: int) -> tuple[tuple[Image, ...], Label]:
    """Resize a square sample to ``size``: images bilinear, labels nearest (never blended)."""
    if label.shape[-2:] == (size, size):
        return images, label
    shown = tuple(
        F.interpolate(
            torch.from_numpy(image)[None], size=(size, size), mode="bilinear", antialias=True
        )[0].numpy()
        for image in images
    )
    index = (np.arange(size) + 0.5) * (np.array(label.shape[-2:])[:, None] / size)
    rows, columns = index.astype(np.int64)
    return shown, label[..., rows[:, None], columns[None, :]]


def pad(images: tuple[Image, ...], label: Label, size: int) -> tuple[tuple[Image, ...], Label]:
    """Pad a sample at the right and bottom to ``size`` pixels a side.

    Images repeat their last row and column, as the models do; the label is 255 there, so that
    padding is never learnt.
    """
    height, width = label.shape[-2:]
    down, right = max(size - height, 0), max(size - width, 0)
    if not down and not right:
        return images, label
    images = tuple(np.pad(i, ((0, 0), (0, down), (0, right)), mode="edge") for i in images)
    plain = [(0, 0)] * (label.ndim - 2)
    sides = [*plain, (0, down), (0, right)]
    return images, np.pad(label, sides, constant_values=IGNORE)


def orient(
    rng: np.random.Generator, images: tuple[Image, ...], label: Label, options: AugmentOptions
) -> tuple[tuple[Image, ...], Label]:
    """Flip and transpose a square sample, the same for every date and the label."""
    flips = int(rng.integers(1, 4)) if rng.random() < options.flip else 0
    transpose = bool(rng.random() < options.transpose)
    axes = tuple(axis for bit, axis in ((1, -2), (2, -1)) if flips & bit)

    def turn(array: NDArray[Any]) -> NDArray[Any]:
        turned = np.flip(array, axes) if axes else array
        return np.ascontiguousarray(np.swapaxes(turned, -1, -2) if transpose else turned)

    return tuple(turn(image) for image in images), turn(label)


def shift_colors(rng: np.random.Generator, image: Image, options: AugmentOptions) -> Image:
    """Change brightness, contrast and noise of a normalised image (C, H, W), any bands."""
    bands = len(image)
    gain = 1 + rng.uniform(-1, 1) * options.contrast
    shift = rng.uniform(-1, 1) * options.brightness
    by_band = rng.uniform(-1, 1, bands) * options.band_shift
    spread = rng.uniform(0, 1) * options.noise
    if options.brightness or options.contrast or options.band_shift:
        mean = image.mean(axis=(1, 2), keepdims=True)
        moved = (image - mean) * gain + mean + (shift + by_band)[:, None, None]
        image = moved.astype(np.float32)
    if options.noise:
        image = image + rng.standard_normal(image.shape, dtype=np.float32) * np.float32(spread)
    return image


def augment(
    rng: np.random.Generator, images: tuple[Image, ...], label: Label, options: AugmentOptions
) -> tuple[tuple[Image, ...], Label]:
    """Apply orientation, exchange of dates and colour changes to a square sample.

    Args:
        rng: the sample's generator.
        images: normalised arrays (C, S, S), one a date; each date gets its own colour change.
        label: class indices (..., S, S).
        options: what to do.
    """
    images, label = orient(rng, images, label, options)
    if len(images) == 2 and rng.random() < options.swap_dates:
        images = (images[1], images[0])
    return tuple(shift_colors(rng, image, options) for image in images), label
