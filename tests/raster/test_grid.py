"""Grids keep their place to the last bit, and measure the Earth rightly."""

import math
import warnings
from itertools import pairwise

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS
from rasterio.rpc import RPC

from rsmamba_cli.errors import InputError
from rsmamba_cli.raster.grid import Gcp, Grid, as_bounds, window_starts

UTM = CRS.from_epsg(32633)
WGS84 = CRS.from_epsg(4326)
NORTH_UP = Affine(0.5, 0, 500_000.25, 0, -0.5, 5_000_000.75)
SOUTH_UP = Affine(0.5, 0, 500_000.25, 0, 0.5, 5_000_000.75)
ROTATED = Affine(0.4, 0.1, 500_000.25, 0.15, -0.5, 5_000_000.75)
GCPS = (
    Gcp(0, 0, 10.0, 50.0, 12.5),
    Gcp(0, 100, 10.1, 50.01, 0.0),
    Gcp(80, 0, 9.99, 49.92, 0.0),
    Gcp(80, 100, 10.09, 49.93, 0.0),
)
RPCS = RPC(
    err_bias=1.0,
    err_rand=0.5,
    height_off=10.0,
    height_scale=500.0,
    lat_off=50.0,
    lat_scale=0.1,
    line_den_coeff=[1.0] + [0.0] * 19,
    line_num_coeff=[0.0, 0.0, -1.0] + [0.0] * 17,
    line_off=40.0,
    line_scale=40.0,
    long_off=10.0,
    long_scale=0.1,
    samp_den_coeff=[1.0] + [0.0] * 19,
    samp_num_coeff=[0.0, 1.0] + [0.0] * 18,
    samp_off=50.0,
    samp_scale=50.0,
)
PLACED = {
    "north-up": Grid(80, 100, NORTH_UP, UTM),
    "south-up": Grid(80, 100, SOUTH_UP, UTM),
    "rotated": Grid(80, 100, ROTATED, UTM),
    "control points": Grid(80, 100, gcps=GCPS, gcp_crs=WGS84),
    "rpcs": Grid(80, 100, rpcs=RPCS),
}
EVERY = {**PLACED, "transform only": Grid(80, 100, ROTATED), "bare": Grid(80, 100)}
lengths = st.integers(1, 3000)


@given(length=lengths, tile=st.integers(1, 700), data=st.data())
def test_windows_cover_every_pixel_and_stay_inside(length, tile, data):
    stride = data.draw(st.integers(1, tile))
    starts = window_starts(length, tile, stride)
    assert starts[0] == 0
    assert max(starts[-1] + tile, length) == max(tile, length)
    assert starts[-1] + tile >= length
    steps = np.diff(starts)
    assert ((steps >= 1) & (steps <= stride)).all()


@pytest.mark.parametrize(("length", "tile", "stride"), [(0, 4, 2), (9, 4, 5), (9, 4, 0)])
def test_impossible_windows_are_refused(length, tile, stride):
    with pytest.raises(InputError):
        window_starts(length, tile, stride)


@pytest.mark.parametrize("kind", EVERY)
def test_a_written_raster_has_exactly_the_grid(tmp_path, kind):
    grid = EVERY[kind]
    path = tmp_path / "grid.tif"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with rasterio.open(path, "w", driver="GTiff", count=1, dtype="uint8", **grid.profile()):
            pass
        with rasterio.open(path) as dataset:
            assert Grid.of(dataset) == grid


@pytest.mark.parametrize("kind", EVERY)
def test_world_and_pixel_positions_are_inverse(kind):
    rows, cols = np.array([0.0, 12.25, 80.0]), np.array([100.0, 3.5, 0.0])
    back = EVERY[kind].world_to_pixel(*EVERY[kind].pixel_to_world(rows, cols))
    # GDAL inverts control points by a polynomial of its own.
    tolerance = 0.1 if kind == "control points" else 1e-6
    np.testing.assert_allclose(back, (rows, cols), atol=tolerance)


@pytest.mark.parametrize("kind", PLACED)
def test_a_part_lies_where_it_lay_in_the_whole(kind):
    grid = PLACED[kind]
    part = grid.window(10, 20, 30, 40)
    np.testing.assert_allclose(
        part.pixel_to_world([5.0], [6.0]), grid.pixel_to_world([15.0], [26.0]), rtol=1e-9
    )


def test_bare_rasters_have_no_georeference():
    assert [kind for kind, grid in EVERY.items() if not grid.has_georeference] == ["bare"]


def test_pixels_of_a_geographic_grid_add_up_to_the_earth():
    grid = Grid(720, 1440, Affine(0.25, 0, -180, 0, -0.25, 90), WGS84)
    areas = grid.area_table()
    total = areas.sum_where(np.ones(grid.shape, dtype=bool), 0)
    assert total == pytest.approx(510_065_621_724_000, rel=1e-4)


