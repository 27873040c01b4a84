"""Tiles of every kind, read and written."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from miniatures import blocks, segmentation_folder, write_image

from rsmamba_cli.datasets import IGNORE, DatasetClass, open_dataset, open_split
from rsmamba_cli.datasets.files import read_header, read_image, read_label, write_tile
from rsmamba_cli.errors import DatasetError


def test_jpeg_bytes_under_a_png_name_are_read(tmp_path: Path) -> None:
    path = write_image(tmp_path / "tile.png", blocks(1)[0], driver="JPEG")
    assert path.read_bytes()[:2] == b"\xff\xd8"
    array, valid = read_image(path)
    assert array.shape == (3, 64, 64) and valid is None


def test_sixteen_bit_and_many_bands_keep_their_values(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 60000, (7, 20, 30)).astype(np.uint16)
    path = write_image(tmp_path / "tile.tif", array)
    assert np.array_equal(read_image(path)[0], array)
    assert read_header(path).dtype == "uint16"


def test_bands_are_chosen_by_number(tmp_path: Path) -> None:
    array = np.arange(4 * 9, dtype=np.uint8).reshape(4, 3, 3)
    path = write_image(tmp_path / "tile.tif", array, photometric="minisblack")
    assert np.array_equal(read_image(path, bands=(4, 1))[0], array[[3, 0]])


def test_a_part_is_what_the_whole_holds_there(tmp_path: Path) -> None:
    image = blocks(2)[0]
    path = write_image(tmp_path / "tile.tif", image)
    assert np.array_equal(read_image(path, box=(5, 7, 20, 30))[0], image[:, 5:25, 7:37])


def test_alpha_is_a_mask_and_no_band(tmp_path: Path) -> None:
    array = np.full((4, 8, 8), 200, np.uint8)
    array[3, :, :4] = 0
    path = write_image(tmp_path / "tile.png", array)
    image, valid = read_image(path)
    assert len(image) == 3
    assert valid is not None and not valid[:, :4].any() and valid[:, 4:].all()


def test_nan_is_invalid_and_read_as_zero(tmp_path: Path) -> None:
    array = np.ones((2, 4, 4), np.float32)
    array[1, 0, 0] = np.nan
    image, valid = read_image(write_image(tmp_path / "tile.tif", array))
    assert valid is not None and not valid[0, 0] and valid.sum() == 15
    assert np.isfinite(image).all()


def test_declared_nodata_is_invalid_where_all_bands_hold_it(tmp_path: Path) -> None:
    array = np.ones((2, 4, 4), np.uint8)
    array[:, 0, 0] = 0
    array[0, 1, 1] = 0
    _, valid = read_image(write_image(tmp_path / "tile.tif", array, nodata=0))
    assert valid is not None and not valid[0, 0] and valid[1, 1]


def test_pixels_without_data_have_no_label(tmp_path: Path) -> None:
    segmentation_folder(tmp_path, counts={"train": 1})
    image, _ = blocks(3)
    image[:, :10] = 0
    write_image(tmp_path / "train/image/tile_0.png", image)
    sample = open_dataset("folder", tmp_path, nodata=0).split("train")[0]
    assert (sample.label[:10] == IGNORE).all() and not (sample.label[10:] == IGNORE).any()


def test_tiles_that_are_not_alike_are_refused(tmp_path: Path) -> None:
    segmentation_folder(tmp_path, counts={"train": 2})
    write_image(tmp_path / "train/image/tile_1.png", blocks(0, bands=1)[0])
    with pytest.raises(DatasetError, match=r"1 bands of uint8.*first tile has 3"):
        open_split("folder", tmp_path)[1]


def test_image_and_label_of_different_sizes_are_refused(tmp_path: Path) -> None:
    segmentation_folder(tmp_path, counts={"train": 1})
    write_image(tmp_path / "train/label/tile_0.png", np.zeros((32, 32), np.uint8))
    with pytest.raises(DatasetError, match=r"64 x 64 pixels, its label .* 32 x 32"):
        open_split("folder", tmp_path)[0]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tile.tif"
    path.write_bytes(b"II*\0 nothing")
    with pytest.raises(DatasetError, match=r"tile\.tif cannot be read"):
        read_image(path)


def test_grey_saved_as_rgb_is_one_label(tmp_path: Path) -> None:
    label = blocks(4)[1]
    path = write_image(tmp_path / "label.png", np.stack([label] * 3))
    assert np.array_equal(read_label(path), label)


def test_a_coloured_label_is_refused(tmp_path: Path) -> None:
    path = write_image(tmp_path / "label.png", np.arange(48, dtype=np.uint8).reshape(3, 4, 4))
    with pytest.raises(DatasetError, match="coloured picture"):
        read_label(path)


def test_a_written_tile_keeps_its_georeference(tmp_path: Path) -> None:
    source = write_image(tmp_path / "source.tif", blocks(5)[0], georeferenced=True)
    path = write_tile(
        tmp_path / "out", np.ones((64, 64), np.uint8), read_header(source), nodata=255
    )
    with rasterio.open(source) as a, rasterio.open(path) as b:
        assert (a.crs, a.transform) == (b.crs, b.transform)
        assert b.nodata == 255


def test_a_tile_without_georeference_is_a_png(tmp_path: Path) -> None:
    path = write_tile(tmp_path / "out.v1", np.ones((3, 5, 7), np.uint8))
    assert path.name == "out.v1.png"
    assert [p.name for p in tmp_path.iterdir()] == ["out.v1.png"]


def test_a_painted_png_holds_pixels_without_data(tmp_path: Path) -> None:
    classes = (DatasetClass(0, "no", (0, 0, 0)), DatasetClass(1, "yes", (255, 255, 255)))
    values = np.array([[0, 1, 255]], np.uint8)
    path = write_tile(tmp_path / "out", values, classes=classes, nodata=255)
    with rasterio.open(path) as dataset:
        np.testing.assert_array_equal(dataset.read(1), values)
        assert dataset.colormap(1)[255] == (128, 128, 128, 255)
