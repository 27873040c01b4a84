"""Which part of a tile a sample shows, and at which size."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from rsmamba_cli.datasets import Sample
from rsmamba_cli.datasets.files import Box
from rsmamba_cli.datasets.info import IGNORE
from rsmamba_cli.training.recipe import AugmentPart

Image = NDArray[np.float32]
Label = NDArray[np.int64]
"""(..., H, W): class indices, and whatever else must move with them and never be blended."""

Planes = tuple[tuple[Image, ...], Label]

WHOLE = 2048 * 2048
"""Tiles of up to so many pixels are read once and cut in memory."""

_TRIES = 10


def sample_rng(seed: int, epoch: int, sample: int) -> np.random.Generator:
    """The generator of one sample of one epoch; samples are numbered over all processes."""
    return np.random.default_rng(np.random.SeedSequence((seed, epoch, sample)))


def zoomed_crop(
    rng: np.random.Generator, crop: int, size: tuple[int, int], options: AugmentPart
) -> int:
    """The side of the part of a tile that, resized to ``crop``, shows the drawn zoom.

    Args:
        rng: the sample's generator.
        crop: side of the sample.
        size: height and width of the tile.
        options: ``scale`` is the range of the zoom, ``scale_law`` how it is drawn; with
            ``base_size`` (long, short) it is relative to the tile resized to fit into that, as
            mmsegmentation's RandomResize does.
    """
    low, high = options.scale
    factor = low
    if low < high and options.scale_law == "uniform":
        factor = float(rng.uniform(low, high))
    elif low < high:
        factor = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    if options.base_size is not None:
        long, short = options.base_size
        factor *= min(long / max(size), short / min(size))
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


def random_part(
    rng: np.random.Generator,
    read: Callable[[Box | None], Sample],
    size: tuple[int, int],
    side: int,
    most: float,
) -> Sample:
    """Read a random square of a tile, drawn again while one class covers too much of it.

    Args:
        rng: the sample's generator.
        read: reads a part of the tile, or with None all of it.
        size: height and width of the tile.
        side: of the square.
        most: a part is taken if it holds more than one class and none has this share or more of
            its labelled pixels; after ten tries the last one is taken. 1 takes any.
    """
    if most >= 1:
        return read(random_box(rng, *size, side))
    whole = read(None) if size[0] * size[1] <= WHOLE else None
    for _ in range(_TRIES):
        box = random_box(rng, *size, side)
        sample = read(box) if whole is None else cut(whole, box)
        if not dominated(sample.label, most) or box[2:] == size:
            break
    return sample


def dominated(label: Label, most: float) -> bool:
    """Whether a label holds a single class, or one with a share of ``most`` or more."""
    counts = np.bincount(label[label != IGNORE])
    return bool(np.count_nonzero(counts) < 2 or counts.max() >= most * counts.sum())


def cut(sample: Sample, box: Box) -> Sample:
    """A part of a sample that has been read."""
    row, column, tall, wide = box
    part = (..., slice(row, row + tall), slice(column, column + wide))
    return replace(
        sample,
        images=tuple(image[part] for image in sample.images),
        label=sample.label[part],
        valid=None if sample.valid is None else sample.valid[part],
    )


def resize(images: tuple[Image, ...], label: Label, height: int, width: int) -> Planes:
    """Resize a sample: images bilinear (antialiased), labels nearest (never blended)."""
    before = label.shape[-2:]
    if before == (height, width):
        return images, label
    shown = tuple(
        F.interpolate(
            torch.from_numpy(image)[None], size=(height, width), mode="bilinear", antialias=True
        )[0].numpy()
        for image in images
    )
    rows = ((np.arange(height) + 0.5) * (before[0] / height)).astype(np.int64)
    columns = ((np.arange(width) + 0.5) * (before[1] / width)).astype(np.int64)
    return shown, label[..., rows[:, None], columns[None, :]]


def pad(images: tuple[Image, ...], label: Label, size: int) -> Planes:
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


def fit(images: tuple[Image, ...], label: Label, side: int, crop: int) -> Planes:
    """Resize what was read of a square of ``side`` so that the square becomes ``crop``, and pad."""
    height, width = (max(1, min(crop, round(n * crop / side))) for n in label.shape[-2:])
    return pad(*resize(images, label, height, width), crop)
