"""Coarser and finer grids of the same area: means and interpolation, whatever the window."""

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

from rsmamba_cli.raster.grid import Grid
from rsmamba_cli.raster.resample import Axis, Resampled

sides = st.integers(1, 40)


class Drawn:
    def __init__(self, height, width, holes=0.0):
        rng = np.random.default_rng(5)
        self.grid = Grid(height, width, Affine(1, 0, 0, 0, -1, 0), CRS.from_epsg(32631))
        self.values = rng.normal(size=(2, height, width)).astype(np.float32)
        self.valid = rng.random((height, width)) >= holes
        self.values[:, ~self.valid] = np.nan

    def read(self, row, col, height, width):
        here = (slice(row, row + height), slice(col, col + width))
        return self.values[:, *here], self.valid[here]


@settings(max_examples=150, deadline=None)
@given(old=sides, new=sides)
def test_weights_sum_to_one(old, new):
    if not 1 / 5 <= old / new <= 5:
        return
    _, weights = Axis(old, new).taps(0, new)
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)


@settings(max_examples=100, deadline=None)
@given(old=st.tuples(sides, sides), new=st.tuples(sides, sides), holes=st.sampled_from([0, 0.4]))
def test_a_window_is_a_part_of_the_whole(old, new, holes):
    reader = Drawn(*old, holes)
    resampled = Resampled(reader, reader.grid.decimated(*new))
    values, valid = resampled.read(0, 0, *new)
    row, col = new[0] // 3, new[1] // 4
    part, known = resampled.read(row, col, new[0] - row, new[1] - col)
    np.testing.assert_array_equal(part, values[:, row:, col:])
    np.testing.assert_array_equal(known, valid[row:, col:])


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_coarser_pixels_are_means(factor):
    reader = Drawn(12 * factor, 10 * factor)
    values, valid = Resampled(reader, reader.grid.decimated(12, 10)).read(0, 0, 12, 10)
    blocks = reader.values.reshape(2, 12, factor, 10, factor).mean(axis=(2, 4))
    np.testing.assert_allclose(values, blocks, atol=1e-5)
    assert valid.all()


def test_uneven_factors_keep_the_mean():
    reader = Drawn(35, 28)
    values, _ = Resampled(reader, reader.grid.decimated(10, 8)).read(0, 0, 10, 8)
    np.testing.assert_allclose(values.mean(axis=(1, 2)), reader.values.mean(axis=(1, 2)), atol=1e-5)


def test_a_ramp_stays_a_ramp_when_it_gets_finer():
    reader = Drawn(10, 10)
    reader.values[:] = np.arange(10, dtype=np.float32)
    values, _ = Resampled(reader, reader.grid.decimated(30, 30)).read(0, 0, 30, 30)
    np.testing.assert_allclose(values[0, 5, 3:27], (np.arange(3, 27) + 0.5) / 3 - 0.5, atol=1e-5)


def test_invalid_pixels_leak_nothing_and_valid_ones_are_never_lost():
    reader = Drawn(40, 40, holes=0.5)
    values, valid = Resampled(reader, reader.grid.decimated(13, 13)).read(0, 0, 13, 13)
    assert np.isfinite(values).all()
    reader.values[:] = 7
    values, again = Resampled(reader, reader.grid.decimated(13, 13)).read(0, 0, 13, 13)
    np.testing.assert_allclose(values[:, again], 7, rtol=1e-5)
    rows, cols = np.nonzero(reader.valid)
    assert valid[np.minimum(rows * 13 // 40, 12), np.minimum(cols * 13 // 40, 12)].all()
