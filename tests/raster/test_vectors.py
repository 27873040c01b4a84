"""Polygons cover exactly the pixels of a mask, whatever the stripes, and keep their place."""

import json
import tracemalloc

import numpy as np
import pyogrio
import pytest
import shapely
from affine import Affine
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from rasterio.crs import CRS
from rasterio.features import rasterize

from rsmamba_cli.errors import Interrupted, OutputError
from rsmamba_cli.raster import vector_files
from rsmamba_cli.raster.grid import Gcp, Grid
from rsmamba_cli.raster.simplify import Junctions, simplify_outlines
from rsmamba_cli.raster.vectors import VectorClass, check_vector_path, trace, write_polygons

UTM = CRS.from_epsg(32633)
HALF_METRE = Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)
CLASSES = [VectorClass(1, "building"), VectorClass(2, "water")]

masks = hnp.arrays(
    np.uint8,
    st.tuples(st.integers(1, 14), st.integers(1, 9)),
    elements=st.sampled_from([0, 1, 1, 2, 255]),
)
stripes = st.integers(1, 15)


def traced(values, stripe):
    found = []
    for polygons, classes in trace(lambda a, b: values[a:b], values.shape, (1, 2), stripe):
        found += zip(polygons, classes, strict=True)
    return found


def canonical(found):
    return sorted((value, shapely.normalize(polygon).wkt) for polygon, value in found)


@settings(max_examples=150, deadline=None)
@given(masks, stripes)
def test_rasterised_polygons_are_the_mask(values, stripe):
    found = traced(values, stripe)
    painted = rasterize(found, out_shape=values.shape) if found else np.zeros_like(values)
    np.testing.assert_array_equal(painted, np.where(values == 255, 0, values))


@settings(max_examples=150, deadline=None)
@given(masks, stripes)
def test_polygons_do_not_depend_on_the_stripes(values, stripe):
    assert canonical(traced(values, stripe)) == canonical(traced(values, 1000))


@settings(max_examples=100, deadline=None)
@given(masks, stripes)
def test_polygons_are_valid_and_do_not_overlap(values, stripe):
    found = [polygon for polygon, _ in traced(values, stripe)]
    assert all(polygon.is_valid for polygon in found)
    assert sum(polygon.area for polygon in found) == ((values == 1) | (values == 2)).sum()


def test_a_spiral_over_many_stripes_is_one_polygon():
    values = np.zeros((41, 41), dtype=np.uint8)
    for ring in range(0, 20, 2):
        values[ring, ring : 41 - ring] = values[40 - ring, ring : 41 - ring] = 1
        values[ring : 41 - ring, ring] = values[ring : 41 - ring, 40 - ring] = 1
        values[ring + 1, ring] = 0
        values[ring + 2, ring : ring + 2] = 1
    found = traced(values, 3)
    assert canonical(found) == canonical(traced(values, 100))


def test_open_polygons_are_let_go_as_soon_as_they_end():
    values = np.zeros((100, 10), dtype=np.uint8)
    values[5:15, 2:5] = 1
    batches = [len(p) for p, _ in trace(lambda a, b: values[a:b], values.shape, (1,), 10)]
    assert batches == [0, 1, 0, 0, 0, 0, 0, 0, 0, 0]


@pytest.fixture
def courtyard():
    """A building of 20 x 20 pixels with a hole of 4 x 4, and a pond of 2 x 3."""
    values = np.zeros((40, 50), dtype=np.uint8)
    values[5:25, 10:30] = 1
    values[12:16, 18:22] = 0
    values[30:32, 40:43] = 2
    return values


def write(path, values, grid=None, **options):
    grid = grid or Grid(*values.shape, HALF_METRE, UTM)
    return write_polygons(path, lambda a, b: values[a:b], grid, CLASSES, **options)


def read(path):
    meta, _, geometry, fields = pyogrio.raw.read(path)
    values = dict(zip(meta["fields"], fields, strict=True))
    return meta["crs"], shapely.from_wkb(geometry), values


@pytest.mark.parametrize("suffix", [".gpkg", ".fgb", ".geojson"])
def test_every_format_holds_class_name_and_area(courtyard, tmp_path, suffix):
    assert write(tmp_path / f"out{suffix}", courtyard) == 2
    crs, shapes, fields = read(tmp_path / f"out{suffix}")
    building = list(fields["name"]).index("building")
    assert fields["class"][building] == 1
    # UTM's scale factor at the central meridian is 0.9996.
    assert fields["area_m2"][building] == pytest.approx(384 * 0.25 / 0.9996**2, rel=1e-4)
    assert len(shapes[building].interiors) == 1
    assert CRS.from_user_input(crs).to_epsg() == (4326 if suffix == ".geojson" else 32633)


