"""From the tiles of a split to batches: crops, normalised and changed at random, in a fixed order.

The order of samples and everything random about each are functions of (seed, epoch, place in the
epoch), so that they do not depend on workers or on the number of processes, and a resumed run goes
on where it stopped.
"""

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rsmamba_cli.datasets import Split
from rsmamba_cli.errors import InputError
from rsmamba_cli.training.augment import augment
from rsmamba_cli.training.balance import BalancedWindows, count_classes
from rsmamba_cli.training.crops import Planes, fit, grid_boxes, random_part, sample_rng, zoomed_crop
from rsmamba_cli.training.mixing import classmix_mask, cutmix_mask, paste
from rsmamba_cli.training.photometric import distort, fits
from rsmamba_cli.training.recipe import AugmentPart, DataPart
from rsmamba_models import Transform

Key = tuple[int, int, int]
"""Epoch, place in the epoch among the samples of all processes, item."""

_ORDER = 0x0D0E
"""Keeps the generator of an epoch's order apart from those of its samples."""


@dataclass
class Batch:
    """A training batch.

    Attributes:
        images: a float32 tensor (B, C, S, S) a date or modality.
        label: int64 (B, S, S), 255 where unlabelled; (B,) where images have one class each.
        stems: names of the tiles.
    """

    images: tuple[Tensor, ...]
    label: Tensor
    stems: tuple[str, ...]

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device."""
        images = tuple(image.to(device, non_blocking=True) for image in self.images)
        return Batch(images, self.label.to(device, non_blocking=True), self.stems)

    def pin_memory(self) -> "Batch":
        """The batch in page-locked memory (called by the data loader)."""
        images = tuple(image.pin_memory() for image in self.images)
        return Batch(images, self.label.pin_memory(), self.stems)


class Samples(Dataset[Any]):
    """What is learnt from; indexed with a key, a sample is its images, its label and its name.

    Attributes:
        items: (tile, part of the tile).
    """

    items: Sequence[tuple[int, int]]


class TrainSamples(Samples):
    """The training samples of a split; an item is one crop of one tile.

    Args:
        split: where tiles come from.
        transforms: normalisation of each image.
        data: crop size and mode.
        options: random changes.
        seed: of everything random.

    Raises:
        InputError: ``options.photometric`` for images that are not 8-bit RGB.
    """

    def __init__(
        self,
        split: Split,
        transforms: Sequence[Transform],
        data: DataPart,
        options: AugmentPart,
        seed: int,
    ) -> None:
        self.split = split
        self.transforms = tuple(transforms)
        self.data = data
        # What is meant for two dates does not fit two modalities, and the other way round.
        unfit = {"swap_dates": 0.0} if split.dataset.task == "multimodal" else {"sar_colors": 1.0}
        self.options = options.model_copy(update=unfit)
        self.optional = [
            i for i, image in enumerate(split.dataset.inputs) if image.name in data.optional
        ]
        self.seed = seed
        if options.photometric is not None:
            self._check_rgb()
        count = len(split) if data.limit is None else min(data.limit, len(split))
        headers = [split.header(index) for index in range(count)]
        self.sizes = [(h.height, h.width) for h in headers]
        # An item is (tile, crop of the tile); the crop's number matters to the grid only.
        self.items = [
            (tile, part)
            for tile, size in enumerate(self.sizes)
            for part in range(self._crops(size))
        ]

        self.balanced: BalancedWindows | None = None
        if data.balance is not None:
            self.balanced = BalancedWindows(count_classes(split, count), data.balance)

    def _crops(self, size: tuple[int, int]) -> int:
        """How many crops of a tile an epoch holds."""
        if self.data.crop_mode == "grid":
            return len(grid_boxes(*size, self.data.crop))
        if self.data.crops_per_tile != "auto":
            return self.data.crops_per_tile
        return max(1, round(size[0] * size[1] / self.data.crop**2))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, key: Key) -> tuple[tuple[Tensor, ...], Tensor, str]:
        """Read, normalise and change one sample."""
        epoch, place, item = key
        rng = sample_rng(self.seed, epoch, place)
        (images, planes), stem = self._sample(rng, epoch, item)
        mix = self.options.mix
        if mix != "none" and rng.random() < self.options.mix_probability:
            other, _ = self._sample(rng, epoch, int(rng.integers(len(self.items))))
            label = other[1][0]
            mask = cutmix_mask(rng, len(label)) if mix == "cutmix" else classmix_mask(rng, label)
            images, planes = paste(mask, (images, planes), other)
        if self.optional and rng.random() < self.options.drop_input:
            missing = int(rng.choice(self.optional))
            images = tuple(np.zeros_like(a) if i == missing else a for i, a in enumerate(images))
        tensors = tuple(torch.from_numpy(np.ascontiguousarray(image)) for image in images)
        return tensors, torch.from_numpy(np.ascontiguousarray(planes[0])), stem

    def _sample(self, rng: np.random.Generator, epoch: int, item: int) -> tuple[Planes, str]:
        """One crop: normalised images, planes of labels and of validity, and its tile's name."""
        tile, part = self.items[item]
        crop, size, options = self.data.crop, self.sizes[tile], self.options
        if self.data.crop_mode == "grid":
            side = crop
            sample = self.split.read(tile, grid_boxes(*size, crop)[part], epoch)
        elif self.balanced is not None:
            side = zoomed_crop(rng, crop, size, options)
            sample = self.balanced.draw(rng, lambda t: self.split.read(t, None, epoch), side)
        else:
            side = zoomed_crop(rng, crop, size, options)
            sample = random_part(
                rng,
                lambda box: self.split.read(tile, box, epoch),
                size,
                side,
                options.max_class_share,
            )
        raw = sample.images
        if options.photometric is not None:
            raw = tuple(distort(rng, i, options.photometric) if fits(i) else i for i in raw)
        images = tuple(
            transform.apply(image) for transform, image in zip(self.transforms, raw, strict=True)
        )
        valid = np.ones_like(sample.label) if sample.valid is None else sample.valid
        planes = np.stack([sample.label, valid.astype(np.int64)])
        if sample.valid is not None:
            images = tuple(np.where(sample.valid, image, np.float32(0)) for image in images)
        images, planes = augment(rng, *fit(images, planes, side, crop), options)
        if sample.valid is not None:  # colour changes moved the pixels that hold no data
            images = tuple(np.where(planes[1] > 0, image, np.float32(0)) for image in images)
        return (images, planes), sample.stem

    def _check_rgb(self) -> None:
        """Refuse photometric distortion where no image is 8-bit RGB.

        Raises:
            InputError: with what to use instead.
        """
        inputs = self.split.dataset.inputs
        if not any(image.dtype == "uint8" and len(image.bands) == 3 for image in inputs):
            raise InputError(
                "augment.photometric is for 8-bit red, green, blue, not for "
                f"{' and '.join(image.describe() for image in inputs)}. Use augment.brightness, "
                "contrast, saturation and band_shift, and set augment.photometric=none."
            )


