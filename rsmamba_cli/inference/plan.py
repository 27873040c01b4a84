"""The plan of a run: which windows there are, how the work is cut, and what it makes.

A plan follows from the scene's size, the checkpoint and the options alone, never from what happens
to be free on a machine, so that every engine, worker and resumed run has the same one. The window
lattice belongs to the scene; chunks only select from it.
"""

import math
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rsmamba_cli.errors import InputError
from rsmamba_cli.raster.blend import AxisBlend, Blend, axis_blend, axis_stride, shared
from rsmamba_cli.raster.blocks import Key, Layer, Layout

BANDS_PER_CHUNK = 16
"""Of a chunk: the one row of windows that is computed for two chunks is then a sixteenth more."""


NARROWEST_STRIP = 4
"""In windows: those at the border of two strips are computed for both."""

CACHE_SHARE = 8
"""GDAL's cache gets one part in so many of the memory, twice that where blocks are tall."""

RESERVE_BYTES = 80 << 20
"""What lies between files and buffers at a time, and gaps in the heap: 40 to 70 MiB were seen."""


@dataclass(frozen=True)
class Chunk:
    """The unit that is handed to a worker: some bands of one strip.

    Attributes:
        strip: index of the strip of columns.
        bands: indices of the bands from the top, each committed on its own.
    """

    strip: int
    bands: tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """Windows, cuts and products of one run.

    Attributes:
        rows: windows and weights from top to bottom; window row ``i`` makes band ``i`` final.
        cols: windows and weights from left to right.
        strips: indices into ``cols.cuts`` at which strips of columns begin, and the last cut.
        batch_size: windows a forward pass, the last batch padded.
        layers: the rasters that are made.
        class_values: mask value of each class.
        nodata: mask value of pixels without an answer.
        threshold: for two classes, probability above which the second is chosen; else None.
        description: JSON values that say all of this and more (inputs, checkpoint, options).
        stored: what every block holds, where windows lie on another grid than the rasters; None
            is the layers themselves.
    """

    rows: AxisBlend
    cols: AxisBlend
    strips: tuple[int, ...]
    batch_size: int
    layers: Mapping[str, Layer]
    class_values: tuple[int, ...]
    nodata: int
    threshold: float | None
    description: Mapping[str, Any]
    stored: Mapping[str, Layer] | None = None

    @property
    def window_shape(self) -> tuple[int, int]:
        """(height, width) of every window."""
        return self.rows.tile, self.cols.tile

    @property
    def windows(self) -> int:
        """Windows of the lattice."""
        return len(self.rows.starts) * len(self.cols.starts)

    @property
    def layout(self) -> Layout:
        """How the results are cut into blocks."""
        cuts = self.cols.cuts
        return Layout(
            self.rows.cuts, tuple(cuts[s] for s in self.strips), self.stored or self.layers
        )

    def chunks(self, tall: int | None = None, done: Container[Key] = ()) -> Iterator[Chunk]:
        """What is left to do, strip by strip from the top.

        Args:
            tall: bands that a chunk reaches over; None takes the whole height.
            done: blocks (band, strip) that are finished. What is left of a chunk keeps its place,
                so that chunks are the same whatever is done.
        """
        bands = len(self.rows.starts)
        for strip in range(len(self.strips) - 1):
            for first in range(0, bands, tall or bands):
                last = min(first + (tall or bands), bands)
                missing = tuple(b for b in range(first, last) if (b, strip) not in done)
                if missing:
                    yield Chunk(strip, missing)

    def chunk_height(self, workers: int) -> int:
        """Bands that a chunk reaches over, so that every worker has something to do."""
        blocks = len(self.rows.starts) * (len(self.strips) - 1)
        return max(1, min(BANDS_PER_CHUNK, math.ceil(blocks / workers)))

    def channels(self) -> int:
        """Probabilities that are accumulated: two classes need only one."""
        return 1 if self.threshold is not None else len(self.class_values)


