"""The engine: the answer does not depend on how the scene is cut, and memory not on its height."""

import tracemalloc
from collections import deque
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from affine import Affine
from inference_models import Immediate, meta_of
from rasterio.crs import CRS

from rsmamba_cli.inference.engine import InProcessEngine
from rsmamba_cli.inference.plan import Plan, plan_axes, plan_strips
from rsmamba_cli.inference.source import Source
from rsmamba_cli.raster.blocks import Layer
from rsmamba_cli.raster.grid import Grid


class Drawn:
    """A reader whose pixels follow from their position."""

    def __init__(self, height, width, hole=None):
        self.grid = Grid(height, width, Affine(1, 0, 0, 0, -1, 0), CRS.from_epsg(32631))
        self.hole = hole
        self.rows_read = []

    def read(self, row, col, height, width):
        assert row >= 0
        assert row + height <= self.grid.height
        assert col >= 0
        assert col + width <= self.grid.width
        self.rows_read.append((row, row + height))
        r, c = np.mgrid[row : row + height, col : col + width]
        values = ((r * 7919 + c * 104729) % 1009)[None].astype(np.float32)
        valid = np.ones((height, width), dtype=bool)
        if self.hole:
            valid = ~((r >= self.hole[0]) & (r < self.hole[1]) & (c >= self.hole[2]))
        return values, valid


class Blocks:
    """A store in memory."""

    def __init__(self, done=()):
        self.done = frozenset(done)
        self.blocks = {}

    def put(self, key, arrays):
        assert key not in self.blocks
        self.blocks[key] = {name: array.copy() for name, array in arrays.items()}


def smooth_predictor(arrays: Sequence[np.ndarray], places: object) -> np.ndarray:
    """Three classes; every window adds a pattern of its own, so that blending matters."""
    x = arrays[0][:, 0]
    ramp = np.linspace(0, 1, x.shape[-1], dtype=np.float32)
    a = (x / 1009 + ramp) / 4
    b = (1 - x / 1009 + ramp[::-1]) / 4
    return np.stack([a, b, 1 - a - b], axis=1).astype(np.float32)


def plan_of(shape, tile=32, overlap=0.4, trim=2, strips=None, batch=1, blend="hann"):
    rows, cols = plan_axes(shape, tile, overlap, trim, blend, 1)
    count = len(cols.starts)
    cuts = (
        (0, count)
        if strips is None
        else tuple(round(i * count / strips) for i in range(strips + 1))
    )
    layers = {"mask": Layer(1, "uint8", 255), "probabilities": Layer(3, "uint8", 255)}
    return Plan(rows, cols, cuts, batch, layers, (0, 1, 2), 255, None, {})


def source_of(reader):
    return Source([reader], meta_of(1, 3).inputs, None)


def compute(plan, reader, done=()):
    store = Blocks(done)
    InProcessEngine(source_of(reader)).run(plan, Immediate(smooth_predictor), store)
    return store.blocks


def whole(plan, blocks, layer="probabilities"):
    layout = plan.layout
    out = np.zeros((layout.layers[layer].count, layout.rows[-1], layout.cols[-1]), dtype=np.uint8)
    for (band, strip), arrays in blocks.items():
        rows = slice(layout.rows[band], layout.rows[band + 1])
        out[:, rows, layout.cols[strip] : layout.cols[strip + 1]] = arrays[layer]
    return out


SHAPE = (150, 210)


@pytest.mark.parametrize("strips", [2, 3, 7])
@pytest.mark.parametrize("hole", [None, (40, 120, 90)])
def test_cutting_into_strips_changes_nothing(strips, hole):
    reference = plan_of(SHAPE)
    plan = plan_of(SHAPE, strips=strips)
    expected = whole(reference, compute(reference, Drawn(*SHAPE, hole)))
    np.testing.assert_array_equal(whole(plan, compute(plan, Drawn(*SHAPE, hole))), expected)


@pytest.mark.parametrize("batch", [2, 5, 11, 64])
@pytest.mark.parametrize("hole", [None, (40, 120, 90)])
def test_batches_may_fall_anywhere(batch, hole):
    reference, plan = plan_of(SHAPE), plan_of(SHAPE, batch=batch)
    expected = whole(reference, compute(reference, Drawn(*SHAPE, hole)))
    np.testing.assert_array_equal(whole(plan, compute(plan, Drawn(*SHAPE, hole))), expected)


