"""Rasters on a coarser or finer grid of the same area, and back.

Both ways are separable: a matrix of weights for the rows, one for the columns. Coarser pixels are
means over their area, finer ones are interpolated bilinearly between centres. Invalid pixels have
no weight, and weights are renormalised, so that nothing leaks from them. A pixel's value depends on
its place alone, never on the window that was asked for.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from rsmamba_cli.raster.grid import Grid

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


class Windowed(Protocol):
    """What is resampled: windows of values and their validity."""

    grid: Grid

    def read(self, row: int, col: int, height: int, width: int) -> tuple[Floats, Bools]:
        """Values (bands, height, width) and validity (height, width)."""
        ...


@dataclass(frozen=True)
class Axis:
    """Resampling along one axis, from ``old`` pixels to ``new``.

    Attributes:
        old: pixels there are.
        new: pixels that are wanted, covering the same length.
    """

    old: int
    new: int

    def taps(self, first: int, last: int) -> tuple[npt.NDArray[np.int64], Floats]:
        """Old pixels and weights of the new pixels ``first <= pixel < last``.

        Returns:
            Indices and weights, each (last - first, taps); the weights of a pixel sum to one.
        """
        step = self.old / self.new
        pixel = np.arange(first, last, dtype=np.float64)
        if step > 1:
            begin, end = pixel * step, (pixel + 1) * step
            index = np.floor(begin)[:, None] + np.arange(math.ceil(step) + 1)
            weight = np.minimum(end[:, None], index + 1) - np.maximum(begin[:, None], index)
            weight = np.maximum(weight, 0) / step
        else:
            centre = (pixel + 0.5) * step - 0.5
            index = np.floor(centre)[:, None] + np.arange(2)
            share = centre - np.floor(centre)
            weight = np.stack([1 - share, share], axis=1)
        return np.clip(index, 0, self.old - 1).astype(np.int64), weight.astype(np.float32)

    def reach(self, first: int, last: int) -> tuple[int, int]:
        """The old pixels that some new ones are made of, as (first, one past the last)."""
        index, _ = self.taps(first, last)
        return int(index[0].min()), int(index[-1].max()) + 1


class Resampled:
    """A reader on a coarser or finer grid of the same area.

    Attributes:
        grid: of the result.
    """

    def __init__(self, reader: Windowed, grid: Grid) -> None:
        """Remember what to read.

        Args:
            reader: what is resampled.
            grid: of the same area (see `Grid.decimated`).
        """
        self.grid = grid
        self._reader = reader
        self._rows = Axis(reader.grid.height, grid.height)
        self._cols = Axis(reader.grid.width, grid.width)

    def read(self, row: int, col: int, height: int, width: int) -> tuple[Floats, Bools]:
        """Values (bands, height, width), and whether any valid pixel is in them."""
        top, bottom = self._rows.reach(row, row + height)
        left, right = self._cols.reach(col, col + width)
        values, valid = self._reader.read(top, left, bottom - top, right - left)
        return resample(
            values,
            valid,
            self._rows,
            self._cols,
            (row, row + height),
            (col, col + width),
            top,
            left,
        )

    def touches(self, row: int, col: int, height: int, width: int) -> bool:
        """Whether a window may hold anything valid."""
        touches: Callable[[int, int, int, int], bool] | None = getattr(
            self._reader, "touches", None
        )
        if touches is None:
            return True
        top, bottom = self._rows.reach(row, row + height)
        left, right = self._cols.reach(col, col + width)
        return touches(top, left, bottom - top, right - left)


def resample(
    values: Floats,
    valid: Bools,
    rows: Axis,
    cols: Axis,
    wanted_rows: tuple[int, int],
    wanted_cols: tuple[int, int],
    top: int,
    left: int,
) -> tuple[Floats, Bools]:
    """Resample a window.

    Args:
        values: (bands, h, w) of the old grid.
        valid: (h, w).
        rows: resampling of the rows.
        cols: resampling of the columns.
        wanted_rows: first and one past the last row of the new grid.
        wanted_cols: the same of its columns.
        top: row of the old grid that ``values`` begins at; it reaches as far as `Axis.reach` says.
        left: column of the old grid that ``values`` begins at.

    Returns:
        Values (bands, rows, columns), 0 where nothing is valid, and where anything is.
    """
    down, down_weight = rows.taps(*wanted_rows)
    across, across_weight = cols.taps(*wanted_cols)
    down, across = down - top, across - left
    known = valid.astype(np.float32)
    weight = _along_cols(_along_rows(known, down, down_weight), across, across_weight)
    out = np.empty((len(values), *weight.shape), dtype=np.float32)
    found = weight > 1e-6
    divisor = np.where(found, weight, np.float32(1))
    for into, band in zip(out, values, strict=True):
        masked = np.where(valid, band, np.float32(0))
        mixed = _along_cols(_along_rows(masked, down, down_weight), across, across_weight)
        np.divide(mixed, divisor, out=into)
        into[~found] = 0
    return out, found


def _along_rows(values: Floats, index: npt.NDArray[np.int64], weight: Floats) -> Floats:
    total = values[index[:, 0]] * weight[:, :1]
    for tap in range(1, index.shape[1]):
        total += values[index[:, tap]] * weight[:, tap : tap + 1]
    return total


def _along_cols(values: Floats, index: npt.NDArray[np.int64], weight: Floats) -> Floats:
    total = values[:, index[:, 0]] * weight[:, 0]
    for tap in range(1, index.shape[1]):
        total += values[:, index[:, tap]] * weight[:, tap]
    return total
