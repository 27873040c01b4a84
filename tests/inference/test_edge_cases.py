"""Odd places, formats, shapes and names, each from a real file to the finished map."""

import os
import shutil
import zipfile

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from inference_models import Constant, Pixelwise, meta_of, pixelwise_logits
from rasterio.transform import Affine

from rsmamba_cli.errors import InputError
from rsmamba_cli.events import Warned
from rsmamba_cli.inference import PredictOptions, predict

BANDS = 3


@pytest.fixture
def model(use_model):
    """A model whose answer for every pixel is known."""
    return use_model(Pixelwise(BANDS, 3), meta_of(BANDS, 3))


def ramp(height=40, width=50, seed=0):
    return np.random.default_rng(seed).integers(1, 250, (BANDS, height, width)).astype(np.uint8)


def mapped(scene, output, **options):
    result = predict(scene, output, PredictOptions(**options))
    with rasterio.open(output) as dataset:
        return result, dataset.read(1)


def expected(model, values):
    return pixelwise_logits(model, values).argmax(axis=0)


# formats


def palette(scene_factory, values):
    index = np.arange(values.shape[1] * values.shape[2]) % 256
    index = index.reshape(1, *values.shape[1:]).astype(np.uint8)
    colors = np.random.default_rng(1).integers(0, 256, (256, 3)).astype(np.uint8)
    path = scene_factory(values=index, photometric="palette")
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, {i: (*map(int, c), 255) for i, c in enumerate(colors)})
    return path, np.moveaxis(colors[index[0]], -1, 0)


def zipped(scene_factory, values):
    path = scene_factory(values=values)
    with zipfile.ZipFile(path.with_suffix(".zip"), "w") as archive:
        archive.write(path, "in here/scene.tif")
    return f"/vsizip/{path.with_suffix('.zip')}/in here/scene.tif", values


