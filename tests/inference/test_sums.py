"""The rolling sums against sums over the whole scene, bit by bit; stages; trimming."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inference_models import Immediate, meta_of
from test_engine import Blocks, Drawn, plan_of, smooth_predictor, whole

from rsmamba_cli.inference.emit import output_arrays
from rsmamba_cli.inference.engine import InProcessEngine
from rsmamba_cli.inference.source import Source
from rsmamba_cli.inference.stage import Stage


class Holed(Drawn):
    """Valid in a few rectangles only."""

    def __init__(self, height, width, boxes):
        super().__init__(height, width)
        self.valid = np.zeros((height, width), dtype=bool)
        for top, left, tall, wide in boxes:
            self.valid[top : top + tall, left : left + wide] = True

    def read(self, row, col, height, width):
        values, _ = super().read(row, col, height, width)
        return values, self.valid[row : row + height, col : col + width].copy()


def summed_at_once(plan, reader):
    """Every window that any valid pixel wants, in row-major order, over the whole scene."""
    rows, cols = plan.rows, plan.cols
    shape = rows.length, cols.length
    values, valid = reader.read(0, 0, *shape)
    padded = np.where(valid, values, np.float32(0))
    below, beside = max(rows.tile - shape[0], 0), max(cols.tile - shape[1], 0)
    padded = np.pad(padded, ((0, 0), (0, below), (0, beside)), mode="edge")
    sums = np.zeros((3, *shape), dtype=np.float32)
    windows = 0
    for i, top in enumerate(rows.starts):
        for j, left in enumerate(cols.starts):
            here = slice(rows.low[i], rows.high[i]), slice(cols.low[j], cols.high[j])
            if not valid[here].any():
                continue
            windows += 1
            window = padded[None, :, top : top + rows.tile, left : left + cols.tile]
            answer = smooth_predictor([window], None)[0]
            kept = answer[
                :,
                rows.low[i] - top : rows.high[i] - top,
                cols.low[j] - left : cols.high[j] - left,
            ]
            sums[(slice(None), *here)] += kept * (rows.weights[i][:, None] * cols.weights[j])
    return output_arrays(plan, sums, valid), windows


@st.composite
def cases(draw):
    height, width = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    tile = draw(st.integers(2, 40))
    trim = draw(st.integers(0, (min(tile, height, width) - 1) // 2))
    plan = plan_of(
        (height, width),
        tile=tile,
        overlap=draw(st.sampled_from([0.0, 0.2, 0.5, 0.75, 0.9])),
        trim=trim,
        batch=draw(st.integers(1, 9)),
        blend=draw(st.sampled_from(["hann", "average", "crop"])),
    )
    count = len(plan.cols.starts)
    inner = draw(st.sets(st.integers(1, count - 1), max_size=3)) if count > 1 else set()
    plan = type(plan)(**{**plan.__dict__, "strips": (0, *sorted(inner), count)})
    box = st.tuples(
        st.integers(0, height - 1),
        st.integers(0, width - 1),
        st.integers(1, 30),
        st.integers(1, 30),
    )
    return plan, Holed(height, width, draw(st.lists(box, max_size=4)))


@settings(max_examples=120, deadline=None)
@given(cases(), st.randoms(use_true_random=False))
def test_rolling_sums_are_those_over_the_whole_scene(case, random):
    plan, reader = case
    expected, windows = summed_at_once(plan, reader)
    keys = plan.layout.block_keys()
    done = {key for key in keys if random.random() < 0.3}
    found: dict = {}
    for finished in (set(), done):
        store = Blocks(finished)
        source = Source([reader], meta_of(1, 3).inputs, None)
        computed = InProcessEngine(source).run(plan, Immediate(smooth_predictor), store)
        found.update(store.blocks)
        assert set(store.blocks) == set(keys) - finished
        for name, array in expected.items():
            np.testing.assert_array_equal(whole(plan, found, name), array)
    if len(plan.strips) == 2:
        assert computed <= windows


def box_predictor(radius):
    """Three classes from sums over squares, with zeros beyond the window; exact in integers."""

    def predict(arrays, places):
        x = np.pad(arrays[0][:, 0].astype(np.int64), ((0, 0), (radius, radius), (radius, radius)))
        view = np.lib.stride_tricks.sliding_window_view(x, (2 * radius + 1,) * 2, axis=(1, 2))
        share = (view.sum(axis=(3, 4)) % 512).astype(np.float32) / 512
        return np.stack([share, 1 - share, np.full_like(share, 0.5)], axis=1)

    return predict


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 70),
    st.integers(1, 70),
    st.integers(1, 3),
    st.integers(0, 2),
    st.integers(1, 20),
    st.sampled_from(["hann", "average", "crop"]),
    st.sampled_from([0.0, 0.3, 0.6]),
)
def test_trimming_what_a_border_spoils_is_exact(height, width, radius, more, extra, blend, overlap):
    trim = radius + more
    reader = Drawn(height, width)
    tile = 2 * trim + extra
    if tile > min(height, width):  # beyond the scene a window sees copies, not zeros
        tile = min(height, width)
        trim = min(trim, (tile - 1) // 2)
    if trim < radius:
        return
    plan = plan_of((height, width), tile=tile, overlap=overlap, trim=trim, blend=blend)
    store = Blocks()
    predictor = box_predictor(radius)
    InProcessEngine(Source([reader], meta_of(1, 3).inputs, None)).run(
        plan, Immediate(predictor), store
    )
    values, _ = reader.read(0, 0, height, width)
    expected = predictor([values[None]], None)[0]
    got = whole(plan, store.blocks, "mask")[0]
    # Where two classes are equal to the last bit, either is right.
    best = np.take_along_axis(expected, got[None].astype(np.int64), axis=0)[0]
    np.testing.assert_allclose(best, expected.max(axis=0), rtol=0, atol=1e-6)


def test_a_stage_keeps_the_order():
    seen = []
    with Stage("test", seen.append, depth=2) as stage:
        for i in range(50):
            stage.put(i)
    assert seen == list(range(50))


def test_a_stage_that_fails_stops_the_caller_and_drops_the_rest():
    seen = []

    def work(item):
        if item == 3:
            raise OSError("disk full")
        seen.append(item)

    put = 0
    with pytest.raises(OSError, match="disk full"), Stage("test", work, depth=1) as stage:
        for put in range(1000):
            stage.put(put)
    assert seen == [0, 1, 2]
    assert put < 1000
    assert not any(t.name == "rsmamba-test" for t in threading.enumerate())


def test_what_was_handed_over_is_finished_when_the_caller_fails():
    seen = []
    go = threading.Event()

    def work(item):
        go.wait(5)
        seen.append(item)

    with pytest.raises(KeyError), Stage("test", work, depth=5) as stage:
        for i in range(4):
            stage.put(i)
        go.set()
        raise KeyError("stop")
    assert seen == [0, 1, 2, 3]


def test_an_error_in_the_last_item_is_not_lost():
    def work(item):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), Stage("test", work, depth=3) as stage:
        stage.put(1)


def test_a_store_that_fails_stops_the_run():
    plan = plan_of((600, 90))
    reader = Drawn(600, 90)

    class Full(Blocks):
        def put(self, key, arrays):
            if key[0] == 2:
                raise OSError("disk full")
            super().put(key, arrays)

    store = Full()
    with pytest.raises(OSError, match="disk full"):
        InProcessEngine(Source([reader], meta_of(1, 3).inputs, None)).run(
            plan, Immediate(smooth_predictor), store
        )
    assert set(store.blocks) == {(0, 0), (1, 0)}
    assert max(last for _, last in reader.rows_read) < 400
