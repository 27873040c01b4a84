"""Any raster becomes bands in the model's order and one validity mask, or one helpful message."""

import zipfile

import numpy as np
import pytest
import rasterio
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.shutil import copy as raster_copy
from rasterio.transform import from_origin

from rsmamba_cli.errors import InputError
from rsmamba_cli.raster.scene import open_scene

RGB = ("red", "green", "blue")


def read_all(path, **options):
    with open_scene(path, **options) as scene:
        return scene.read(0, 0, *scene.grid.shape)


def ramp(bands=3, height=6, width=8, dtype="uint8"):
    return (np.arange(bands * height * width) % 200 + 1).reshape(bands, height, width).astype(dtype)


# validity


def test_declared_nodata_counts_where_all_bands_hold_it(scene_factory):
    values = ramp()
    values[:, 1, 2] = 0
    values[0, 3, 3] = 0
    _, valid = read_all(scene_factory(values=values, nodata=0))
    assert np.argwhere(~valid).tolist() == [[1, 2]]


def test_rule_any_counts_where_one_band_holds_it(scene_factory):
    values = ramp()
    values[:, 1, 2] = 0
    values[0, 3, 3] = 0
    _, valid = read_all(scene_factory(values=values, nodata=0), nodata_rule="any")
    assert np.argwhere(~valid).tolist() == [[1, 2], [3, 3]]


def test_only_bands_in_use_count(scene_factory):
    values = ramp()
    values[2, 3, 3] = 0
    path = scene_factory(values=values, nodata=0)
    assert not read_all(path, bands=(3,))[1][3, 3]
    assert read_all(path, bands=(1,))[1].all()


def test_a_given_nodata_value_replaces_the_declared_one(scene_factory):
    values = ramp()
    values[:, 0, 0] = 0
    values[:, 0, 1] = 255
    _, valid = read_all(scene_factory(values=values, nodata=0), nodata=255)
    assert np.argwhere(~valid).tolist() == [[0, 1]]


@pytest.mark.parametrize("nodata", [300, -1, 1.5, float("nan"), float("inf")])
def test_a_nodata_value_that_the_type_cannot_hold_matches_nothing(scene_factory, nodata):
    assert read_all(scene_factory(values=ramp()), nodata=nodata)[1].all()


def test_the_checkpoint_s_nodata_is_used_only_where_the_file_declares_none(scene_factory):
    values = ramp()
    values[:, 0, 0] = 7
    values[:, 0, 1] = 9
    plain, tagged = (
        scene_factory("a.tif", values=values),
        scene_factory("b.tif", values=values, nodata=9),
    )
    assert np.argwhere(~read_all(plain, fallback_nodata=7)[1]).tolist() == [[0, 0]]
    assert np.argwhere(~read_all(tagged, fallback_nodata=7)[1]).tolist() == [[0, 1]]


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_invalid_in_any_band(scene_factory, odd):
    values = ramp(dtype="float32")
    values[1, 2, 5] = odd
    _, valid = read_all(scene_factory(values=values))
    assert np.argwhere(~valid).tolist() == [[2, 5]]


def test_a_float_tag_means_the_nearest_float32(scene_factory):
    values = ramp(bands=1, dtype="float32")
    values[0, 1, 1] = np.float32(-3.4028234663852886e38)
    _, valid = read_all(scene_factory(values=values, nodata=-3.4028234663852886e38))
    assert np.argwhere(~valid).tolist() == [[1, 1]]


def test_transparent_pixels_are_invalid_and_alpha_is_no_band(scene_factory):
    values = ramp(bands=4)
    values[3] = 255
    values[3, 4, 4] = 0
    values[3, 4, 5] = 1
    with open_scene(scene_factory(values=values, alpha=True), expected_bands=3) as scene:
        _, valid = scene.read(0, 0, 6, 8)
        assert scene.bands == (1, 2, 3)
    assert np.argwhere(~valid).tolist() == [[4, 4]]


