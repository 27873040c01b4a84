"""Windows to finished blocks: weighted sums of probabilities, and what follows from them.

Windows come row by row from the top, each row from the left. Once a window is added, no later one
reaches the columns left of its successor, so that the upper part of them is final: classes are
chosen there while the sums are still in the processor's cache. What the next row of windows will
add to is carried over. Sums are therefore held for one window and for the rows in which
neighbouring rows of windows overlap, never for a whole row of windows.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rsmamba_cli.inference.emit import block_arrays
from rsmamba_cli.inference.plan import Plan
from rsmamba_cli.inference.source import Bools, Floats
from rsmamba_cli.raster.blend import AxisBlend, shared

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class RowBegins:
    """A row of windows begins.

    Attributes:
        row: of the lattice.
        wanted: (h, w) of the band that it makes final: pixels that want an answer.
    """

    row: int
    wanted: Bools


@dataclass(frozen=True)
class WindowPasses:
    """The next window of the row.

    Attributes:
        column: of the lattice.
        slot: its place in the batch of probabilities; None if the model was not asked.
    """

    column: int
    slot: int | None


Step = RowBegins | WindowPasses


class RollingSums:
    """Weighted sums of probabilities where they are not final yet, in one strip.

    Contributions are added in row-major order of the windows, so that every pixel sees the same
    float32 operations in the same order however the scene was cut.
    """

    def __init__(
        self,
        plan: Plan,
        left: int,
        right: int,
        bands: Sequence[int],
        finished: Callable[[int, Arrays], None],
    ) -> None:
        """Begin with sums of zero.

        Args:
            plan: of the run.
            left: first column of the strip.
            right: one past its last column.
            bands: those that are to be finished.
            finished: gets each of them with all its layers, from the top.
        """
        rows, cols = plan.rows, plan.cols
        self._plan = plan
        self._layers = plan.layout.layers
        self._left, self._right = left, right
        self._bands = frozenset(bands)
        self._finished = finished
        channels, tall, wide = plan.channels(), _longest(rows), _longest(cols)
        # Flat, so that what is used of them lies together whatever the shape of the window: sums
        # in rows as long as the strip take three times as long.
        self._sums = np.empty(channels * tall * wide, dtype=np.float32)
        # Sums that the next window (held) and the next row of windows (carried) add to.
        self._held = np.empty((channels, tall, shared(cols)), dtype=np.float32)
        self._carried = np.empty((channels, shared(rows), right - left), dtype=np.float32)
        # The row above which a column may hold anything but zeros: what is empty costs nothing.
        self._filled_to = np.zeros(right - left, dtype=np.int64)
        self._row = 0
        self._carried_to = 0
        self._held_to = left
        self._wanted: Bools | None = None
        self._block: Arrays = {}

    def pass_by(self, steps: Sequence[Step], probabilities: Floats | None) -> None:
        """Take the next windows.

        Args:
            steps: rows and windows in their order; every window of a row, from the strip's first
                to its last.
            probabilities: (n, classes, h, w), what the windows' slots refer to.
        """
        for step in steps:
            if isinstance(step, RowBegins):
                self._begin(step)
            elif step.slot is None:
                self._pass(step.column, None)
            else:
                assert probabilities is not None
                self._pass(step.column, probabilities[step.slot])

    def _begin(self, step: RowBegins) -> None:
        self._row, self._wanted, self._held_to = step.row, step.wanted, self._left
        if step.row in self._bands:
            height, width = step.wanted.shape
            self._block = {
                name: np.full((layer.count, height, width), layer.fill, dtype=layer.dtype)
                for name, layer in self._layers.items()
            }

    def _pass(self, column: int, window: Floats | None) -> None:
        rows, cols, row, left = self._plan.rows, self._plan.cols, self._row, self._left
        top, bottom, high = rows.cuts[row], rows.cuts[row + 1], rows.high[row]
        # The window adds to columns start to end; those up to stop are final afterwards.
        start, end = max(cols.low[column], left), min(cols.high[column], self._right)
        stop = min(max(cols.cuts[column + 1], left), self._right)
        filled_to = self._filled_to[start - left : end - left]
        empty = filled_to <= top
        if window is not None or not empty.all():
            shape = (len(self._held), high - top, end - start)
            sums = self._sums[: math.prod(shape)].reshape(shape)
            if window is None:
                sums[...] = 0
            else:
                self._weigh(window, column, start, end, sums)
                filled_to[:] = high
            self._add_earlier(sums, start, end, empty)
            if window is not None and row in self._bands:
                self._choose(sums[:, : bottom - top, : stop - start], start)
            self._carried[:, : high - bottom, start - left : stop - left] = sums[
                :, bottom - top :, : stop - start
            ]
            self._held[:, : high - top, : end - stop] = sums[:, :, stop - start :]
        self._held_to = end
        if stop == self._right:
            self._carried_to = high
            if row in self._bands:
                self._finished(row, self._block)
                self._block = {}

    def _weigh(self, window: Floats, column: int, start: int, end: int, out: Floats) -> None:
        rows, cols, row = self._plan.rows, self._plan.cols, self._row
        across = cols.weights[column][start - cols.low[column] : end - cols.low[column]]
        from_rows = slice(rows.low[row] - rows.starts[row], rows.high[row] - rows.starts[row])
        from_cols = slice(start - cols.starts[column], end - cols.starts[column])
        # Of two classes only the second is summed.
        first_class = len(window) - len(out)
        weight = rows.weights[row][:, None] * across
        np.multiply(window[first_class:, from_rows, from_cols], weight, out=out)

    def _add_earlier(self, sums: Floats, start: int, end: int, empty: Bools) -> None:
        """Add what earlier windows have summed up; where that is nothing, nothing was kept."""
        if empty.all():
            return
        known = self._held_to - start
        above = max(self._carried_to - self._plan.rows.cuts[self._row], 0)
        held = self._held[:, : sums.shape[1], :known]
        carried = self._carried[:, :above, self._held_to - self._left : end - self._left]
        if empty.any():
            held[:, :, empty[:known]] = 0
            carried[:, :, empty[known:]] = 0
        sums[:, :, :known] += held
        sums[:, :above, known:] += carried

    def _choose(self, sums: Floats, start: int) -> None:
        """Fill a part of the block whose sums are final."""
        part = slice(start - self._left, start - self._left + sums.shape[2])
        assert self._wanted is not None
        for name, values in block_arrays(self._plan, sums, self._wanted[:, part]).items():
            self._block[name][:, :, part] = values


def _longest(axis: AxisBlend) -> int:
    return max(high - low for low, high in zip(axis.low, axis.high, strict=True))
