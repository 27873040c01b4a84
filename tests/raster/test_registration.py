"""Phase correlation finds shifts that were put in, and says when there is nothing to find."""

import numpy as np
import pytest
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.crs import CRS

from rsmamba_cli.raster.grid import Grid
from rsmamba_cli.raster.registration import residual_shift


class Image:
    """A reader of an array in memory."""

    def __init__(self, values, valid=None):
        self.values = np.atleast_3d(values.T).T.astype(np.float32)
        self.valid = np.ones(values.shape[-2:], dtype=bool) if valid is None else valid

    def read(self, row, col, height, width):
        part = np.s_[row : row + height, col : col + width]
        return self.values[:, *part], self.valid[part]


def texture(seed, size):
    """A smooth random image that can be shifted by any fraction of a pixel (a sum of waves)."""
    rng = np.random.default_rng(seed)
    spectrum = np.fft.rfft2(rng.standard_normal((size, size)))
    rows = np.fft.fftfreq(size)[:, None]
    cols = np.fft.rfftfreq(size)[None, :]
    smooth = spectrum * np.exp(-60 * (rows**2 + cols**2))

    def shifted(down, right):
        turn = np.exp(-2j * np.pi * (rows * down + cols * right))
        return np.fft.irfft2(smooth * turn, s=(size, size))

    return shifted


def shift_of(first, second, valid=None):
    grid = Grid(*first.shape[-2:], Affine(2, 0, 5e5, 0, -2, 5e6), CRS.from_epsg(32631))
    return residual_shift(Image(first, valid), Image(second, valid), grid)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), down=st.floats(-9, 9), right=st.floats(-9, 9))
def test_a_known_shift_is_found(seed, down, right):
    shifted = texture(seed, 128)
    found = shift_of(shifted(0, 0), shifted(down, right))
    assert (found.rows, found.cols) == (pytest.approx(down, abs=0.2), pytest.approx(right, abs=0.2))
    assert found.reliable


def test_metres_follow_from_the_ground_sample_distance():
    shifted = texture(3, 128)
    found = shift_of(shifted(0, 0), shifted(3, 4))
    assert found.metres == pytest.approx(10, abs=0.5)


def test_the_shift_of_several_tiles_is_one():
    shifted = texture(7, 900)
    found = shift_of(shifted(0, 0), shifted(-5.5, 2.25))
    assert (found.rows, found.cols) == (pytest.approx(-5.5, abs=0.1), pytest.approx(2.25, abs=0.1))


def test_other_brightness_and_contrast_do_not_matter():
    shifted = texture(1, 128)
    found = shift_of(shifted(0, 0), 900 + 40 * shifted(3, -2))
    assert (found.rows, found.cols) == (pytest.approx(3, abs=0.2), pytest.approx(-2, abs=0.2))


def test_unrelated_images_are_not_reliable():
    rng = np.random.default_rng(0)
    found = shift_of(rng.standard_normal((96, 96)), rng.standard_normal((96, 96)))
    assert not found.reliable


def test_invalid_pixels_do_not_pin_the_shift():
    shifted = texture(5, 128)
    first, second = shifted(0, 0), shifted(4, 1)
    valid = np.ones((128, 128), dtype=bool)
    valid[:, :40] = False
    first[:, :40] = second[:, :40] = 1e6
    found = shift_of(first, second, valid)
    assert (found.rows, found.cols) == (pytest.approx(4, abs=0.3), pytest.approx(1, abs=0.3))


@pytest.mark.parametrize("size", [8, 64])
def test_flat_or_tiny_images_have_no_shift(size):
    assert shift_of(np.zeros((size, size)), np.ones((size, size))) is None


def test_scenes_without_common_valid_pixels_have_no_shift():
    shifted = texture(5, 64)
    assert shift_of(shifted(0, 0), shifted(1, 1), np.zeros((64, 64), dtype=bool)) is None
