"""How overlapping windows are merged: weights along one axis, exact to the last pixel.

The windows of a scene form a lattice, so that the weight of a window at a pixel is the product of
one number for its row and one for its column. An `AxisBlend` holds these numbers for one axis,
already divided by their sum over the windows, so that a weighted sum of probabilities needs no
further normalisation. Three rules keep seams out:

* a window's side that is the scene's side is neither trimmed nor tapered;
* elsewhere the outer ``trim`` pixels are dropped first, and only what still overlaps is tapered;
* no weight inside what is kept is zero.
"""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from rsmamba_cli.errors import InputError
from rsmamba_cli.raster.grid import window_starts

Blend = Literal["hann", "average", "crop"]
Weights = npt.NDArray[np.float32]


@dataclass(frozen=True)
class AxisBlend:
    """The windows along one axis of a scene and their weights.

    Attributes:
        length: pixels of the scene along this axis.
        tile: window size, at least the scene's part it covers (a window may reach beyond a scene
            that is smaller than it).
        stride: distance of neighbouring windows, but for the last one, which is shifted inwards.
        starts: first pixel of every window.
        low: first pixel that each window contributes to, strictly increasing, ``low[0] == 0``.
        high: one past the last pixel that each window contributes to, strictly increasing,
            ``high[-1] == length``.
        weights: for each window the weights of pixels ``low`` to ``high``, in (0, 1].
    """

    length: int
    tile: int
    stride: int
    starts: tuple[int, ...]
    low: tuple[int, ...]
    high: tuple[int, ...]
    weights: tuple[Weights, ...]

    @cached_property
    def cuts(self) -> tuple[int, ...]:
        """Pixels at which bands begin: band ``i`` is final once windows ``0..i`` are added."""
        return (*self.low, self.length)

    def reaching(self, first: int, last: int) -> range:
        """Windows that contribute to any pixel of ``first <= pixel < last``."""
        return range(bisect_right(self.high, first), bisect_left(self.low, last))


def shared(axis: AxisBlend) -> int:
    """The most pixels along an axis that a window leaves for its successor to finish."""
    return max((h - low for h, low in zip(axis.high, axis.low[1:], strict=False)), default=0)


def axis_stride(tile: int, overlap: float, trim: int) -> int:
    """Distance of neighbouring windows so that what is left after trimming still covers the scene.

    Args:
        tile: window size in pixels.
        overlap: wanted overlap of neighbouring windows as a fraction of the window, 0 <= f < 1.
        trim: pixels dropped from every inner window side.

    Raises:
        InputError: overlap out of range, or nothing left after trimming.
    """
    if not 0 <= overlap < 1:
        raise InputError(f"the overlap is a fraction from 0 up to (not including) 1; got {overlap}")
    if trim < 0 or tile - 2 * trim < 1:
        raise InputError(
            f"trimming {trim} pixels from both sides of a window of {tile} pixels leaves nothing; "
            "choose a larger --tile or a smaller --trim"
        )
    return max(1, min(round(tile * (1 - overlap)), tile - 2 * trim))


def axis_blend(length: int, tile: int, stride: int, trim: int, blend: Blend) -> AxisBlend:
    """Windows and weights along one axis.

    Args:
        length: pixels of the scene along the axis.
        tile: window size.
        stride: distance of neighbouring windows, at most ``tile - 2 * trim``.
        trim: pixels dropped from inner window sides.
        blend: ``hann`` (raised cosine inside the overlap only), ``average`` or ``crop`` (every
            pixel from one window, cut in the middle of the overlap).
    """
    starts = window_starts(length, tile, stride)
    last = len(starts) - 1
    low = [start + (trim if i > 0 else 0) for i, start in enumerate(starts)]
    high = [min(start + tile, length) - (trim if i < last else 0) for i, start in enumerate(starts)]
    if blend == "crop":
        middle = [(low[i] + high[i - 1]) // 2 for i in range(1, last + 1)]
        low, high = [0, *middle], [*middle, length]
    raw = []
    for i in range(last + 1):
        weight = np.ones(high[i] - low[i], dtype=np.float64)
        if blend == "hann":
            if i > 0:
                overlap = high[i - 1] - low[i]
                weight[:overlap] *= _rising_half(overlap)
            if i < last:
                overlap = high[i] - low[i + 1]
                weight[len(weight) - overlap :] *= _rising_half(overlap)[::-1]
        raw.append(weight)
    total = np.zeros(length, dtype=np.float64)
    for i, weight in enumerate(raw):
        total[low[i] : high[i]] += weight
    weights = tuple(
        (weight / total[low[i] : high[i]]).astype(np.float32) for i, weight in enumerate(raw)
    )
    return AxisBlend(length, tile, stride, starts, tuple(low), tuple(high), weights)


def _rising_half(length: int) -> npt.NDArray[np.float64]:
    """The rising half of a Hann window sampled at pixel centres: never 0, w + reversed w = 1."""
    position = (np.arange(length) + 0.5) / max(length, 1)
    return 0.5 - 0.5 * np.cos(np.pi * position)