def plan_axes(
    shape: tuple[int, int],
    tile: int | str,
    overlap: float,
    trim: int,
    blend: Blend,
    size_multiple: int,
) -> tuple[AxisBlend, AxisBlend]:
    """Windows along both axes of a scene.

    A window is no larger than the scene rounded up to the model's size multiple: what lies beyond
    the scene is filled by replication and would only cost time.

    Args:
        shape: (height, width) of the scene.
        tile: window size in pixels, or "full" for one window over everything.
        overlap: fraction of the window.
        trim: pixels dropped from inner window sides.
        blend: how windows are merged.
        size_multiple: of the model.
    """
    axes = []
    for length in shape:
        most = math.ceil(length / size_multiple) * size_multiple
        size = most if tile == "full" else min(int(tile), most)
        stride = size if length <= size else axis_stride(size, overlap, trim)
        axes.append(axis_blend(length, size, stride, trim, blend))
    return axes[0], axes[1]


def plan_strips(
    rows: AxisBlend,
    cols: AxisBlend,
    channels: int,
    input_bands: int,
    layer_bytes: int,
    batch: int,
    memory: int,
    cache_column: int = 0,
) -> tuple[int, ...]:
    """Cut the columns so that what a strip holds in memory stays below a bound.

    Windows at the border of two strips are computed for both, so strips are as wide as the memory
    allows (half of it is the model's, an eighth GDAL's cache) and never narrower than four windows.

    Args:
        rows: windows from top to bottom.
        cols: windows from left to right.
        channels: float32 probabilities that are accumulated a pixel.
        input_bands: float32 values that are read a pixel, all inputs together.
        layer_bytes: of all layers, a pixel.
        batch: windows a forward pass.
        memory: the bound in bytes.
        cache_column: of GDAL's cache, for one column that is read.
    """
    windows = len(cols.starts)
    fixed = batch_bytes(rows, cols, channels, input_bands, batch) + RESERVE_BYTES
    budget = max(memory // 2 - memory // CACHE_SHARE - fixed, 0)
    columns = budget // (column_bytes(rows, channels, input_bands, layer_bytes) + cache_column)
    wide = max(NARROWEST_STRIP, (columns - 2 * shared(cols)) // cols.stride)
    count = math.ceil(windows / wide)
    return tuple(round(i * windows / count) for i in range(count + 1))


def column_bytes(rows: AxisBlend, channels: int, input_bands: int, layer_bytes: int) -> int:
    """Memory that one column of a strip takes at most: reading, sums, and blocks on their way."""
    buffers = 2 * min(rows.tile, rows.length) * (4 * input_bands + 1)
    # One is filled, one waits, one is packed; beside it what comes of that.
    blocks = 4 * min(rows.stride, rows.length) * (layer_bytes + 1)
    return buffers + blocks + channels * 4 * shared(rows)


def batch_bytes(
    rows: AxisBlend, cols: AxisBlend, channels: int, input_bands: int, batch: int
) -> int:
    """Memory of windows: two batches, three answers to such, and the sums of one window."""
    # Two classes are answered with one channel each.
    answers = 3 * max(channels, 2)
    sums = 2 * channels + 4
    return rows.tile * cols.tile * 4 * (batch * (2 * input_bands + answers) + sums)


def auto_batch_size(tile: tuple[int, int], device_type: str) -> int:
    """Windows a forward pass, from window size and device type alone.

    On a CPU one window keeps all cores busy and needs the least memory; an accelerator gets about
    sixteen windows of 512 pixels.
    """
    if device_type == "cpu":
        return 1
    return max(1, min(32, 16 * 512 * 512 // (tile[0] * tile[1])))


def check_threshold(threshold: float | None, classes: int) -> None:
    """Refuse a threshold for a model that has more than two classes.

    Raises:
        InputError: says why.
    """
    if threshold is not None and classes > 2:
        raise InputError(
            f"--threshold is for models with two classes; this one has {classes} and takes the "
            "most probable"
        )
