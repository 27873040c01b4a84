"""Probabilities and figures over whole tiles: nothing cut off, nothing counted twice."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol as Interface

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rsmamba_cli.datasets import IGNORE, Sample
from rsmamba_cli.evaluation.calibration import SMALLEST
from rsmamba_cli.evaluation.metrics import Counts, confusion_of, empty_confusion
from rsmamba_cli.evaluation.protocols import (
    WHOLE,
    Protocol,
    log_of,
    resize_probability,
    resize_sample,
    softmax,
)
from rsmamba_cli.inference.normalise import normalise
from rsmamba_cli.inference.predictor import Predictor
from rsmamba_cli.inference.sampler import Place
from rsmamba_cli.raster.blend import Blend, axis_blend, axis_stride
from rsmamba_models import CheckpointMeta

Floats = NDArray[np.float32]
Forward = Callable[[tuple[Floats, ...], Sequence[Place]], Floats]
"""Normalised arrays (N, C, H, W), one an input, and places -> probabilities (N, K, H, W)."""


class Samples(Interface):
    """Whatever gives samples by number, such as a split."""

    def __getitem__(self, index: int) -> Sample: ...


WHOLE_LIMIT = 2048
"""Tiles with a longer side are run in windows: activations grow with the area."""

_UNIT = 256 * 256
"""Batch sizes are given in tiles of so many pixels."""


def model_inputs(sample: Sample, meta: CheckpointMeta) -> tuple[Floats, ...]:
    """Bring a sample's images to what the model takes; pixels without data become 0."""
    shape = sample.images[0].shape[1:]
    valid = np.ones(shape, bool) if sample.valid is None else sample.valid
    return tuple(
        normalise(image, valid, spec.transform)
        for image, spec in zip(sample.images, meta.inputs, strict=True)
    )


def in_windows(
    forward: Forward,
    images: tuple[Floats, ...],
    tile: int,
    meta: CheckpointMeta,
    place: Place = (),
    stride: int | None = None,
) -> Floats:
    """Run a tile in overlapping windows and merge them.

    Args:
        forward: the model.
        images: normalised arrays (C, H, W), one a date.
        tile: side of the windows.
        meta: says how much neighbouring windows overlap.
        place: of the tile; window row and column are added to it.
        stride: distance of windows whose logits are averaged, as mmsegmentation does; None blends
            probabilities, as ``predict`` does with scenes.

    Returns:
        Probabilities (K, H, W).
    """
    height, width = images[0].shape[1:]
    blend: Blend = "hann" if stride is None else "average"
    step = axis_stride(tile, meta.overlap, 0) if stride is None else stride
    rows, columns = (axis_blend(length, tile, step, 0, blend) for length in (height, width))
    out: Floats | None = None
    for i, top in enumerate(rows.starts):
        for j, left in enumerate(columns.starts):
            part = tuple(a[None, :, top : top + tile, left : left + tile] for a in images)
            found = forward(tuple(np.ascontiguousarray(a) for a in part), [(*place, i, j)])[0]
            if stride is not None:
                found = log_of(found)
            if out is None:
                out = np.zeros((len(found), height, width), np.float32)
            r, c = slice(rows.low[i], rows.high[i]), slice(columns.low[j], columns.high[j])
            weight = rows.weights[i][:, None] * columns.weights[j][None, :]
            inner = found[:, r.start - top : r.stop - top, c.start - left : c.stop - left]
            out[:, r, c] += weight * inner
    if out is None:
        raise ValueError("a tile without pixels")
    return out if stride is None else softmax(out)


def decide(probability: Floats, meta: CheckpointMeta) -> NDArray[np.int64]:
    """Choose a class index for every pixel of (K, H, W); ties go to the lowest class."""
    chosen: NDArray[np.int64] = (
        (probability[1] >= np.float32(meta.threshold)).astype(np.int64)
        if meta.output == "sigmoid"
        else probability.argmax(axis=0)
    )
    return chosen


@dataclass
class Tally:
    """What is accumulated over a split.

    Attributes:
        confusion: pixels by true and predicted class.
        log_likelihood: the sum of -log p(true class) over labelled pixels.
    """

    confusion: Counts
    log_likelihood: float = 0.0

    @classmethod
    def empty(cls, classes: int) -> "Tally":
        """Nothing counted yet."""
        return cls(empty_confusion(classes))

    def add(self, label: NDArray[np.int64], probability: Floats, meta: CheckpointMeta) -> float:
        """Count one tile: class indices (H, W) against probabilities (K, H, W).

        Returns:
            The share of wrong pixels among the labelled ones; 0 without labels.
        """
        guess = decide(probability, meta)
        counts = confusion_of(label, guess, len(probability), IGNORE)
        self.confusion += counts
        known = label != IGNORE
        true = np.where(known, label, 0)
        likelihood = np.take_along_axis(probability, true[None], axis=0)[0][known]
        self.log_likelihood -= float(
            np.log(np.maximum(likelihood, SMALLEST), dtype=np.float64).sum()
        )
        return float(1 - np.trace(counts) / counts.sum()) if counts.any() else 0.0

    @property
    def pixels(self) -> int:
        """Labelled pixels so far."""
        return int(self.confusion.sum())

    @property
    def nll(self) -> float:
        """Mean -log p(true class); NaN without pixels."""
        return self.log_likelihood / self.pixels if self.pixels else float("nan")


def run_split(
    model: nn.Module,
    meta: CheckpointMeta,
    device: torch.device,
    split: Samples,
    indices: Sequence[int],
    batch_size: int,
    tile: int | None = None,
    protocol: Protocol = WHOLE,
) -> Iterator[tuple[int, Sample, Floats]]:
    """Run tiles of a split through a model in float32, whole or in windows.

    Neighbours of one size share a batch, fewer the larger they are.

    Args:
        model: left in eval mode.
        meta: the model's description.
        device: where to run.
        split: where tiles come from.
        indices: which tiles.
        batch_size: tiles of 256 x 256 in a batch.
        tile: run every tile in blended windows of this side; None does what the protocol says, and
            runs tiles up to `WHOLE_LIMIT` whole where it says nothing.
        protocol: size and windows.

    Yields:
        Index, sample and probabilities (K, H, W) at the label's size, in the order of ``indices``.
    """
    waiting: list[tuple[int, Sample, tuple[Floats, ...]]] = []

    def flush() -> Iterator[tuple[int, Sample, Floats]]:
        if waiting:
            dates = len(waiting[0][2])
            stacked = tuple(np.stack([w[2][date] for w in waiting]) for date in range(dates))
            places = [(w[0],) for w in waiting]
            found = Predictor(model, meta, device, batch_size=len(waiting))(stacked, places)
            for (index, sample, _), probability in zip(waiting, found, strict=True):
                yield index, sample, resize_probability(probability, sample.label.shape)
            waiting.clear()

    for index in indices:
        sample = split[index]
        shown = sample
        for size in protocol.sizes(*sample.label.shape):
            shown = resize_sample(shown, size)
        images = model_inputs(shown, meta)
        height, width = images[0].shape[1:]
        window = tile or protocol.window
        if window is not None or max(height, width) > WHOLE_LIMIT:
            yield from flush()
            stride = protocol.stride if tile is None else None
            forward = Predictor(model, meta, device)
            found = in_windows(forward, images, window or meta.tile, meta, (index,), stride)
            yield index, sample, resize_probability(found, sample.label.shape)
            continue
        room = max(1, batch_size * _UNIT // (height * width))
        if waiting and (waiting[0][2][0].shape != images[0].shape or len(waiting) >= room):
            yield from flush()
        waiting.append((index, sample, images))
    yield from flush()
