"""Small regions go to what surrounds them; everything else stays."""

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS
from scipy import ndimage

from rsmamba_cli.raster.grid import Grid
from rsmamba_cli.raster.sieve import Sieve

UTM = CRS.from_epsg(32633)


def sieved(tmp_path, values, min_area, pieces=1000):
    grid = Grid(*values.shape, Affine(1, 0, 500_000, 0, -1, 5_000_000), UTM)
    folder = tmp_path / f"{np.random.default_rng().integers(2**62)}"
    folder.mkdir()
    sieve = Sieve(folder, lambda a, b: values[a:b], grid, (1, 2), 255, min_area)
    parts = [
        sieve.read_rows(first, min(first + pieces, len(values)))
        for first in range(0, len(values), pieces)
    ]
    return np.concatenate(parts)


def expected(values, min_area):
    """The same from whole arrays and another library."""
    out = values.copy()
    for value in (1, 2):
        labels, count = ndimage.label(values == value)
        for k in range(1, count + 1):
            region = labels == k
            if region.sum() / 0.9996**2 >= min_area:
                continue
            around = values[ndimage.binary_dilation(region) & ~region]
            around = around[around != 255]
            if len(around):
                out[region] = np.bincount(around).argmax()
    return out


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), pieces=st.sampled_from([1, 7, 100]))
def test_sieving_by_stripes_is_sieving_at_once(tmp_path_factory, seed, pieces):
    rng = np.random.default_rng(seed)
    values = rng.choice(np.array([0, 1, 1, 2, 255], dtype=np.uint8), (30, 20))
    folder = tmp_path_factory.mktemp("sieve")
    np.testing.assert_array_equal(sieved(folder, values, 4.5, pieces), expected(values, 4.5))


def test_a_small_region_across_stripes_is_found(tmp_path):
    values = np.zeros((1100, 12), dtype=np.uint8)
    values[510:514, 3:5] = 1
    values[100:900, 8:10] = 2
    out = sieved(tmp_path, values, 20, 100)
    assert (out == 1).sum() == 0
    np.testing.assert_array_equal(out == 2, values == 2)


@pytest.mark.parametrize("around", [0, 2])
def test_it_takes_the_value_around_it(tmp_path, around):
    values = np.full((20, 20), around, dtype=np.uint8)
    values[5:7, 5:7] = 1
    assert (sieved(tmp_path, values, 10) == around).all()


def test_an_island_in_nodata_stays(tmp_path):
    values = np.full((9, 9), 255, dtype=np.uint8)
    values[4, 4] = 1
    np.testing.assert_array_equal(sieved(tmp_path, values, 10), values)
