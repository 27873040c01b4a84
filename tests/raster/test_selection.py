"""An area of interest selects the pixels whose centre lies inside, in any CRS."""

import json

import numpy as np
import pyogrio
import pytest
import shapely
from affine import Affine
from rasterio.crs import CRS
from rasterio.warp import transform as transform_points

from rsmamba_cli.errors import InputError
from rsmamba_cli.raster.grid import Grid
from rsmamba_cli.raster.selection import Selection

UTM = CRS.from_epsg(32631)
GRID = Grid(60, 80, Affine(1, 0, 500_000, 0, -1, 5_700_000), UTM)


def write(path, shapes, crs="EPSG:32631"):
    pyogrio.raw.write(
        path, shapely.to_wkb(np.array(shapes)), [], [], crs=crs, geometry_type="Unknown",
        driver={".gpkg": "GPKG", ".geojson": "GeoJSON", ".shp": "ESRI Shapefile"}[path.suffix],
    )  # fmt: skip
    return path


def selected(grid=GRID, **options):
    return Selection(grid, **options).read(0, 0, *grid.shape)


def block(rows, cols):
    expected = np.zeros((60, 80), dtype=bool)
    expected[rows, cols] = True
    return expected


def test_a_box_selects_its_pixels():
    np.testing.assert_array_equal(
        selected(bbox=(500_010, 5_699_950, 500_030, 5_699_990)), block(np.s_[10:50], np.s_[10:30])
    )


def test_a_box_may_be_in_another_crs():
    x, y = transform_points(UTM, CRS.from_epsg(4326), [500_010, 500_030], [5_699_950, 5_699_990])
    found = selected(bbox=(x[0], y[0], x[1], y[1]), bbox_crs="EPSG:4326")
    assert abs(int(found.sum()) - 800) <= 40
    assert found[30, 20]


def test_a_box_of_a_bare_image_is_in_pixels():
    np.testing.assert_array_equal(
        selected(Grid(60, 80), bbox=(10, 5, 20, 25)), block(np.s_[5:25], np.s_[10:20])
    )


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".shp"])
def test_polygons_of_every_format_select(tmp_path, suffix):
    shape = shapely.box(500_010, 5_699_950, 500_030, 5_699_990)
    path = write(tmp_path / f"aoi{suffix}", [shape])
    np.testing.assert_array_equal(selected(aoi=path), block(np.s_[10:50], np.s_[10:30]))


def test_polygons_in_degrees_select_the_same_place(tmp_path):
    ring = shapely.get_coordinates(shapely.box(500_010, 5_699_950, 500_030, 5_699_990))
    lonlat = np.stack(transform_points(UTM, CRS.from_epsg(4326), ring[:, 0], ring[:, 1]), axis=1)
    path = write(tmp_path / "aoi.geojson", [shapely.Polygon(lonlat)], "EPSG:4326")
    found = selected(aoi=path)
    assert (found != block(np.s_[10:50], np.s_[10:30])).sum() <= 4


def test_holes_are_left_out(tmp_path):
    ring = shapely.box(500_010, 5_699_950, 500_030, 5_699_990).difference(
        shapely.box(500_015, 5_699_960, 500_020, 5_699_970)
    )
    found = selected(aoi=write(tmp_path / "aoi.gpkg", [ring]))
    assert found.sum() == 800 - 50


def test_box_and_polygons_both_have_to_hold(tmp_path):
    path = write(tmp_path / "aoi.gpkg", [shapely.box(500_000, 5_699_940, 500_020, 5_700_000)])
    found = selected(aoi=path, bbox=(500_010, 5_699_940, 500_080, 5_700_000))
    np.testing.assert_array_equal(found, block(np.s_[:], np.s_[10:20]))


def test_windows_agree_with_the_whole(tmp_path):
    rng = np.random.default_rng(0)
    shapes = [
        shapely.Point(500_000 + x, 5_700_000 - y).buffer(r)
        for x, y, r in zip(
            rng.uniform(0, 80, 6), rng.uniform(0, 60, 6), rng.uniform(2, 9, 6), strict=True
        )
    ]
    selection = Selection(GRID, write(tmp_path / "aoi.gpkg", shapes))
    whole = selection.read(0, 0, 60, 80)
    for row in range(0, 60, 20):
        for col in range(0, 80, 16):
            part = selection.read(row, col, 20, 16)
            np.testing.assert_array_equal(part, whole[row : row + 20, col : col + 16])
            assert selection.touches(row, col, 20, 16) or not part.any()


def test_an_area_beside_the_scene_is_refused():
    with pytest.raises(InputError, match="does not touch the scene"):
        selected(bbox=(0, 0, 10, 10))


def test_points_are_no_area(tmp_path):
    path = write(tmp_path / "aoi.gpkg", [shapely.Point(500_010, 5_699_990)])
    with pytest.raises(InputError, match="holds no polygons"):
        selected(aoi=path)


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "aoi.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": []}))
    with pytest.raises(InputError, match=r"aoi\.geojson"):
        selected(aoi=tmp_path / "aoi.geojson")


@pytest.mark.parametrize("content", [None, "not a vector"])
def test_an_unreadable_file_is_named(tmp_path, content):
    path = tmp_path / "aoi.gpkg"
    if content:
        path.write_text(content)
    with pytest.raises(InputError, match=r"aoi\.gpkg"):
        selected(aoi=path)


def test_an_area_with_a_crs_needs_a_scene_with_one(tmp_path):
    path = write(tmp_path / "aoi.gpkg", [shapely.box(0, 0, 10, 10)])
    with pytest.raises(InputError, match="the scene has none"):
        selected(Grid(60, 80), aoi=path)


def test_an_area_without_crs_is_taken_as_the_scene_s(tmp_path):
    path = write(tmp_path / "aoi.shp", [shapely.box(500_010, 5_699_950, 500_030, 5_699_990)], None)
    selection = Selection(GRID, path)
    assert "has no CRS" in selection.note
    assert selection.read(0, 0, 60, 80).sum() == 800


def test_an_unknown_crs_is_refused():
    with pytest.raises(InputError, match="EPSG:999999"):
        selected(bbox=(0, 0, 1, 1), bbox_crs="EPSG:999999")