def test_geojson_follows_rfc_7946(courtyard, tmp_path):
    write(tmp_path / "out.geojson", courtyard)
    content = json.loads((tmp_path / "out.geojson").read_text())
    assert "crs" not in content
    shape = shapely.geometry.shape(content["features"][0]["geometry"])
    assert shape.exterior.is_ccw
    assert 14.9 < shape.centroid.x < 15.1
    assert 45.1 < shape.centroid.y < 45.2


def test_coordinates_are_those_of_the_pixels(courtyard, tmp_path):
    write(tmp_path / "out.gpkg", courtyard)
    _, shapes, fields = read(tmp_path / "out.gpkg")
    pond = shapes[list(fields["class"]).index(2)]
    assert pond.bounds == (500_020.0, 4_999_984.0, 500_021.5, 4_999_985.0)


def test_rotated_grids_are_followed(courtyard, tmp_path):
    grid = Grid(40, 50, Affine(0.4, 0.3, 500_000, 0.3, -0.4, 5_000_000), UTM)
    write(tmp_path / "out.gpkg", courtyard, grid)
    _, shapes, _ = read(tmp_path / "out.gpkg")
    assert shapes[0].area == pytest.approx(384 * 0.25, rel=1e-6)


def test_control_points_place_polygons(courtyard, tmp_path):
    corners = [(r, c) for r in (0, 20, 40) for c in (0, 25, 50)]
    gcps = tuple(Gcp(r, c, 500_000 + c, 5_000_000 - r, 0.0) for r, c in corners)
    write(tmp_path / "out.gpkg", courtyard, Grid(40, 50, gcps=gcps, gcp_crs=UTM))
    crs, shapes, fields = read(tmp_path / "out.gpkg")
    pond = shapes[list(fields["class"]).index(2)]
    assert CRS.from_user_input(crs) == UTM
    np.testing.assert_allclose(pond.bounds, (500_040, 4_999_968, 500_043, 4_999_970), atol=0.01)


def test_small_regions_are_left_out(courtyard, tmp_path):
    assert write(tmp_path / "out.gpkg", courtyard, min_area=10) == 1


def test_simplified_polygons_keep_their_area_in_the_table(tmp_path):
    rows, cols = np.mgrid[0:60, 0:60]
    values = ((rows - 30) ** 2 + (cols - 30) ** 2 < 400).astype(np.uint8)
    write(tmp_path / "fine.gpkg", values)
    write(tmp_path / "coarse.gpkg", values, simplify=1.0)
    _, fine, fine_fields = read(tmp_path / "fine.gpkg")
    _, coarse, coarse_fields = read(tmp_path / "coarse.gpkg")
    assert shapely.get_num_coordinates(coarse[0]) < shapely.get_num_coordinates(fine[0]) / 3
    assert coarse_fields["area_m2"][0] == fine_fields["area_m2"][0]


def test_a_mask_without_a_place_gives_pixel_coordinates(courtyard, tmp_path):
    write(tmp_path / "out.gpkg", courtyard, Grid(40, 50))
    _, shapes, fields = read(tmp_path / "out.gpkg")
    assert shapes[list(fields["class"]).index(2)].bounds == (40, 30, 43, 32)
    assert np.isnan(fields["area_m2"]).all()