class BatchStream:
    """An endless stream of batches of keys, epoch after epoch, that can start anywhere.

    Every process draws the same order and takes its own share of each batch. What does not fill a
    batch at the end of an epoch waits for the next one's shuffle; a split smaller than one batch
    is repeated until it fills one.

    Args:
        samples: what is drawn from.
        batch_size: samples a batch.
        seed: of the order.
        rank, world: this process among several.
        tiles_per_batch: if above 0, a batch is all crops of so many tiles.
    """

    def __init__(
        self,
        samples: Samples,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        tiles_per_batch: int = 0,
    ) -> None:
        self.samples = samples
        self.batch_size = batch_size
        self.tiles_per_batch = tiles_per_batch
        self.seed = seed
        self.rank = rank
        self.world = world
        self.start = 0
        units = len({tile for tile, _ in samples.items}) if tiles_per_batch else len(samples.items)
        self.per_epoch = max(1, units // ((tiles_per_batch or batch_size) * world))

    def epoch(self, number: int) -> list[list[Key]]:
        """This process's batches of one epoch."""
        rng = np.random.default_rng(np.random.SeedSequence((self.seed, number, _ORDER)))
        if self.tiles_per_batch:
            return self._by_tiles(rng, number)
        size = self.batch_size
        wanted = self.per_epoch * size * self.world
        count = len(self.samples.items)
        rounds = math.ceil(wanted / count)
        order = np.concatenate([rng.permutation(count) for _ in range(rounds)])
        keys = [(number, place, int(item)) for place, item in enumerate(order[:wanted])]
        step = size * self.world
        return [
            keys[first + self.rank * size : first + (self.rank + 1) * size]
            for first in range(0, wanted, step)
        ]

    def _by_tiles(self, rng: np.random.Generator, number: int) -> list[list[Key]]:
        """Batches that hold all crops of a few tiles."""
        parts: dict[int, list[int]] = {}
        for item, (tile, _) in enumerate(self.samples.items):
            parts.setdefault(tile, []).append(item)
        group = self.tiles_per_batch
        tiles = rng.permutation(len(parts))
        batches = []
        for batch in range(self.per_epoch):
            first = (batch * self.world + self.rank) * group
            chosen = [int(tiles[i % len(tiles)]) for i in range(first, first + group)]
            items = [item for tile in chosen for item in parts[tile]]
            batches.append([(number, (first << 24) + i, item) for i, item in enumerate(items)])
        return batches

    def __iter__(self) -> Iterator[list[Key]]:
        number, skip = divmod(self.start, self.per_epoch)
        while True:
            yield from self.epoch(number)[skip:]
            number, skip = number + 1, 0


def _collate(samples: list[tuple[tuple[Tensor, ...], Tensor, str]]) -> Batch:
    dates = len(samples[0][0])
    images = tuple(torch.stack([s[0][date] for s in samples]) for date in range(dates))
    return Batch(images, torch.stack([s[1] for s in samples]), tuple(s[2] for s in samples))


def make_loader(stream: BatchStream, start: int, workers: int, pin: bool) -> DataLoader[Batch]:
    """A loader over ``stream`` from batch number ``start`` on.

    It has a generator of its own: PyTorch would draw from the global one otherwise, and a resumed
    run would go another way than one in one piece.
    """
    stream.start = start
    return DataLoader(
        stream.samples,
        batch_sampler=stream,
        num_workers=workers,
        collate_fn=_collate,
        pin_memory=pin,
        generator=torch.Generator().manual_seed(stream.seed),
        prefetch_factor=4 if workers else None,
    )


def worker_count(wanted: int | str, on_gpu: bool) -> int:
    """How many reading processes: what was asked for, or none without a GPU to wait for."""
    if wanted != "auto":
        return int(wanted)
    return min(8, max(1, (os.cpu_count() or 1) - 1)) if on_gpu else 0


def measure_transform(
    split: Split, images: Sequence[int], decibels: bool = False, most: int = 256
) -> Transform:
    """Measure the mean and standard deviation of every band over a split.

    Args:
        split: the training split.
        images: which of a sample's images to measure together; they have the same bands.
        decibels: the files hold power, and the model gets 10 log10 of it.
        most: measure at most so many tiles, evenly spread.

    Returns:
        A transform to mean 0 and deviation 1; a constant band gets deviation 1.
    """
    bands = len(split.dataset.inputs[images[0]].bands)
    zero, one = (0.0,) * bands, (1.0,) * bands
    plain = Transform(offset=zero, scale=one, db=decibels, mean=zero, std=one)
    known = None if decibels else split.moments()
    if known is not None:
        whole = [known[place] for place in images]
        joint = sum(whole[1:], start=whole[0])
        return _to_unit(plain, *joint.mean_and_std())
    count = np.zeros(bands)
    total = np.zeros(bands)
    squares = np.zeros(bands)
    for index in np.unique(np.linspace(0, len(split) - 1, min(most, len(split))).astype(int)):
        sample = split.read(int(index))
        for place in images:
            values = sample.images[place]
            shown = plain.apply(values) if decibels else values
            flat: NDArray[np.float64] = shown.reshape(bands, -1).astype(np.float64)
            if sample.valid is not None:
                flat = flat[:, sample.valid.ravel()]
            count += flat.shape[1]
            total += flat.sum(axis=1)
            squares += (flat**2).sum(axis=1)
    mean = total / np.maximum(count, 1)
    spread = np.sqrt(np.maximum(squares / np.maximum(count, 1) - mean**2, 0))
    return _to_unit(plain, mean, spread)


def _to_unit(plain: Transform, mean: NDArray[np.float64], spread: NDArray[np.float64]) -> Transform:
    """A transform to mean 0 and deviation 1; a constant band gets deviation 1."""
    return plain.model_copy(
        update={
            "mean": tuple(float(m) for m in mean),
            "std": tuple(float(s) if s > 1e-6 else 1.0 for s in spread),
        }
    )
