"""A second date lands on the first one's grid: exact where it can be, clean where it is warped."""

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.warp import transform as transform_points

from rsmamba_cli.errors import InputError
from rsmamba_cli.raster.align import align, overlap_share
from rsmamba_cli.raster.grid import Grid
from rsmamba_cli.raster.scene import open_scene

UTM = CRS.from_epsg(32631)
BASE = Grid(60, 80, Affine(1, 0, 500_000, 0, -1, 5_700_000), UTM)


def noise(shape=(2, 60, 80), seed=0):
    return np.random.default_rng(seed).integers(1, 250, shape).astype(np.uint8)


def aligned(path, grid=BASE, window=None, **options):
    with open_scene(path, **options) as scene:
        reader = align(scene, grid, "first.tif")
        values, valid = reader.read(*(window or (0, 0, *grid.shape)))
        return reader.how, reader.overlap, values, valid


def place_ramp(path, grid, kind="xy"):
    """Write a float raster whose bands are the world coordinates (in BASE's CRS) of its pixels."""
    rows, cols = np.mgrid[0 : grid.height, 0 : grid.width] + 0.5
    x, y = grid.pixel_to_world(rows, cols)
    if grid.world_crs != UTM:
        x, y = (
            np.reshape(v, rows.shape)
            for v in transform_points(grid.world_crs, UTM, x.ravel(), y.ravel())
        )
    values = np.stack([x - 500_000, 5_700_000 - y]).astype(np.float32)
    with rasterio.open(
        path, "w", driver="GTiff", count=2, dtype="float32", nodata=-9999, **grid.profile()
    ) as sink:
        sink.write(values)
    return path


def expected_ramp():
    rows, cols = np.mgrid[0:60, 0:80] + 0.5
    return np.stack([cols, rows])


def test_the_same_grid_is_read_untouched(scene_factory):
    values = noise()
    how, overlap, got, valid = aligned(scene_factory(values=values, gsd=1.0))
    assert (how, overlap) == ("same", 1.0)
    np.testing.assert_array_equal(got, values)
    assert valid.all()


def test_whole_pixel_shifts_are_exact(scene_factory):
    values = noise()
    path = scene_factory(values=values, gsd=1.0, origin=(500_007, 5_699_995))
    how, overlap, got, valid = aligned(path)
    assert how == "shifted"
    np.testing.assert_array_equal(got[:, 5:, 7:], values[:, :55, :73])
    assert valid[5:, 7:].all()
    assert not valid[:5].any()
    assert not valid[:, :7].any()
    assert overlap == pytest.approx(55 * 73 / (60 * 80))


@pytest.mark.parametrize(
    "grid",
    [
        Grid(90, 110, Affine(1, 0, 499_990.3, 0, -1, 5_700_010.4), UTM),
        Grid(60, 70, Affine(2, 0, 499_980, 0, -2, 5_700_020), UTM),
        Grid(400, 500, Affine(0.25, 0, 499_980, 0, -0.25, 5_700_020), UTM),
        Grid(100, 120, Affine(1, 0, 499_980, 0, 1, 5_699_920), UTM),
        Grid(160, 160, Affine(0.8, 0.3, 499_950, 0.3, -0.8, 5_700_010), UTM),
        Grid(140, 160, Affine(1e-5, 0, 2.9995, 0, -1e-5, 51.4515), CRS.from_epsg(4326)),
        Grid(150, 150, Affine(1.6, 0, 333_900, 0, -1.6, 6_701_566), CRS.from_epsg(3857)),
    ],
    ids=["offset", "coarser", "finer", "south-up", "rotated", "geographic", "web mercator"],
)
def test_every_warp_puts_pixels_where_they_belong(tmp_path, grid):
    x, y = grid.world_to_pixel(*_in(grid.world_crs, *BASE.pixel_to_world([30.0], [40.0])))
    assert 0 < x[0] < grid.height, "the case itself is off"
    assert 0 < y[0] < grid.width, "the case itself is off"
    how, _, got, valid = aligned(place_ramp(tmp_path / "ramp.tif", grid))
    assert how == "warped"
    assert valid.mean() > 0.4
    # GDAL's warper approximates the transformation to an eighth of a source pixel.
    np.testing.assert_allclose(got[:, valid], expected_ramp()[:, valid], atol=0.13 * 2)


def _in(crs, x, y):
    if crs == UTM:
        return x, y
    return tuple(np.asarray(v) for v in transform_points(UTM, crs, x, y))


def test_control_points_place_a_second_date(tmp_path):
    grid = Grid(80, 100, Affine(1, 0, 499_990, 0, -1, 5_700_010), UTM)
    path = place_ramp(tmp_path / "ramp.tif", grid)
    corners = [(0, 0), (0, 100), (80, 0), (80, 100), (40, 50), (20, 70)]
    points = [
        GroundControlPoint(r, c, *(float(v[0]) for v in grid.pixel_to_world([r], [c])))
        for r, c in corners
    ]
    with rasterio.open(path) as source:
        values = source.read()
    with rasterio.open(
        tmp_path / "gcps.tif", "w", driver="GTiff", height=80, width=100, count=2,
        dtype="float32", crs=UTM, gcps=points,
    ) as sink:  # fmt: skip
        sink.write(values)
    how, overlap, got, valid = aligned(tmp_path / "gcps.tif")
    assert (how, overlap) == ("warped", pytest.approx(1))
    assert valid.all()
    np.testing.assert_allclose(got, expected_ramp(), atol=0.1)