@pytest.mark.parametrize("suffix", [".gpkg", ".fgb", ".geojson"])
def test_no_polygons_is_an_empty_file(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    assert write(path, np.zeros((5, 5), dtype=np.uint8)) == 0
    assert len(read(path)[1]) == 0


def test_parquet_holds_geometry_and_crs(courtyard, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write(tmp_path / "out.parquet", courtyard)
    table = parquet.read_table(tmp_path / "out.parquet")
    geo = json.loads(table.schema.metadata[b"geo"])
    assert sorted(table["name"].to_pylist()) == ["building", "water"]
    assert geo["columns"]["geometry"]["crs"]["id"]["code"] == 32633
    shapes = shapely.from_wkb(np.array(table["geometry"].to_pylist(), dtype=object))
    assert sum(s.area for s in shapes) == pytest.approx((384 + 6) * 0.25)


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(vector_files, "_has_pyarrow", lambda: False)
    with pytest.raises(OutputError, match=r"rsmamba\[parquet\]"):
        check_vector_path(tmp_path / "out.parquet")


def test_an_unknown_ending_is_refused(courtyard, tmp_path):
    with pytest.raises(OutputError, match=r"\.gpkg"):
        write(tmp_path / "out.shp", courtyard)


def test_a_failed_write_is_an_output_error(courtyard, tmp_path):
    with pytest.raises(OutputError):
        write(tmp_path / "nowhere" / "out.gpkg", courtyard)


@st.composite
def smooth_maps(draw):
    """Masks of three classes with regions of some size."""
    height, width = draw(st.integers(6, 30)), draw(st.integers(6, 30))
    seed = draw(st.integers(0, 2**31))
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 3, (height // 3 + 2, width // 3 + 2)).astype(np.uint8)
    values = coarse.repeat(3, axis=0).repeat(3, axis=1)[:height, :width].copy()
    for _ in range(draw(st.integers(0, 20))):
        values[rng.integers(height), rng.integers(width)] = rng.integers(0, 3)
    return values


def outlines(values, stripe, tolerance):
    junctions = Junctions(values.shape)
    found = []
    rows = trace(lambda a, b: values[a:b], values.shape, (0, 1, 2), stripe, junctions)
    for polygons, classes in rows:
        found += zip(simplify_outlines(polygons, junctions, tolerance), classes, strict=True)
    return found


@settings(max_examples=100, deadline=None)
@given(smooth_maps(), stripes, st.sampled_from([0.45, 1.0, 2.0]))
def test_simplified_outlines_do_not_depend_on_the_stripes(values, stripe, tolerance):
    whole = canonical(outlines(values, 1000, tolerance))
    assert canonical(outlines(values, stripe, tolerance)) == whole


@settings(max_examples=100, deadline=None)
@given(smooth_maps(), stripes)
def test_shared_borders_stay_shared(values, stripe):
    """Below half a pixel no line can cross another, so the regions still fill the map exactly."""
    polygons = [polygon for polygon, _ in outlines(values, stripe, 0.45)]
    assert sum(p.area for p in polygons) == pytest.approx(values.size)
    assert shapely.union_all(polygons).area == pytest.approx(values.size)


def test_a_stair_between_two_classes_becomes_one_slope_for_both():
    values = np.full((30, 30), 1, dtype=np.uint8)
    values[np.tril_indices(30)] = 2
    one, two = (polygon for polygon, _ in outlines(values, 7, 1.5))
    assert shapely.get_num_coordinates(one) + shapely.get_num_coordinates(two) < 14
    assert one.intersection(two).area == 0
    assert one.area + two.area == pytest.approx(900)


def test_small_islands_survive_a_large_tolerance():
    values = np.zeros((9, 9), dtype=np.uint8)
    values[4, 4] = 1
    found = {value: polygon for polygon, value in outlines(values, 4, 5.0)}
    assert found[1].area == 1


@pytest.mark.parametrize("suffix", [".gpkg", ".fgb", ".geojson"])
def test_without_pyarrow_the_files_say_the_same(courtyard, tmp_path, monkeypatch, suffix):
    write(tmp_path / f"with{suffix}", courtyard)
    monkeypatch.setattr(vector_files, "_has_pyarrow", lambda: False)
    write(tmp_path / f"without{suffix}", courtyard)
    (_, a, fields), (_, b, other) = (
        read(tmp_path / f"with{suffix}"),
        read(tmp_path / f"without{suffix}"),
    )
    assert sorted(g.wkt for g in a) == sorted(g.wkt for g in b)
    assert sorted(fields["area_m2"]) == sorted(other["area_m2"])


@pytest.mark.parametrize("suffix", [".gpkg", ".fgb", ".parquet"])
def test_memory_does_not_grow_with_the_number_of_polygons(tmp_path, suffix):
    pytest.importorskip("pyarrow")

    def peak_of(height):
        def rows(first, last):
            r, c = np.mgrid[first:last, 0:24]
            return ((r % 4 < 2) & (c % 4 < 2)).astype(np.uint8)

        tracemalloc.start()
        count = write_polygons(
            tmp_path / f"{height}{suffix}", rows, Grid(height, 24, HALF_METRE, UTM), CLASSES
        )
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return count, peak

    peak_of(1024)
    (few, low), (many, high) = peak_of(1024), peak_of(5120)
    assert many == 5 * few
    assert high < 1.5 * low


def test_an_error_while_tracing_comes_through_as_it_is(courtyard, tmp_path):
    def stop():
        raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        write(tmp_path / "out.gpkg", courtyard, check=stop)