def test_a_fourth_band_that_is_no_alpha_is_data(scene_factory):
    values = ramp(bands=4)
    values[3] = 0
    path = scene_factory(values=values, photometric="minisblack")
    assert read_all(path, expected_bands=4)[1].all()


def test_alpha_named_by_the_user_is_data(scene_factory):
    values = ramp(bands=4)
    values[3] = 0
    path = scene_factory(values=values, alpha=True)
    assert read_all(path, bands=(1, 2, 3, 4), expected_bands=4)[1].all()


@pytest.mark.parametrize("internal", [True, False])
def test_internal_and_external_masks_count(scene_factory, internal):
    path = scene_factory(values=ramp())
    mask = np.full((6, 8), 255, dtype=np.uint8)
    mask[5, :3] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal), rasterio.open(path, "r+") as dataset:
        dataset.write_mask(mask)
    assert path.with_name(path.name + ".msk").exists() != internal
    _, valid = read_all(path)
    np.testing.assert_array_equal(valid, mask > 0)


def test_a_mask_file_on_another_grid_leaves_pixels_out(scene_factory, tmp_path):
    scene = scene_factory(values=ramp(height=40, width=40), gsd=1.0)
    clouds = np.zeros((1, 20, 20), dtype=np.uint8)
    clouds[0, 5:10, 0:5] = 1
    mask = scene_factory("mask.tif", values=clouds, gsd=2.0)
    _, valid = read_all(scene, mask=mask)
    expected = np.ones((40, 40), dtype=bool)
    expected[10:20, 0:10] = False
    np.testing.assert_array_equal(valid, expected)


def test_a_mask_file_in_another_crs_is_warped(scene_factory):
    scene = scene_factory(values=ramp(height=40, width=40), gsd=10.0, origin=(500_000, 5_700_000))
    everything = np.ones((1, 30, 30), dtype=np.uint8)
    mask = scene_factory(
        "mask.tif", values=everything, crs="EPSG:4326", origin=(2.9, 51.5), gsd=0.01
    )
    assert not read_all(scene, mask=mask)[1].any()


def test_a_mask_file_that_covers_a_part_leaves_out_nothing_else(scene_factory):
    scene = scene_factory(values=ramp(height=40, width=40), gsd=1.0)
    mask = scene_factory(
        "mask.tif", values=np.ones((1, 4, 4), "uint8"), gsd=1.0, origin=(499_998, 5_700_002)
    )
    _, valid = read_all(scene, mask=mask)
    assert np.argwhere(~valid).tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]


def test_a_mask_of_another_size_without_a_place_is_refused(scene_factory):
    mask = scene_factory("mask.tif", values=np.ones((1, 4, 4), "uint8"), crs=None)
    with pytest.raises(InputError, match="laid over"):
        read_all(scene_factory(values=ramp()), mask=mask)


def test_a_window_has_the_values_and_validity_of_the_whole(scene_factory):
    values = ramp(height=30, width=40)
    values[:, 10:20, 5:9] = 0
    path = scene_factory(values=values, nodata=0)
    with open_scene(path) as scene:
        whole, valid = scene.read(0, 0, 30, 40)
        part, part_valid = scene.read(7, 3, 11, 20)
    np.testing.assert_array_equal(part, whole[:, 7:18, 3:23])
    np.testing.assert_array_equal(part_valid, valid[7:18, 3:23])


# bands


def test_bands_come_in_the_order_asked_for_and_may_repeat(scene_factory):
    values = ramp()
    got, _ = read_all(scene_factory(values=values), bands=(3, 1, 3))
    np.testing.assert_array_equal(got, values[[2, 0, 2]])


def test_bands_are_found_by_their_colours_whatever_the_order(scene_factory):
    path = scene_factory(values=ramp(bands=4))
    with rasterio.open(path, "r+") as dataset:
        dataset.colorinterp = [
            ColorInterp.blue,
            ColorInterp.green,
            ColorInterp.red,
            ColorInterp.undefined,
        ]
    with open_scene(path, expected_bands=3, expected_names=RGB) as scene:
        assert scene.bands == (3, 2, 1)
        assert "by their names" in scene.note