FORMATS = {
    "bigtiff": lambda make, values: (make(values=values, bigtiff="YES"), values),
    "one bit": lambda make, values: (make(values=values % 2, nbits=1), values % 2),
    "palette": palette,
    "inside a zip": zipped,
    "odd name": lambda make, values: (
        make("a folder/ünï çödé 影像 #1?.tif", values=values),
        values,
    ),
    "strips of one row": lambda make, values: (make(values=values, blockysize=1), values),
    "big endian": lambda make, values: (make(values=values, endianness="big"), values),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_mapped(scene_factory, tmp_path, model, kind):
    scene, values = FORMATS[kind](scene_factory, ramp())
    _, mask = mapped(scene, tmp_path / "mask.tif")
    np.testing.assert_array_equal(mask, expected(model, values))


def test_a_bigtiff_is_one(scene_factory):
    with scene_factory(bigtiff="YES").open("rb") as file:
        assert file.read(4) == b"II+\0"


@pytest.mark.parametrize("internal", [True, False])
def test_masks_are_followed(scene_factory, tmp_path, model, internal):
    values = ramp()
    path = scene_factory(values=values)
    valid = np.ones(values.shape[1:], dtype=bool)
    valid[5:17, 30:] = False
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(valid)
    assert path.with_name(path.name + ".msk").exists() != internal
    _, mask = mapped(path, tmp_path / "mask.tif")
    np.testing.assert_array_equal(mask, np.where(valid, expected(model, values), 255))


def test_complex_scenes_are_refused(tmp_path, model):
    path = tmp_path / "slc.tif"
    with rasterio.open(
        path, "w", driver="GTiff", width=8, height=8, count=3, dtype="complex64", crs="EPSG:32631",
        transform=Affine(1, 0, 5e5, 0, -1, 5e6),
    ) as dataset:  # fmt: skip
        dataset.write(np.ones((3, 8, 8), dtype=np.complex64))
    with pytest.raises(InputError, match=r"slc\.tif: .*complex"):
        mapped(path, tmp_path / "mask.tif")
    assert [p.name for p in tmp_path.iterdir()] == ["slc.tif"]


# shapes


@pytest.mark.parametrize("shape", [(1, 1), (1, 100_000), (100_000, 1)])
def test_the_smallest_and_the_thinnest(scene_factory, tmp_path, model, shape):
    values = ramp(*shape)
    polygons = tmp_path / "mask.gpkg"
    _, mask = mapped(scene_factory(values=values), tmp_path / "mask.tif", polygons=polygons)
    answer = expected(model, values)
    np.testing.assert_array_equal(mask, answer)
    area = shapely.area(shapely.from_wkb(pyogrio.raw.read(polygons)[2])).sum()
    assert area == pytest.approx(0.25 * (answer > 0).sum())


def test_nothing_but_nodata(scene_factory, tmp_path, model):
    scene = scene_factory(values=np.zeros((BANDS, 40, 50), dtype=np.uint8), nodata=0)
    events = []
    result = predict(scene, tmp_path / "m.tif", PredictOptions(), events.append)
    with rasterio.open(tmp_path / "m.tif") as dataset:
        assert (dataset.read(1) == 255).all()
    assert result.windows_computed == 0
    assert any("no answer anywhere" in e.message for e in events if isinstance(e, Warned))


# folders and links


def test_a_scene_in_a_read_only_folder_is_read_and_left_alone(scene_factory, tmp_path, model):
    path = scene_factory("locked/scene.tif", values=ramp())
    path.chmod(0o444)
    path.parent.chmod(0o555)
    try:
        mapped(path, tmp_path / "mask.tif")
        assert [p.name for p in path.parent.iterdir()] == ["scene.tif"]
    finally:
        path.parent.chmod(0o755)


def test_a_linked_output_stays_a_link_and_works_beside_its_target(scene_factory, tmp_path, model):
    (tmp_path / "disk").mkdir()
    link = tmp_path / "mask.tif"
    link.symlink_to(tmp_path / "disk" / "real.tif")
    _, mask = mapped(scene_factory(values=ramp()), link)
    np.testing.assert_array_equal(mask, expected(model, ramp()))
    assert link.is_symlink()
    assert [p.name for p in (tmp_path / "disk").iterdir()] == ["real.tif"]


def test_a_scene_that_is_a_link_is_its_target(scene_factory, tmp_path, model):
    real = scene_factory("elsewhere/scene.tif", values=ramp())
    (tmp_path / "scene.tif").symlink_to(real)
    _, mask = mapped(tmp_path / "scene.tif", tmp_path / "mask.tif")
    np.testing.assert_array_equal(mask, expected(model, ramp()))


def test_a_working_folder_that_is_moved_away_ends_the_run(scene_factory, tmp_path, model):
    from rsmamba_cli.errors import OutputError

    def move(event):
        folder = tmp_path / "mask.tif.partial"
        if getattr(event, "stage", "") == "predict" and folder.exists():
            shutil.move(folder, tmp_path / "gone")

    scene = scene_factory(values=ramp(200, 50))
    with pytest.raises(OutputError, match="cannot be written"):
        predict(scene, tmp_path / "mask.tif", PredictOptions(), move)
    assert not os.path.lexists(tmp_path / "mask.tif")


# places

# Metres at 71 degrees south, where EPSG:3031 is true to scale; at the pole it is 0.97277 of that.
POLE = {"crs": "EPSG:3031", "transform": Affine(10, 0, -250, 0, -10, 200)}
SCALE_AT_POLE = 0.9727690
ACROSS = {
    "degrees beyond 180": {
        "crs": "EPSG:4326", "transform": Affine(1e-4, 0, 179.9975, 0, -1e-4, -16.5),
    },
    "degrees below -180": {
        "crs": "EPSG:4326", "transform": Affine(1e-4, 0, -180.0025, 0, -1e-4, -16.5),
    },
    "zone 60": {"crs": "EPSG:32760", "transform": Affine(10, 0, 820_050, 0, -10, 8_174_100)},
    "Pacific Mercator": {
        "crs": "EPSG:3832", "transform": Affine(10, 0, 3_339_335, 0, -10, -1_850_000),
    },
}  # fmt: skip


def zone_area(south, north, width):
    """Square metres between two parallels on WGS 84 over ``width`` degrees, by the closed form."""
    a, f = 6378137.0, 1 / 298.257223563
    e = np.sqrt(f * (2 - f))

    def q(latitude):
        s = np.sin(np.radians(latitude))
        return s / (1 - (e * s) ** 2) + np.arctanh(e * s) / e

    return np.radians(width) * a**2 * (1 - e**2) / 2 * (q(north) - q(south))


@pytest.mark.parametrize("place", ["degrees beyond 180", "degrees below -180"])
def test_areas_across_the_date_line_are_those_of_the_ellipsoid(
    scene_factory, tmp_path, use_model, place
):
    use_model(Constant(0.0, 1.0, 0.0), meta_of(BANDS, 3))
    result, _ = mapped(scene_factory(values=ramp(), **ACROSS[place]), tmp_path / "mask.tif")
    exact = zone_area(-16.504, -16.5, 0.005)
    assert result.area_m2_per_class["class 1"] == pytest.approx(exact, rel=1e-6)


def test_areas_at_the_pole_are_those_of_the_ellipsoid(scene_factory, tmp_path, use_model):
    use_model(Constant(0.0, 1.0, 0.0), meta_of(BANDS, 3))
    result, _ = mapped(scene_factory(values=ramp(), **POLE), tmp_path / "mask.tif")
    exact = 40 * 50 * 100 / SCALE_AT_POLE**2
    assert result.area_m2_per_class["class 1"] == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("place", [*ACROSS, "pole"])
def test_every_output_lies_where_the_scene_does(scene_factory, tmp_path, use_model, place):
    """Polygons in degrees, the STAC footprint and the area: none spans the globe."""
    pystac = pytest.importorskip("pystac")
    use_model(Constant(0.0, 1.0, 0.0), meta_of(BANDS, 3))
    profile = POLE if place == "pole" else ACROSS[place]
    scene = scene_factory(values=ramp(), **profile)
    polygons = tmp_path / "mask.geojson"
    result, _ = mapped(scene, tmp_path / "mask.tif", polygons=polygons, stac=True)
    with rasterio.open(scene) as before, rasterio.open(tmp_path / "mask.tif") as after:
        assert (before.crs, before.transform) == (after.crs, after.transform)
    item = pystac.Item.from_file(tmp_path / "mask.json")
    footprint = shapely.geometry.shape(item.geometry)
    assert footprint.is_valid
    west, south, east, _ = item.bbox
    longitudes = shapely.get_coordinates(footprint)[:, 0]
    assert np.abs(longitudes).max() <= 180
    if place == "pole":
        assert (west, east, south) == (-180, 180, -90)
        return
    # As RFC 7946 has it: the western side has the larger number.
    assert west > 179.9
    assert east < -179.9
    assert footprint.geom_type == "MultiPolygon"
    degrees = np.cos(np.radians(south)) * (111_320.0**2)
    assert footprint.area * degrees == pytest.approx(result.area_m2_per_class["class 1"], rel=0.02)
    drawn = shapely.union_all(shapely.from_wkb(pyogrio.raw.read(polygons)[2]))
    assert np.abs(shapely.get_coordinates(drawn)[:, 0]).max() <= 180
    assert drawn.area == pytest.approx(footprint.area, rel=1e-3)


def test_an_aoi_in_degrees_selects_across_the_date_line(scene_factory, tmp_path, use_model):
    use_model(Constant(0.0, 1.0, 0.0), meta_of(BANDS, 3))
    scene = scene_factory(values=ramp(), **ACROSS["zone 60"])
    east = shapely.box(179.99, -16.6, 180, -16.4)
    west = shapely.box(-180, -16.6, -179.9, -16.4)
    counts = []
    for name, area in (("e", east), ("w", west), ("both", shapely.multipolygons([east, west]))):
        path = tmp_path / f"{name}.geojson"
        pyogrio.raw.write(
            path, shapely.to_wkb(np.array([area])), [], [], geometry_type=area.geom_type,
            crs="EPSG:4326", driver="GeoJSON",
        )  # fmt: skip
        _, mask = mapped(scene, tmp_path / f"{name}.tif", aoi=path)
        counts.append((mask == 1).sum())
    assert 0 < counts[0] < 2000
    assert counts[0] + counts[1] == counts[2] == 2000
