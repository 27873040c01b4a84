"""The in-process engine: rows of windows through the model, and on to finished blocks.

Memory follows the width of a strip, the window and the batch, never the height of the scene:
buffers hold the rows of two rows of windows, and sums those in which neighbouring rows overlap.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from rsmamba_cli.events import EventHandler, Finished, Progress, Started, ignore_events
from rsmamba_cli.heap import give_back
from rsmamba_cli.inference.plan import Chunk, Plan
from rsmamba_cli.inference.sampler import Place
from rsmamba_cli.inference.source import Bools, Floats, Source
from rsmamba_cli.inference.stage import Stage
from rsmamba_cli.inference.staging import Pending, Pool
from rsmamba_cli.inference.sums import Arrays, RollingSums, RowBegins, Step, WindowPasses
from rsmamba_cli.inference.windows import Batch, read_rows
from rsmamba_cli.raster.blocks import Blocks


@dataclass(frozen=True)
class Answer:
    """Probabilities of a batch, on their way.

    Attributes:
        values: (n, classes, h, w), once they have arrived.
        pending: what to wait for.
    """

    values: Floats
    pending: Pending


Passing = tuple[list[Step], Answer | None]
"""What happened in which order, and the answer to the windows that were computed."""


class BatchPredictor(Protocol):
    """What an engine needs of a predictor."""

    def buffer(self, shape: tuple[int, ...]) -> Floats:
        """Memory for windows and answers."""
        ...

    def begin(self, arrays: Sequence[Floats], places: Sequence[Place], out: Floats) -> Pending:
        """Windows (n, bands, h, w) of every input to probabilities (n, classes, h, w) in ``out``.

        ``places`` holds row and column of each window in the plan's lattice. What is returned tells
        when the windows were taken and when the answer is there.
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
    """One process, one device; reading, blending and writing have threads of their own.

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
        computed = 0
        for job in jobs:
            computed += job.run()
            give_back()
        self.on_event(Finished("predict", f"{computed} of {total} windows held valid pixels"))
        return computed


class _ChunkRun:
    """The work on one chunk: four things go on at the same time.

    Rows of windows are read ahead; windows go through the model; what it answers is summed up and
    becomes classes; finished bands are packed and committed.
    """

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
        self._bands = chunk.bands
        cuts = plan.cols.cuts
        self._left, self._right = cuts[plan.strips[strip]], cuts[plan.strips[strip + 1]]
        self._columns = plan.cols.reaching(self._left, self._right)
        # A band needs every row of windows that reaches into it, also those of bands that are done.
        row_cuts = plan.rows.cuts
        needed: set[int] = set()
        for band in chunk.bands:
            needed.update(plan.rows.reaching(row_cuts[band], row_cuts[band + 1]))
        self._window_rows = sorted(needed)
        self.windows = len(self._window_rows) * len(self._columns)

    def run(self) -> int:
        def commit(block: tuple[int, Arrays]) -> None:
            self._store.put((block[0], self._strip), block[1])

        with Stage("write", commit, depth=1) as write:
            sums = RollingSums(
                self._plan,
                self._left,
                self._right,
                self._bands,
                lambda band, arrays: write.put((band, arrays)),
            )
            shape = (self._plan.batch_size, len(self._plan.class_values), *self._plan.window_shape)
            answers = Pool(lambda: self._predictor.buffer(shape))

            def pass_by(passing: Passing) -> None:
                steps, answer = passing
                if answer is None:
                    sums.pass_by(steps, None)
                    return
                answer.pending.arrived()
                sums.pass_by(steps, answer.values)
                answers.give(answer.values)

            with Stage[Passing]("blend", pass_by, depth=1) as blend:
                return self._predict(blend, answers)

    def _predict(self, blend: Stage[Passing], answers: Pool) -> int:
        """Feed the model, and hand on what it answers."""
        plan = self._plan
        batch, other = (
            Batch(plan, self._engine.source.bands, self._predictor.buffer) for _ in range(2)
        )
        before: Pending | None = None
        first_col = plan.cols.starts[self._columns[0]]
        inner = slice(self._left - first_col, self._right - first_col)
        # A batch of narrow scenes spans several rows of windows; with nothing to compute for longer
        # than that, rows must not pile up behind it.
        patience = -(-plan.batch_size // len(self._columns))
        steps: list[Step] = []
        began = computed = 0

        def flush() -> int:
            nonlocal steps, batch, other, before
            self._engine.check()
            count, answer = batch.count, None
            if count:
                out = answers.take()
                pending = self._predictor.begin(batch.filled(), batch.places, out[:count])
                answer = Answer(out, pending)
                # The other batch is filled next: by now it was most likely taken long ago.
                if before is not None:
                    before.taken()
                batch, other, before = other, batch, pending
            blend.put((steps, answer))
            steps = []
            batch.clear()
            if count:
                self._engine.on_event(Progress("predict", count))
            return count

        for index, inputs, wanted in read_rows(
            self._engine.source, plan, self._window_rows, self._columns
        ):
            if batch.count and index - began > patience:
                computed += flush()
            top = plan.rows.starts[index]
            band = slice(plan.rows.cuts[index] - top, plan.rows.cuts[index + 1] - top)
            steps.append(RowBegins(index, wanted[band, inner].copy()))
            idle = 0
            for column in self._columns:
                if not self._has_wanted(index, column, wanted, top, first_col):
                    steps.append(WindowPasses(column, None))
                    idle += 1
                    continue
                if not batch.count:
                    began = index
                steps.append(WindowPasses(column, batch.count))
                batch.add(index, column, inputs, first_col)
                if batch.full:
                    computed += flush()
            if not batch.count:
                flush()
            if idle:
                self._engine.on_event(Progress("predict", idle))
        return computed + flush()

    def _has_wanted(self, row: int, column: int, wanted: Bools, top: int, left: int) -> bool:
        """Whether any pixel that the window contributes to in this strip wants an answer."""
        rows, cols = self._plan.rows, self._plan.cols
        c0 = max(cols.low[column], self._left) - left
        c1 = min(cols.high[column], self._right) - left
        return bool(wanted[rows.low[row] - top : rows.high[row] - top, c0:c1].any())