@pytest.mark.parametrize("overlap", [0.0, 0.4, 0.85])
@pytest.mark.parametrize("batch", [1, 7])
def test_any_set_of_missing_bands_is_filled_in_exactly(overlap, batch):
    plan = plan_of(SHAPE, overlap=overlap, trim=0, strips=2, batch=batch)
    everything = compute(plan, Drawn(*SHAPE))
    rng = np.random.default_rng(0)
    keys = sorted(everything)
    for _ in range(12):
        done = {key for key in keys if rng.random() < 0.6}
        rest = compute(plan, Drawn(*SHAPE), done)
        assert set(rest) == set(keys) - done
        for key, arrays in rest.items():
            for name, array in arrays.items():
                np.testing.assert_array_equal(array, everything[key][name])


def test_nothing_is_read_or_computed_when_all_is_done():
    plan = plan_of(SHAPE)
    reader = Drawn(*SHAPE)
    assert compute(plan, reader, plan.layout.block_keys()) == {}
    assert reader.rows_read == []


def test_every_row_is_read_once():
    reader = Drawn(*SHAPE)
    compute(plan_of(SHAPE), reader)
    edges = [0, *(last for _, last in reader.rows_read)]
    assert reader.rows_read == list(pairwise(edges))
    assert edges[-1] == 150


def test_rows_that_no_missing_band_needs_are_not_read():
    plan = plan_of((1500, 60))
    done = {(band, 0) for band in range(len(plan.rows.starts)) if band != 40}
    reader = Drawn(1500, 60)
    compute(plan, reader, done)
    assert sum(last - first for first, last in reader.rows_read) < 100


def test_one_broken_read_stops_the_run():
    class Broken(Drawn):
        def read(self, row, col, height, width):
            if row > 60:
                raise RuntimeError("torn")
            return super().read(row, col, height, width)

    with pytest.raises(RuntimeError, match="torn"):
        compute(plan_of(SHAPE), Broken(*SHAPE))


def peak_of(height, width=96):
    plan = plan_of((height, width), batch=2)
    reader = Drawn(height, width)
    reader.rows_read = deque(maxlen=1)

    class Forgetful(Blocks):
        def put(self, key, arrays):
            pass

    tracemalloc.start()
    InProcessEngine(source_of(reader)).run(plan, Immediate(smooth_predictor), Forgetful())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_does_not_grow_with_height():
    peak_of(400)
    low, high = peak_of(400), peak_of(40_000)
    # What grows are the numbers of the rows of windows, about eight bytes for a row of pixels.
    # A single byte for every pixel would be ten times that.
    assert high - low < (40_000 - 400) * 12


@pytest.mark.parametrize("windows", [1, 3, 50, 400])
def test_strips_cover_all_columns_whatever_the_memory(windows):
    rows, cols = plan_axes((1000, 24 * windows), 32, 0.25, 0, "hann", 1)
    for memory in (1, 1 << 20, 1 << 40):
        strips = plan_strips(rows, cols, 6, 4, 1, 2, memory)
        assert strips[0] == 0
        assert strips[-1] == len(cols.starts)
        assert all(b > a for a, b in pairwise(strips))
    assert len(strips) == 2


def test_less_memory_means_narrower_strips():
    rows, cols = plan_axes((5000, 100_000), 512, 0.25, 0, "hann", 32)
    counts = [len(plan_strips(rows, cols, 6, 4, 1, 2, gib << 30)) - 1 for gib in (1, 4, 64)]
    assert counts[0] > counts[1] > counts[2] == 1


def test_chunks_hold_every_block_once():
    plan = plan_of((1500, 210), strips=3)
    keys = [(band, chunk.strip) for chunk in plan.chunks() for band in chunk.bands]
    assert sorted(keys) == sorted(plan.layout.block_keys())


def test_a_window_is_no_larger_than_the_scene_needs():
    rows, cols = plan_axes((10, 1000), 512, 0.25, 0, "hann", 32)
    assert (rows.tile, cols.tile) == (32, 512)
