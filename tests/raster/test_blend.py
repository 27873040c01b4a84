"""Weights cover every pixel, add up to one and leave the scene's border alone."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rsmamba_cli.errors import InputError
from rsmamba_cli.raster.blend import axis_blend, axis_stride

BLENDS = ("hann", "average", "crop")


@st.composite
def axes(draw, blend=None):
    length = draw(st.integers(1, 400))
    tile = draw(st.integers(1, 96))
    trim = draw(st.integers(0, max(0, (tile - 1) // 2)))
    overlap = draw(st.floats(0, 0.9))
    stride = axis_stride(tile, overlap, trim)
    return axis_blend(length, tile, stride, trim, blend or draw(st.sampled_from(BLENDS))), trim


def summed(axis):
    total = np.zeros(axis.length)
    for low, high, weight in zip(axis.low, axis.high, axis.weights, strict=True):
        assert len(weight) == high - low
        total[low:high] += weight
    return total


@given(axes())
def test_weights_add_up_to_one_at_every_pixel(case):
    np.testing.assert_allclose(summed(case[0]), 1, atol=1e-6)


@given(axes())
def test_no_kept_pixel_has_weight_zero(case):
    assert min(weight.min() for weight in case[0].weights) > 0


@given(axes())
def test_windows_contribute_only_where_they_lie(case):
    axis, _ = case
    for start, low, high in zip(axis.starts, axis.low, axis.high, strict=True):
        assert start <= low < high <= min(start + axis.tile, axis.length)


@given(axes())
def test_inner_sides_are_trimmed_and_the_border_is_not(case):
    axis, trim = case
    last = len(axis.starts) - 1
    assert axis.low[0] == 0
    assert axis.high[last] == axis.length
    for i in range(last):
        assert axis.high[i] <= axis.starts[i] + axis.tile - trim
        assert axis.low[i + 1] >= axis.starts[i + 1] + trim


@given(axes())
def test_bands_end_where_later_windows_begin(case):
    axis, _ = case
    assert (np.diff(axis.cuts) >= 1).all()
    for i in range(len(axis.starts)):
        # Window i reaches as far as its own band, and nothing later touches it.
        assert axis.high[i] >= axis.cuts[i + 1]
        assert max(axis.reaching(axis.cuts[i], axis.cuts[i + 1])) == i


@given(axes())
def test_reaching_names_exactly_the_windows_that_contribute(case):
    axis, _ = case
    first, last = axis.length // 3, axis.length // 2 + 1
    assume(first < last)
    contributing = [
        i for i in range(len(axis.starts)) if axis.low[i] < last and axis.high[i] > first
    ]
    assert list(axis.reaching(first, last)) == contributing


@given(axes("crop"))
def test_crop_takes_every_pixel_from_one_window(case):
    assert all((weight == 1).all() for weight in case[0].weights)


@given(axes("hann"))
def test_the_scene_border_is_not_tapered(case):
    axis, _ = case
    if len(axis.starts) > 1 and axis.low[1] > 0:
        assert axis.weights[0][0] == 1
    if len(axis.starts) > 1 and axis.high[-2] < axis.length:
        assert axis.weights[-1][-1] == 1


def test_hann_is_one_outside_the_overlap_and_smooth_inside():
    axis = axis_blend(1000, 512, 384, 0, "hann")
    first = axis.weights[0]
    assert (first[: axis.low[1]] == 1).all()
    assert np.abs(np.diff(first)).max() < np.pi / (2 * 128) * 1.01
    np.testing.assert_allclose(first[-64], 0.5, atol=0.02)


@settings(max_examples=30)
@given(axes(), st.floats(0, 1, width=32))
def test_a_constant_comes_out_as_itself(case, value):
    axis, _ = case
    total = np.zeros(axis.length, dtype=np.float32)
    for low, high, weight in zip(axis.low, axis.high, axis.weights, strict=True):
        total[low:high] += np.float32(value) * weight
    np.testing.assert_allclose(total, value, rtol=1e-6, atol=1e-30)


def test_trimming_shortens_the_stride_so_that_nothing_is_left_out():
    assert axis_stride(512, 0.0, 40) == 512 - 80


@pytest.mark.parametrize(("overlap", "trim"), [(1.0, 0), (-0.1, 0), (0.2, 32), (0.2, -1)])
def test_impossible_overlaps_and_trims_are_refused(overlap, trim):
    with pytest.raises(InputError):
        axis_stride(64, overlap, trim)
