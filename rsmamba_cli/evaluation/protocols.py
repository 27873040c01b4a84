"""How the figures of a dataset are made officially: at which size, in which windows, over what.

A protocol says what happens to a tile between its file and its probabilities. Labels are never
resized: what the model says is brought to their size. Where official code averages or resizes
logits, so do we: the logarithms of our probabilities differ from the logits by a number a pixel,
which is the same for all classes, and neither a weighted mean nor a softmax notices it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from rsmamba_cli.datasets import Sample
from rsmamba_cli.errors import InputError

Floats = NDArray[np.float32]

_TINY = np.finfo(np.float32).tiny


@dataclass(frozen=True)
class Protocol:
    """One way to measure.

    Attributes:
        name: what ``--protocol`` takes.
        source: whose it is, and what it does.
        split: the split that its figures are of.
        scale: (long, short) sides that a tile is resized into, its shape kept; None leaves it.
        multiple: sides are then rounded up to multiples of this, by a second resize.
        window: side of windows whose logits are averaged; None takes tiles whole.
        stride: of the windows.
        means_without: classes that count as pixels but stay out of means over classes.
    """

    name: str
    source: str
    split: str = "test"
    scale: tuple[int, int] | None = None
    multiple: int = 1
    window: int | None = None
    stride: int | None = None
    means_without: tuple[str, ...] = ()

    def sizes(self, height: int, width: int) -> list[tuple[int, int]]:
        """Height and width that a tile is resized to, one resize after the other."""
        out: list[tuple[int, int]] = []
        if self.scale is not None:
            long, short = max(self.scale), min(self.scale)
            factor = min(long / max(height, width), short / min(height, width))
            height, width = (int(side * factor + 0.5) for side in (height, width))
            out.append((height, width))
        if self.multiple > 1:
            height, width = (math.ceil(s / self.multiple) * self.multiple for s in (height, width))
            out.append((height, width))
        return out


WHOLE = Protocol(
    "whole", "every tile in one pass as it is (in blended windows beyond 2048 pixels a side)"
)

PROTOCOLS: Mapping[str, Protocol] = {
    protocol.name: protocol
    for protocol in (
        WHOLE,
        Protocol("loveda", "Samba, mmsegmentation: whole at 1024", "val", (1024, 1024)),
        Protocol("isprs", "Samba, mmsegmentation: chips whole at 512", "val", (512, 512)),
        Protocol("isprs-1024", "Seg-LSTM: chips of 512 enlarged to 1024", "val", (1024, 1024)),
        Protocol(
            "isprs-five",
            "most papers on Potsdam and Vaihingen: as isprs, means over the five classes beside "
            "clutter",
            "val",
            (512, 512),
            means_without=("clutter",),
        ),
        Protocol(
            "whu-opt-sar-512", "Mamba-Diffusion: tiles of 256 enlarged to 512", "val", (512, 512)
        ),
        Protocol(
            "ade20k", "SegMAN: short side 512, sides up to multiples of 32", "val", (2048, 512), 32
        ),
        Protocol(
            "coco-stuff",
            "SegMAN: short side 512, sides up to multiples of 32",
            "val",
            (2048, 512),
            32,
        ),
        Protocol(
            "cityscapes",
            "SegMAN T, S, B: windows of 1024 every 768 pixels, logits averaged",
            "val",
            window=1024,
            stride=768,
        ),
        Protocol(
            "cityscapes-whole", "SegMAN L: images of 2048 x 1024 in one pass", "val", (2048, 1024)
        ),
    )
}

_DEFAULTS = {
    "loveda": "loveda",
    "potsdam": "isprs",
    "vaihingen": "isprs",
    "ade20k": "ade20k",
    "coco-stuff": "coco-stuff",
    "cityscapes": "cityscapes",
}
"""Dataset -> its protocol; all others are measured whole."""


def protocol_of(dataset: str, name: str | None = None) -> Protocol:
    """The protocol of this name, or the default of a dataset.

    Raises:
        InputError: there is no such protocol.
    """
    wanted = name or _DEFAULTS.get(dataset, WHOLE.name)
    if wanted not in PROTOCOLS:
        known = ", ".join(PROTOCOLS)
        raise InputError(f"There is no protocol called {wanted!r}. Known: {known}.")
    return PROTOCOLS[wanted]


def resize_sample(sample: Sample, size: tuple[int, int]) -> Sample:
    """Resize the images of a sample as mmcv does: bilinear, no smoothing, whole numbers rounded.

    The label stays as it is.
    """
    if sample.images[0].shape[1:] == size:
        return sample
    images = []
    for image in sample.images:
        resized = _bilinear(image.astype(np.float32), size)
        whole = np.issubdtype(image.dtype, np.integer)
        images.append((np.rint(resized) if whole else resized).astype(image.dtype))
    valid = sample.valid
    if valid is not None:
        rows = np.arange(size[0]) * valid.shape[0] // size[0]
        columns = np.arange(size[1]) * valid.shape[1] // size[1]
        valid = valid[np.ix_(rows, columns)]
    return Sample(tuple(images), sample.label, sample.stem, valid)


def resize_probability(probability: Floats, size: tuple[int, int]) -> Floats:
    """Probabilities (K, h, w) as of logits that were resized (bilinearly) to ``size``."""
    if probability.shape[1:] == size:
        return probability
    return softmax(_bilinear(log_of(probability), size))


def log_of(probability: Floats) -> Floats:
    """Logarithms that are finite everywhere."""
    return np.log(np.maximum(probability, _TINY))


def softmax(scores: Floats) -> Floats:
    """Over the first axis, float32."""
    power = np.exp(scores - scores.max(axis=0))
    return np.asarray(power / power.sum(axis=0), np.float32)


def _bilinear(array: Floats, size: tuple[int, int]) -> Floats:
    """(C, h, w) -> (C, *size), corners not aligned."""
    tensor = torch.from_numpy(np.ascontiguousarray(array))[None]
    out = functional.interpolate(tensor, size=size, mode="bilinear", align_corners=False)
    return out[0].numpy()