def test_web_mercator_is_measured_on_the_ground():
    y = 8_399_737.9  # 60 degrees north
    grid = Grid(10, 10, Affine(1, 0, 0, 0, -1, y), CRS.from_epsg(3857))
    assert grid.gsd_m() == pytest.approx(0.5, rel=5e-3)


def test_equal_area_projection_keeps_its_own_areas():
    grid = Grid(100, 100, Affine(1000, 0, 1e6, 0, -1000, 4e6), CRS.from_epsg(6933))
    assert grid.pixel_area_m2() == pytest.approx(1e6, rel=1e-4)


def test_feet_are_not_metres():
    grid = Grid(10, 10, Affine(1, 0, 980_000, 0, -1, 200_000), CRS.from_epsg(2263))
    assert grid.gsd_m() == pytest.approx(0.3048, rel=1e-3)


def test_pixels_across_the_date_line_are_small():
    grid = Grid(4, 4, Affine(0.1, 0, 179.8, 0, -0.1, 0.2), WGS84)
    areas = grid.pixel_areas_m2(np.full(4, 2.0), np.arange(4) + 0.5)
    np.testing.assert_allclose(areas, areas[0], rtol=1e-9)


def test_polar_stereographic_pixels_are_measured():
    grid = Grid(10, 10, Affine(1000, 0, -5000, 0, -1000, 5000), CRS.from_epsg(3413))
    # True scale is at 70 degrees; at the pole the map is larger than the ground by 3.1 %.
    assert grid.gsd_m() == pytest.approx(1000 * 1.0309, rel=1e-3)


def test_a_grid_without_crs_has_no_area():
    assert EVERY["transform only"].area_table() is None


@pytest.mark.parametrize("cuts", [(0, 200), (0, 1, 77, 200), (0, 64, 128, 192, 200)])
def test_areas_of_parts_add_up(cuts):
    grid = Grid(30, 200, Affine(0.5, 0, 5, 0, -0.5, 80), WGS84)
    selected = np.random.default_rng(0).random((30, 200)) < 0.5
    areas = grid.area_table()
    total = sum(
        areas.sum_where(np.ascontiguousarray(selected[first:last, left:right]), first, left)
        for first, last in ((0, 11), (11, 30))
        for left, right in pairwise(cuts)
    )
    assert total == pytest.approx(areas.sum_where(selected, 0), rel=1e-12)


def test_areas_of_a_subset_are_those_of_its_pixels():
    grid = Grid(300, 200, Affine(0.01, 0, 5, 0, -0.01, 60), WGS84)
    selected = np.zeros((300, 200), dtype=bool)
    selected[40:70, 13:29] = True
    rows, cols = np.nonzero(selected)
    exact = grid.pixel_areas_m2(rows + 0.5, cols + 0.5).sum()
    assert grid.area_table().sum_where(selected, 0) == pytest.approx(exact, rel=1e-6)


def test_whole_pixel_offsets_share_a_lattice():
    grid = PLACED["rotated"]
    assert grid.offset_of(grid.window(-3, 7, 50, 60)) == (-3, 7)


def test_a_fifth_of_a_pixel_does_not_share_a_lattice():
    moved = Grid(80, 100, Affine(0.5, 0, 500_000.35, 0, -0.5, 5_000_000.75), UTM)
    assert PLACED["north-up"].offset_of(moved) is None


def test_a_slightly_different_resolution_does_not_share_a_lattice():
    other = Grid(8000, 8000, Affine(0.5000005, 0, 500_000.25, 0, -0.5, 5_000_000.75), UTM)
    assert PLACED["north-up"].offset_of(other) is None


def test_another_crs_does_not_share_a_lattice():
    other = Grid(80, 100, NORTH_UP, CRS.from_epsg(32634))
    assert PLACED["north-up"].offset_of(other) is None


@pytest.mark.parametrize("kind", ["control points", "rpcs", "bare"])
def test_grids_without_transform_match_only_themselves(kind):
    grid = EVERY[kind]
    assert grid.offset_of(EVERY[kind]) == (0, 0)
    assert grid.offset_of(Grid(81, 100, gcps=grid.gcps, gcp_crs=grid.gcp_crs)) is None


@given(st.tuples(*[st.floats(-1e6, 1e6)] * 4))
def test_bounds_come_out_ordered(values):
    if values[0] == values[2] or values[1] == values[3]:
        with pytest.raises(InputError):
            as_bounds(values)
    else:
        left, bottom, right, top = as_bounds(values)
        assert left < right
        assert bottom < top


@pytest.mark.parametrize("values", [(1, 2, 3), (0, 0, math.inf, 1), (0, 0, math.nan, 1)])
def test_broken_bounds_are_refused(values):
    with pytest.raises(InputError):
        as_bounds(values)
