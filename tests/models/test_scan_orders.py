"""Index tables of the scan directions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rsmamba_models.errors import ArgumentsError
from rsmamba_models.ops import inverse_order, scan_order

sides = st.integers(1, 12)
kinds = st.sampled_from(["raster", "cross", "omni"])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(kind=kinds, height=sides, width=sides)
def test_every_direction_visits_every_pixel_once(kind, height, width):
    order = scan_order(kind, height, width)
    assert order.shape == ({"raster": 1, "cross": 4, "omni": 8}[kind], height * width)
    assert torch.equal(order.sort(1).values, torch.arange(height * width).expand(order.shape).int())


@settings(max_examples=30, deadline=None, derandomize=True)
@given(kind=kinds, height=sides, width=sides)
def test_the_inverse_undoes_an_order(kind, height, width):
    order = scan_order(kind, height, width)
    places = torch.arange(height * width).expand(order.shape).int()
    assert torch.equal(order.gather(1, inverse_order(order).long()), places)


def test_cross_is_the_first_half_of_omni():
    assert torch.equal(scan_order("cross", 4, 7), scan_order("omni", 4, 7)[:4])


def test_diagonals_wrap_at_the_sides_and_never_at_the_top():
    down_right, down_left = scan_order("omni", 3, 4)[[4, 5]]
    assert down_right[:6].tolist() == [0, 5, 10, 1, 6, 11]
    assert down_left[:6].tolist() == [0, 7, 10, 1, 4, 11]


def test_tables_are_cached():
    assert scan_order("omni", 6, 5) is scan_order("omni", 6, 5)


def test_a_table_made_in_inference_mode_can_be_trained_with():
    with torch.inference_mode():
        order = scan_order("omni", 9, 31)
    assert not order.is_inference()


def test_unknown_kinds_are_refused():
    with pytest.raises(ArgumentsError, match="spiral"):
        scan_order("spiral", 2, 2)