def test_bands_are_found_by_their_descriptions(scene_factory):
    path = scene_factory(values=ramp(bands=5))
    with rasterio.open(path, "r+") as dataset:
        dataset.descriptions = ("blue", "green", "red", "NIR", "quality")
    with open_scene(path, expected_bands=2, expected_names=("nir", "red")) as scene:
        assert scene.bands == (4, 3)


def test_a_palette_is_expanded_for_a_three_band_model(scene_factory):
    values = np.array([[[0, 1], [2, 1]]], dtype=np.uint8)
    path = scene_factory(values=values, photometric="palette")
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, {0: (9, 8, 7, 255), 1: (10, 20, 30, 255), 2: (200, 100, 50, 255)})
    with open_scene(path, expected_bands=3) as scene:
        got, _ = scene.read(0, 0, 2, 2)
        assert scene.dtype == np.uint8
    np.testing.assert_array_equal(got[:, 0, 1], [10, 20, 30])
    np.testing.assert_array_equal(got[:, 1, 0], [200, 100, 50])


def test_palette_nodata_is_an_index(scene_factory):
    values = np.array([[[0, 1], [2, 1]]], dtype=np.uint8)
    path = scene_factory(values=values, photometric="palette", nodata=2)
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, dict.fromkeys(range(3), (2, 2, 2, 255)))
    assert np.argwhere(~read_all(path, expected_bands=3)[1]).tolist() == [[1, 0]]


def test_too_few_bands_say_what_was_found_and_wanted(scene_factory):
    path = scene_factory(values=ramp(bands=1))
    with pytest.raises(
        InputError, match=r"has 1 band \(1 gray uint8\).*wants 3 \(red, green, blue\)"
    ):
        open_scene(path, expected_bands=3, expected_names=RGB)


def test_too_many_bands_suggest_a_choice(scene_factory):
    path = scene_factory(values=ramp(bands=6, dtype="uint16"))
    with pytest.raises(InputError, match="--bands 1,2,3"):
        open_scene(path, expected_bands=3)


def test_an_alpha_band_in_the_way_is_named(scene_factory):
    path = scene_factory(values=ramp(bands=4), alpha=True)
    with pytest.raises(InputError, match=r"Band 4 is marked as alpha.*--bands 1,2,3,4"):
        open_scene(path, expected_bands=4)


@pytest.mark.parametrize("bands", [(0,), (4,), (-1,), ()])
def test_bands_that_are_not_there_are_refused(scene_factory, bands):
    with pytest.raises(InputError, match="band"):
        open_scene(scene_factory(values=ramp()), bands=bands)


def test_a_wrong_number_of_given_bands_is_refused(scene_factory):
    with pytest.raises(InputError, match=r"names 2 bands \(1,2\).*wants 3"):
        open_scene(scene_factory(values=ramp()), bands=(1, 2), expected_bands=3)


@pytest.mark.parametrize("dtype", ["complex64", "complex_int16"])
def test_complex_numbers_are_refused(tmp_path, dtype):
    path = tmp_path / "complex.tif"
    with rasterio.open(
        path, "w", driver="GTiff", height=4, width=4, count=1, dtype=dtype,
        crs="EPSG:32631", transform=from_origin(0, 0, 1, 1),
    ):  # fmt: skip
        pass
    with pytest.raises(InputError, match="complex"):
        open_scene(path)


# formats and names


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int16", "uint32", "int32", "float64"])
def test_numbers_of_every_kind_are_read(scene_factory, dtype):
    values = ramp(dtype=dtype)
    np.testing.assert_array_equal(read_all(scene_factory(values=values))[0], values)


def test_one_bit_images_are_read(scene_factory):
    values = (ramp(bands=1) % 2).astype(np.uint8)
    np.testing.assert_array_equal(read_all(scene_factory(values=values, nbits=1))[0], values)


