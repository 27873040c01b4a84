"""`info` finds what is wrong with a map, and nothing with one that is right."""

import numpy as np
import pytest
import rasterio

from rsmamba_cli.inference import PredictOptions, predict
from rsmamba_cli.report.map_checks import check_map, window_edges


@pytest.fixture
def made(scene_factory, checkpoint_factory, tmp_path):
    scene = scene_factory(height=150, width=130, nodata=0)
    model = checkpoint_factory(tile=64, classes=3)
    predict(scene, tmp_path / "m.tif", PredictOptions(model=model, threads=1))
    return scene, tmp_path / "m.tif"


def found(path, scene=None):
    return {check.name: check for check in check_map(str(path), scene and str(scene))}


def test_a_good_map_is_good(made):
    scene, mask = made
    checks = found(mask, scene)
    assert {"cloud-optimised", "codes", "seams", "grid", "nodata"} == set(checks)
    assert not [c for c in checks.values() if c.good is False]


def test_a_value_that_is_no_class_is_found(made):
    _, mask = made
    with rasterio.open(mask, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as dataset:
        values = dataset.read(1)
        values[5, 7:10] = 99
        dataset.write(values, 1)
    assert found(mask)["codes"].detail.startswith("3 pixels")
    assert found(mask)["codes"].good is False


def test_a_plain_tiff_is_not_cloud_optimised(made, tmp_path):
    _, mask = made
    with rasterio.open(mask) as dataset:
        profile, values, tags = dataset.profile, dataset.read(), dataset.tags()
    with rasterio.open(tmp_path / "plain.tif", "w", **{**profile, "tiled": False}) as plain:
        plain.write(values)
        plain.update_tags(**tags)
    assert found(tmp_path / "plain.tif")["cloud-optimised"].good is False


def test_an_answer_without_data_is_found(made):
    scene, mask = made
    with rasterio.open(scene, "r+") as dataset:
        values = dataset.read()
        values[:, :4, :5] = 0
        dataset.write(values)
    check = found(mask, scene)["nodata"]
    assert check.good is False
    assert check.detail.startswith("20 pixels")


def test_seams_are_seen(made):
    _, mask = made
    with rasterio.open(mask, "r+", IGNORE_COG_LAYOUT_BREAK="YES") as dataset:
        rows, cols = window_edges(dataset.tags(), dataset.shape)
        values = np.zeros(dataset.shape, np.uint8)
        values[rows[0] :] ^= 1
        values[:, cols[0] :] ^= 1
        values[0:2, 0:2] = 2
        dataset.write(values, 1)
    ratio = float(found(mask)["seams"].detail.split()[3])
    assert ratio > 20


def test_windows_of_a_map_are_known_from_its_tags(made):
    _, mask = made
    with rasterio.open(mask) as dataset:
        rows, cols = window_edges(dataset.tags(), dataset.shape)
    # 64 pixels every 48: two neighbours overlap on 16.
    assert rows[:2].tolist() == [48, 64]
    assert cols[0] == 48