def test_nodata_never_leaks_into_valid_pixels(scene_factory):
    values = np.full((2, 80, 100), 100, dtype=np.uint8)
    values[:, 30:40, 20:90] = 0
    values[:, np.arange(80), np.arange(80)] = 0
    path = scene_factory(values=values, nodata=0, gsd=1.0, origin=(499_990.4, 5_700_010.3))
    _, _, got, valid = aligned(path)
    assert (got[:, valid] == 100).all()
    assert 0.5 < valid.mean() < 0.95


def test_masks_of_the_second_date_follow_it(scene_factory):
    values = noise((3, 80, 100))
    values[2] = 255
    values[2, 20:40, 30:60] = 0
    path = scene_factory(values=values, alpha=True, gsd=1.0, origin=(499_990.5, 5_700_010.5))
    _, _, _, valid = aligned(path)
    assert not valid[11:28, 22:48].any()
    assert valid[35:, :].all()


def test_what_is_read_does_not_depend_on_how(scene_factory):
    path = scene_factory(values=noise((2, 900, 1300)), gsd=0.7, origin=(499_990.4, 5_700_010.3))
    grid = Grid(600, 800, BASE.transform, UTM)
    _, _, whole, whole_valid = aligned(path, grid)
    with open_scene(path) as scene:
        reader = align(scene, grid, "first.tif")
        for row in range(0, 600, 110):
            height = min(110, 600 - row)
            part, part_valid = reader.read(row, 130, height, 600)
            np.testing.assert_array_equal(part, whole[:, row : row + height, 130:730])
            np.testing.assert_array_equal(part_valid, whole_valid[row : row + height, 130:730])


def test_finer_dates_are_averaged_not_sampled(scene_factory):
    path = scene_factory(values=noise((1, 600, 800)), gsd=0.1)
    _, _, got, valid = aligned(path)
    inner = got[0, 2:-2, 2:-2][valid[2:-2, 2:-2]]
    # The mean of about a hundred pixels varies ten times less than one.
    assert inner.std() < 72 / 7


def test_scenes_that_do_not_overlap_are_refused(scene_factory):
    path = scene_factory(values=noise(), gsd=1.0, origin=(600_000, 5_700_000))
    with pytest.raises(InputError, match="do not overlap"):
        aligned(path)


def test_scenes_that_only_touch_are_refused(scene_factory):
    path = scene_factory(values=noise(), gsd=1.0, origin=(500_080, 5_700_000))
    with pytest.raises(InputError, match="do not overlap"):
        aligned(path)


def test_one_with_and_one_without_a_place_are_refused(scene_factory):
    path = scene_factory("bare.tif", values=noise(), crs=None)
    with pytest.raises(InputError, match=r"bare\.tif has no georeference"):
        aligned(path)


def test_plain_images_are_paired_by_pixel(scene_factory):
    values = noise()
    how, _, got, _ = aligned(scene_factory(values=values, crs=None), Grid(60, 80))
    assert how == "same"
    np.testing.assert_array_equal(got, values)


def test_plain_images_of_other_sizes_are_refused(scene_factory):
    with pytest.raises(InputError, match="equal sizes"):
        aligned(scene_factory(values=noise(), crs=None), Grid(60, 81))


def test_a_transform_without_crs_is_not_laid_over_one_with(scene_factory):
    path = scene_factory(values=noise(), crs=None, transform=BASE.transform)
    with pytest.raises(InputError, match="has no CRS"):
        aligned(path)


def test_two_transforms_without_crs_share_a_plane(tmp_path):
    grid = Grid(90, 110, Affine(1, 0, 499_990.3, 0, -1, 5_700_010.4), UTM)
    path = place_ramp(tmp_path / "ramp.tif", grid)
    with rasterio.open(path) as source:
        values = source.read()
    with rasterio.open(
        tmp_path / "plane.tif", "w", driver="GTiff", height=90, width=110, count=2,
        dtype="float32", transform=grid.transform,
    ) as sink:  # fmt: skip
        sink.write(values)
    _, _, got, valid = aligned(tmp_path / "plane.tif", Grid(60, 80, BASE.transform))
    assert valid.all()
    np.testing.assert_allclose(got, expected_ramp(), atol=0.05)


def test_nothing_is_warped_on_to_control_points(scene_factory):
    from test_grid import GCPS

    grid = Grid(60, 80, gcps=GCPS, gcp_crs=CRS.from_epsg(4326))
    with pytest.raises(InputError, match="--grid t2"):
        aligned(scene_factory(values=noise()), grid)


def test_the_overlap_of_rotated_outlines_is_that_of_polygons():
    square = Grid(100, 100, Affine(1, 0, 0, 0, -1, 100), UTM)
    half = 50 * np.sqrt(2)
    diamond = Grid(
        100,
        100,
        Affine(np.sqrt(0.5), np.sqrt(0.5), 50 - half, -np.sqrt(0.5), np.sqrt(0.5), 50),
        UTM,
    )
    # An octagon: the square without four corners, each a right isosceles triangle.
    leg = 100 - half
    assert overlap_share(square, diamond) == pytest.approx(1 - 4 * (leg**2 / 2) / 1e4, abs=0.01)
