"""The in-process engine: rows of windows through the model into a rolling band of sums.

Memory follows the width of a strip, the window and the batch, never the height of the scene: a
buffer holds the rows of one row of windows, and the sums reach from the oldest band that is not
final to the bottom of the newest window.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rsmamba_cli.events import EventHandler, Finished, Progress, Started, ignore_events
from rsmamba_cli.inference.emit import block_arrays
from rsmamba_cli.inference.plan import Chunk, Plan
from rsmamba_cli.inference.sampler import Place
from rsmamba_cli.inference.source import Bools, Floats, Source
from rsmamba_cli.raster.blocks import Blocks

Piece = tuple[tuple[Floats, ...], Bools]


class BatchPredictor(Protocol):
    """What an engine needs of a predictor."""

    def __call__(self, arrays: Sequence[Floats], places: Sequence[Place]) -> Floats:
        """Windows (n, bands, h, w) of every input to probabilities (n, classes, h, w).

        ``places`` holds row and column of each window in the plan's lattice.
        """
        ...


class Engine(Protocol):
    """Runs a plan: every engine leaves every block of the plan in the store."""

    def run(
        self,
        plan: Plan,
        predictor: BatchPredictor,
        store: Blocks,
        chunks: Sequence[Chunk] | None = None,
    ) -> int:
        """Compute what the store does not hold yet, or some chunks.

        Returns:
            Windows that went through the model.
        """
        ...


@dataclass(frozen=True)
class InProcessEngine:
    """One process, one device; reading runs ahead in a thread of its own.

    Attributes:
        source: the inputs.
        on_event: told about progress in windows.
        check: called often; raises to stop the run. Finished bands stay finished.
    """

    source: Source
    on_event: EventHandler = ignore_events
    check: Callable[[], None] = lambda: None

    def run(
        self,
        plan: Plan,
        predictor: BatchPredictor,
        store: Blocks,
        chunks: Sequence[Chunk] | None = None,
    ) -> int:
        """Compute what the store does not hold yet, or some chunks; strip by strip from the top."""
        if chunks is None:
            chunks = list(plan.chunks(done=store.done))
        jobs = [_ChunkRun(self, plan, predictor, store, chunk) for chunk in chunks]
        total = sum(job.windows for job in jobs)
        self.on_event(Started("predict", total, "window"))
        computed = sum(job.run() for job in jobs)
        self.on_event(Finished("predict", f"{computed} of {total} windows held valid pixels"))
        return computed


class _ChunkRun:
    """The work on one chunk."""

    def __init__(
        self,
        engine: InProcessEngine,
        plan: Plan,
        predictor: BatchPredictor,
        store: Blocks,
        chunk: Chunk,
    ) -> None:
        self._engine = engine
        self._plan = plan
        self._predictor = predictor
        self._store = store
        strip = self._strip = chunk.strip
        bands = self._bands = list(chunk.bands)
        cuts = plan.cols.cuts
        self._left, self._right = cuts[plan.strips[strip]], cuts[plan.strips[strip + 1]]
        self._columns = plan.cols.reaching(self._left, self._right)
        # A band needs every row of windows that reaches into it, also those of bands that are done.
        row_cuts = plan.rows.cuts
        needed: set[int] = set()
        for band in bands:
            needed.update(plan.rows.reaching(row_cuts[band], row_cuts[band + 1]))
        self._window_rows = sorted(needed)
        self.windows = len(self._window_rows) * len(self._columns)

    def run(self) -> int:
        plan = self._plan
        sums = _RollingSums(plan, self._left, self._right, self._bands[0], len(self._columns))
        batch = _Batch(plan, self._engine.source.bands)
        wanted_of: dict[int, Bools] = {}
        computed = 0
        for index, inputs, wanted in self._rows():
            # Bands above this row of windows are final once the batch holds none of their windows.
            if batch.rows and index - batch.rows[0] > sums.lookahead:
                computed += self._flush(batch, sums)
            if not batch.rows:
                self._emit(index, sums, wanted_of)
            # Only now: what is finished has been kept.
            self._engine.check()
            top = plan.rows.starts[index]
            cut, end = plan.rows.cuts[index], plan.rows.cuts[index + 1]
            first_col = plan.cols.starts[self._columns[0]]
            inner = slice(self._left - first_col, self._right - first_col)
            wanted_of[index] = wanted[cut - top : end - top, inner].copy()
            idle = 0
            for column in self._columns:
                if not self._has_wanted(index, column, wanted, top, first_col):
                    idle += 1
                    continue
                batch.add(index, column, inputs, first_col)
                if batch.full:
                    computed += self._flush(batch, sums)
                    self._emit(index, sums, wanted_of)
            if idle:
                self._engine.on_event(Progress("predict", idle))
        computed += self._flush(batch, sums)
        self._emit(len(plan.rows.starts), sums, wanted_of)
        return computed

    def _has_wanted(self, row: int, column: int, wanted: Bools, top: int, left: int) -> bool:
        """Whether any pixel that the window contributes to in this strip wants an answer."""
        rows, cols = self._plan.rows, self._plan.cols
        c0 = max(cols.low[column], self._left) - left
        c1 = min(cols.high[column], self._right) - left
        return bool(wanted[rows.low[row] - top : rows.high[row] - top, c0:c1].any())

    def _flush(self, batch: "_Batch", sums: "_RollingSums") -> int:
        count = batch.count
        if count:
            self._engine.check()
            places = list(zip(batch.rows, batch.columns, strict=True))
            sums.add(batch.rows, batch.columns, self._predictor(batch.filled(), places))
            batch.clear()
            self._engine.on_event(Progress("predict", count))
        return count

    def _emit(self, below: int, sums: "_RollingSums", wanted_of: dict[int, Bools]) -> None:
        """Commit the bands above window row ``below``."""
        while self._bands and self._bands[0] < below:
            band = self._bands.pop(0)
            arrays = block_arrays(self._plan, sums.of(band), wanted_of.pop(band))
            self._store.put((band, self._strip), arrays)
            # Bands in between were finished by an earlier run.
            sums.forget_above(self._bands[0] if self._bands else band + 1)
        for done in [band for band in wanted_of if band < below]:
            del wanted_of[done]

    def _rows(self) -> Iterator[tuple[int, tuple[Floats, ...], Bools]]:
        """Rows of windows from the top: index, inputs and wanted pixels of the rows they cover.

        Each pixel is read once; what the next row of windows needs beyond this one is read while
        this one is computed. The arrays are reused: they hold only until the next step.
        """
        plan, source = self._plan, self._engine.source
        left = plan.cols.starts[self._columns[0]]
        right = min(plan.cols.starts[self._columns[-1]] + plan.cols.tile, plan.cols.length)
        width, tall = right - left, min(plan.rows.tile, plan.rows.length)
        buffers = tuple(np.zeros((bands, tall, width), dtype=np.float32) for bands in source.bands)
        wanted = np.zeros((tall, width), dtype=np.bool_)

        def fetch(first: int, last: int) -> Piece | None:
            if not source.touches(first, left, last - first, width):
                return None
            return source.read(first, left, last - first, width)

        steps = []
        bottom = 0
        for index in self._window_rows:
            top = plan.rows.starts[index]
            steps.append((index, top, max(top, bottom)))
            bottom = top + tall
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="rsmamba-read") as pool:
            ahead: Future[Piece | None] | None = None
            try:
                _, top, first = steps[0]
                ahead = pool.submit(fetch, first, top + tall)
                for position, (index, top, first) in enumerate(steps):
                    piece = ahead.result()
                    if position + 1 < len(steps):
                        _, next_top, next_first = steps[position + 1]
                        ahead = pool.submit(fetch, next_first, next_top + tall)
                    kept = first - top
                    _roll(wanted, kept)
                    wanted[kept:] = False if piece is None else piece[1]
                    for i, buffer in enumerate(buffers):
                        for band in buffer:
                            _roll(band, kept)
                        buffer[:, kept:] = 0 if piece is None else piece[0][i]
                    del piece
                    yield index, buffers, wanted
            finally:
                if ahead is not None:
                    ahead.cancel()


def _roll(rows: npt.NDArray[Any], kept: int) -> None:
    """Move the last ``kept`` rows to the top."""
    if 0 < kept < len(rows):
        rows[:kept] = rows[-kept:].copy()


class _Batch:
    """Windows waiting for the model; shorter scenes are continued by replication."""

    def __init__(self, plan: Plan, bands: Sequence[int]) -> None:
        height, width = plan.window_shape
        shape = (plan.batch_size, height, width)
        self._plan = plan
        self._arrays = tuple(
            np.empty((shape[0], n, height, width), dtype=np.float32) for n in bands
        )
        self.rows: list[int] = []
        self.columns: list[int] = []

    @property
    def count(self) -> int:
        return len(self.rows)

    @property
    def full(self) -> bool:
        return self.count == self._plan.batch_size

    def add(self, row: int, column: int, inputs: tuple[Floats, ...], left: int) -> None:
        start = self._plan.cols.starts[column] - left
        height, width = self._plan.window_shape
        for array, values in zip(self._arrays, inputs, strict=True):
            window = values[:, :, start : start + width]
            slot = array[self.count]
            tall, wide = window.shape[1:]
            slot[:, :tall, :wide] = window
            if wide < width:
                slot[:, :tall, wide:] = window[:, :, -1:]
            if tall < height:
                slot[:, tall:] = slot[:, tall - 1 : tall]
        self.rows.append(row)
        self.columns.append(column)

    def filled(self) -> list[Floats]:
        return [array[: self.count] for array in self._arrays]

    def clear(self) -> None:
        self.rows = []
        self.columns = []


class _RollingSums:
    """Weighted sums of probabilities over the rows that are not final yet.

    Contributions are added in row-major order of the windows, so that every pixel sees the same
    float32 operations in the same order however the scene was cut.
    """

    def __init__(self, plan: Plan, left: int, right: int, first_band: int, columns: int) -> None:
        rows = plan.rows
        last = len(rows.starts) - 1
        self._plan = plan
        self._left, self._right = left, right
        self._base = rows.cuts[first_band]
        # A batch of narrow scenes spans several rows of windows.
        self.lookahead = -(-plan.batch_size // columns)
        height = max(
            rows.high[min(i + self.lookahead, last)] - rows.cuts[i] for i in range(last + 1)
        )
        self._sums = np.zeros((plan.channels(), height, right - left), dtype=np.float32)
        self._scratch = np.empty(plan.window_shape, dtype=np.float32)

    def add(self, rows: Sequence[int], columns: Sequence[int], probabilities: Floats) -> None:
        """Add a batch of windows.

        Args:
            rows: window row of each.
            columns: window column of each.
            probabilities: (n, classes, h, w).
        """
        y, x = self._plan.rows, self._plan.cols
        # Of two classes only the second is summed.
        first_class = probabilities.shape[1] - self._sums.shape[0]
        for row, column, window in zip(rows, columns, probabilities, strict=True):
            r0, r1 = max(y.low[row], self._base), y.high[row]
            c0, c1 = max(x.low[column], self._left), min(x.high[column], self._right)
            if r0 >= r1 or c0 >= c1:
                continue
            down = y.weights[row][r0 - y.low[row] : r1 - y.low[row]]
            across = x.weights[column][c0 - x.low[column] : c1 - x.low[column]]
            weight = down[:, None] * across
            from_rows = slice(r0 - y.starts[row], r1 - y.starts[row])
            from_cols = slice(c0 - x.starts[column], c1 - x.starts[column])
            into = self._sums[
                :, r0 - self._base : r1 - self._base, c0 - self._left : c1 - self._left
            ]
            scratch = self._scratch[: r1 - r0, : c1 - c0]
            for total, values in zip(into, window[first_class:], strict=True):
                np.multiply(values[from_rows, from_cols], weight, out=scratch)
                total += scratch

    def of(self, band: int) -> Floats:
        """The finished sums of a band, (channels, h, w); a view that `forget_above` invalidates."""
        cuts = self._plan.rows.cuts
        return self._sums[:, cuts[band] - self._base : cuts[band + 1] - self._base]

    def forget_above(self, band: int) -> None:
        """Make room: rows above a band will not be asked for any more."""
        row = self._plan.rows.cuts[band]
        passed = row - self._base
        for total in self._sums:
            kept = len(total) - passed
            if kept > 0:
                total[:kept] = total[passed:].copy()
            total[max(kept, 0) :] = 0
        self._base = row
