"""Rows of windows read ahead of the model, and the batches that are cut out of them."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from rsmamba_cli.inference.plan import Plan
from rsmamba_cli.inference.sampler import Place
from rsmamba_cli.inference.source import Bools, Floats, Source

Shape = tuple[int, ...]


class _Rows:
    """The pixels under one row of windows."""

    def __init__(self, bands: Sequence[int], height: int, width: int) -> None:
        self.inputs = tuple(np.empty((n, height, width), dtype=np.float32) for n in bands)
        self.wanted: Bools = np.empty((height, width), dtype=np.bool_)

    def take_bottom(self, other: "_Rows", count: int) -> None:
        """Begin with the last rows of another."""
        for mine, its in zip(self.inputs, other.inputs, strict=True):
            mine[:, :count] = its[:, its.shape[1] - count :]
        self.wanted[:count] = other.wanted[len(other.wanted) - count :]

    def read(self, source: Source, kept: int, first: int, left: int) -> None:
        """Fill all rows but the first ``kept`` from the source's row ``first`` on."""
        wanted = self.wanted[kept:]
        height, width = wanted.shape
        if not height:
            return
        if source.touches(first, left, height, width):
            source.read_into([values[:, kept:] for values in self.inputs], wanted, first, left)
        else:
            wanted[:] = False
            for values in self.inputs:
                values[:, kept:] = 0


def read_rows(
    source: Source, plan: Plan, rows: Sequence[int], columns: range
) -> Iterator[tuple[int, tuple[Floats, ...], Bools]]:
    """Rows of windows from the top: index, inputs and wanted pixels of what they cover.

    Each pixel is read once; one row is read while the other is used. The arrays hold only until
    the next step.

    Args:
        source: what is read.
        plan: of the run.
        rows: indices of the rows of windows, ascending.
        columns: indices of the windows in each.
    """
    left = plan.cols.starts[columns[0]]
    right = min(plan.cols.starts[columns[-1]] + plan.cols.tile, plan.cols.length)
    tall = min(plan.rows.tile, plan.rows.length)
    now, ahead = (_Rows(source.bands, tall, right - left) for _ in range(2))

    def fill(position: int, into: _Rows, before: _Rows) -> None:
        top = plan.rows.starts[rows[position]]
        bottom = plan.rows.starts[rows[position - 1]] + tall if position else top
        kept = max(bottom - top, 0)
        into.take_bottom(before, kept)
        into.read(source, kept, top + kept, left)

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="rsmamba-read") as pool:
        reading: Future[None] = pool.submit(fill, 0, now, ahead)
        try:
            for position, index in enumerate(rows):
                reading.result()
                if position + 1 < len(rows):
                    reading = pool.submit(fill, position + 1, ahead, now)
                yield index, now.inputs, now.wanted
                now, ahead = ahead, now
        finally:
            reading.cancel()


class Batch:
    """Windows waiting for the model; shorter scenes are continued by replication.

    Attributes:
        places: row and column of each in the lattice.
    """

    def __init__(self, plan: Plan, bands: Sequence[int], make: Callable[[Shape], Floats]) -> None:
        """An empty batch.

        Args:
            plan: of the run.
            bands: of each input.
            make: memory for arrays of a shape; asked when the first window comes.
        """
        self._plan = plan
        self._bands = bands
        self._make = make
        self._arrays: tuple[Floats, ...] = ()
        self.places: list[Place] = []

    @property
    def count(self) -> int:
        """Windows in it."""
        return len(self.places)

    @property
    def full(self) -> bool:
        """Whether no other fits in."""
        return self.count == self._plan.batch_size

    def add(self, row: int, column: int, inputs: tuple[Floats, ...], left: int) -> None:
        """Copy a window into it.

        Args:
            row: of the lattice.
            column: of the lattice.
            inputs: each (bands, rows of the window, columns), from column ``left`` of the scene on.
            left: see there.
        """
        start = self._plan.cols.starts[column] - left
        height, width = self._plan.window_shape
        if not self._arrays:
            size = self._plan.batch_size
            self._arrays = tuple(self._make((size, n, height, width)) for n in self._bands)
        for array, values in zip(self._arrays, inputs, strict=True):
            window = values[:, :, start : start + width]
            slot = array[self.count]
            tall, wide = window.shape[1:]
            slot[:, :tall, :wide] = window
            if wide < width:
                slot[:, :tall, wide:] = window[:, :, -1:]
            if tall < height:
                slot[:, tall:] = slot[:, tall - 1 : tall]
        self.places.append((row, column))

    def filled(self) -> list[Floats]:
        """The windows of each input (n, bands, h, w), until `clear`."""
        return [array[: self.count] for array in self._arrays]

    def clear(self) -> None:
        """Begin anew."""
        self.places = []
