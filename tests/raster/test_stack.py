"""Bands in several files are one scene, on the grid of the finest."""

import numpy as np
import pytest
import rasterio

from rsmamba_cli.errors import InputError
from rsmamba_cli.inference import PredictOptions, predict
from rsmamba_cli.raster.scene import open_scene
from rsmamba_cli.raster.stack import Stack


@pytest.fixture
def bands(scene_factory):
    """Red and green at 10 m, another at 20 m, named as Sentinel-2 names them."""
    rng = np.random.default_rng(1)
    fine = rng.integers(1, 3000, (2, 60, 80)).astype(np.uint16)
    coarse = np.full((1, 30, 40), 700, np.uint16)
    return [
        scene_factory("T31_B11_20m.tif", values=coarse, gsd=20.0, nodata=0),
        scene_factory("T31_B04_10m.tif", values=fine[:1], gsd=10.0, nodata=0),
        scene_factory("T31_B03_10m.tif", values=fine[1:], gsd=10.0, nodata=0),
    ]


def stack_of(paths, bands=None, names=()):
    return Stack([str(p) for p in paths], open_scene, bands, names)


def test_the_grid_is_the_finest_file_s(bands):
    with stack_of(bands) as stack, rasterio.open(bands[1]) as fine:
        assert stack.grid.shape == fine.shape
        assert stack.grid.transform == fine.transform


def test_values_are_those_of_the_files(bands):
    with stack_of(bands) as stack, rasterio.open(bands[1]) as red:
        values, valid = stack.read(0, 0, 60, 80)
        np.testing.assert_array_equal(values[1], red.read(1))
        np.testing.assert_allclose(values[0][valid], 700)


def test_names_in_file_names_set_the_order(bands):
    with stack_of(bands, names=("B04", "B03", "B11")) as stack:
        assert stack.bands == (2, 3, 1)
        assert "B04" in stack.note


def test_without_names_the_order_is_the_given_one(bands):
    with stack_of(bands, names=("red", "green", "swir")) as stack:
        assert stack.bands == (1, 2, 3)


def test_a_pixel_is_valid_where_it_is_in_every_file(bands):
    with rasterio.open(bands[2], "r+") as green:
        values = green.read(1)
        values[10:20, 30:50] = 0
        green.write(values, 1)
    with stack_of(bands) as stack:
        _, valid = stack.read(0, 0, 60, 80)
    assert not valid[10:20, 30:50].any()
    assert valid[25:50, 5:75].all()


def test_too_many_bands_are_refused_with_a_list(bands):
    with pytest.raises(InputError, match=r"3 bands .*T31_B04_10m.*--bands"):
        stack_of(bands, names=("red", "green"))


def test_a_file_elsewhere_is_refused(bands, scene_factory):
    far = scene_factory("far_B08.tif", bands=1, gsd=10.0, origin=(900_000.0, 5_000_000.0))
    with pytest.raises(InputError, match="overlap"):
        stack_of([*bands, far])


def test_a_stack_is_mapped_like_one_file(bands, scene_factory, checkpoint_factory, tmp_path):
    model = checkpoint_factory(tile=32, classes=3)
    with stack_of(bands) as stack:
        values, valid = stack.read(0, 0, 60, 80)
    values = values.astype(np.uint16)
    values[:, ~valid] = 0
    one = scene_factory("one.tif", values=values, gsd=10.0, nodata=0)
    options = {"model": model, "threads": 1}
    predict(one, tmp_path / "one_m.tif", PredictOptions(**options))
    predict(bands, tmp_path / "stack_m.tif", PredictOptions(**options, stack=True))
    masks = []
    for name in ("one_m.tif", "stack_m.tif"):
        with rasterio.open(tmp_path / name) as dataset:
            masks.append(dataset.read(1))
    np.testing.assert_array_equal(masks[0], masks[1])