@pytest.mark.parametrize("driver", ["PNG", "JPEG", "JP2OpenJPEG", "VRT", "COG"])
def test_every_driver_will_do(scene_factory, tmp_path, driver):
    source = scene_factory(values=np.full((3, 64, 64), 77, dtype=np.uint8))
    path = tmp_path / f"copy.{driver.lower()}"
    raster_copy(source, path, driver=driver)
    values, valid = read_all(path, expected_bands=3)
    assert valid.all()
    np.testing.assert_allclose(values, 77, atol=2)


def test_a_vrt_of_mixed_types_is_read(scene_factory, tmp_path):
    low = scene_factory("low.tif", values=ramp(bands=1))
    high = scene_factory("high.tif", values=ramp(bands=1, dtype="float32") * 1000)
    text = "".join(
        f'<VRTRasterBand dataType="{kind}" band="{i}"><SimpleSource><SourceFilename>{path}'
        "</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
        for i, (kind, path) in enumerate((("Byte", low), ("Float32", high)), start=1)
    )
    mixed = tmp_path / "mixed.vrt"
    mixed.write_text(f'<VRTDataset rasterXSize="8" rasterYSize="6">{text}</VRTDataset>')
    values, _ = read_all(mixed)
    assert values[0].max() == 48
    assert values[1].max() == 48_000


@pytest.mark.parametrize(
    "name", ["with space.tif", "ünï çödé 影像.tif", "a#b?c.tif", "x:y.tif", "zip+file!q.tif"]
)
def test_odd_names_are_taken_literally(scene_factory, name):
    assert read_all(scene_factory(name, values=ramp()))[1].all()


def test_a_raster_inside_a_zip_is_read(scene_factory, tmp_path):
    path = scene_factory(values=ramp())
    with zipfile.ZipFile(tmp_path / "scene.zip", "w") as archive:
        archive.write(path, "scene.tif")
    assert read_all(f"/vsizip/{tmp_path}/scene.zip/scene.tif")[1].all()


def test_the_grid_is_the_file_s(scene_factory):
    with open_scene(scene_factory(values=ramp(), gsd=0.3)) as scene:
        assert scene.grid.shape == (6, 8)
        assert scene.grid.crs == CRS.from_epsg(32631)
        assert scene.grid.gsd_m() == pytest.approx(0.3, rel=1e-3)


# refusals


def test_a_missing_file_suggests_its_neighbour(scene_factory, tmp_path):
    scene_factory("scene_2020.tif", values=ramp())
    with pytest.raises(InputError, match=r"no such file \(did you mean .*scene_2020\.tif"):
        open_scene(tmp_path / "scene_2021.tif")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match=r"folder .*nowhere does not exist"):
        open_scene(tmp_path / "nowhere" / "scene.tif")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        open_scene(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"II*\0", b"\x89PNG\r\n\x1a\n"])
def test_files_that_are_no_rasters_are_refused(tmp_path, content):
    path = tmp_path / "note.tif"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"note\.tif: not a raster"):
        open_scene(path)


@pytest.mark.parametrize("compress", ["none", "deflate"])
def test_a_truncated_file_is_named_with_its_rows(scene_factory, compress):
    path = scene_factory(
        values=np.random.default_rng(0).integers(0, 255, (3, 200, 200)).astype("uint8"),
        compress=compress,
    )
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match=r"scene\.tif: "):
        read_all(path)


def test_nothing_is_printed_about_a_damaged_file(scene_factory, capfd):
    path = scene_factory(values=ramp(height=200, width=200), compress="deflate")
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(InputError):
        read_all(path)
    assert capfd.readouterr() == ("", "")


def test_a_changed_file_has_another_identity(scene_factory):
    path = scene_factory(values=ramp())
    with open_scene(path) as scene:
        before = scene.identity()
    path = scene_factory(values=ramp()[:, ::-1])
    with open_scene(path) as scene:
        assert scene.identity() != before


def test_reading_a_band_of_strips_needs_a_cache_of_a_band(scene_factory):
    with open_scene(scene_factory(values=ramp(height=600, width=500), blockysize=8)) as scene:
        assert 3 * 512 * 500 <= scene.cache_bytes(512) <= 3 * 540 * 500
