"""Photometric distortion of 8-bit RGB."""

import colorsys

import numpy as np
import pytest

from rsmamba_cli.training.photometric import distort, hsv_to_rgb, rgb_to_hsv
from rsmamba_cli.training.recipe import PhotometricPart

COLORS = np.random.default_rng(0).integers(0, 256, (3, 12, 12)).astype(np.uint8)
COLORS[:, 0] = COLORS[:1, 0]  # greys
COLORS[:, 1, :3] = np.array([[0, 255, 10], [0, 255, 10], [0, 0, 255]])
NONE = {"brightness": 0, "contrast": (1, 1), "saturation": (1, 1), "hue": 0, "probability": 1}


def distorted(seed: int = 0, **settings: object) -> np.ndarray:
    options = PhotometricPart(**{**NONE, **settings})
    return distort(np.random.default_rng(seed), COLORS, options)


def test_hsv_is_the_standard_library_s() -> None:
    hue, saturation, value = rgb_to_hsv(COLORS.astype(np.float32))
    for row, column in np.ndindex(12, 12):
        want = colorsys.rgb_to_hsv(*(COLORS[:, row, column] / 255))
        found = (hue[row, column] / 360, saturation[row, column], value[row, column] / 255)
        assert found == pytest.approx(want, abs=1e-6)


def test_hsv_and_back_is_the_identity() -> None:
    image = COLORS.astype(np.float32)
    assert np.allclose(hsv_to_rgb(*rgb_to_hsv(image)), image, atol=1e-3)


def test_ranges_of_nothing_change_nothing() -> None:
    assert np.allclose(distorted(), COLORS, atol=1e-3)


def test_a_turn_of_the_hue_keeps_saturation_and_value() -> None:
    before, after = rgb_to_hsv(COLORS.astype(np.float32)), rgb_to_hsv(distorted(hue=180))
    assert np.allclose(after[1], before[1], atol=1e-4)
    assert np.allclose(after[2], before[2], atol=1e-2)
    coloured = (before[1] > 0.2) & (before[2] > 50)
    turns = ((after[0] - before[0]) % 360)[coloured]
    assert np.allclose(turns, turns[0], atol=0.1) and 1 < turns[0] < 359


def test_no_saturation_is_grey_and_brightness_shifts_all_bands_alike() -> None:
    grey = distorted(saturation=(0, 0))
    assert np.allclose(grey, COLORS.max(axis=0), atol=1e-3)
    moved = distorted(brightness=32) - COLORS
    inside = (COLORS > 32) & (COLORS < 223)
    assert np.allclose(moved[inside], moved[inside][0]) and 0 < abs(moved[inside][0]) <= 32


@pytest.mark.parametrize("seed", range(20))
def test_values_stay_within_8_bits_and_follow_the_seed(seed: int) -> None:
    options = PhotometricPart()
    a, b, c = (distort(np.random.default_rng(s), COLORS, options) for s in (seed, seed, seed + 100))
    assert a.dtype == np.float32 and a.min() >= 0 and a.max() <= 255
    assert np.array_equal(a, b) and not np.array_equal(a, c)
