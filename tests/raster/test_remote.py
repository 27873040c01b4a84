"""Rasters on a server: read by ranges, few of them, again after a failure."""

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import rasterio

from rsmamba_cli.errors import InputError
from rsmamba_cli.inference import PredictOptions, predict
from rsmamba_cli.raster import opening
from rsmamba_cli.raster.scene import open_scene

SERVER = str(Path(__file__).with_name("range_server.py"))


@contextlib.contextmanager
def served(path, failing=0):
    """The address of a raster, and the requests so far; every one fails so often before."""
    with subprocess.Popen(
        [sys.executable, SERVER, str(path), str(failing)], stdout=subprocess.PIPE, text=True
    ) as server:
        port = server.stdout.readline().strip()
        asked = []
        listener = threading.Thread(target=lambda: asked.extend(server.stdout), daemon=True)
        listener.start()
        try:
            yield f"/vsicurl/http://127.0.0.1:{port}/scene.tif", asked
        finally:
            server.kill()
            listener.join()


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    monkeypatch.setitem(opening._REMOTE_DEFAULTS, "GDAL_HTTP_RETRY_DELAY", "0.05")


def noise(height, width):
    return np.random.default_rng(0).integers(1, 255, (3, height, width)).astype(np.uint8)


def test_a_raster_on_a_server_is_read(scene_factory):
    values = noise(64, 64)
    path = scene_factory(values=values, tiled=True, blockxsize=16, blockysize=16)
    with served(path) as (address, _), open_scene(address) as scene:
        np.testing.assert_array_equal(scene.read(0, 0, 64, 64)[0], values)
        assert "first_block_sha256" in scene.identity()["files"][0]


def test_a_server_that_does_not_answer_is_an_input_error():
    with pytest.raises(InputError, match="not a raster that GDAL can open"):
        open_scene("/vsicurl/http://127.0.0.1:9/scene.tif")


@pytest.mark.parametrize("failing", [1, 3])
def test_failed_requests_are_made_again(scene_factory, failing):
    values = noise(300, 300)
    path = scene_factory(values=values, tiled=True, blockxsize=64, blockysize=64)
    with served(path, failing) as (address, asked), open_scene(address) as scene:
        np.testing.assert_array_equal(scene.read(0, 0, 300, 300)[0], values)
    assert sum("fails" in line for line in asked) > 2 * failing


def test_failures_while_a_map_is_made_are_survived_in_any_thread(
    scene_factory, checkpoint_factory, tmp_path
):
    path = scene_factory(height=300, width=300, tiled=True, blockxsize=64, blockysize=64)
    options = PredictOptions(model=checkpoint_factory(tile=32), tile=128, threads=1)
    predict(path, tmp_path / "local.tif", options)
    with served(path, 1) as (address, asked):
        worker = threading.Thread(target=predict, args=(address, tmp_path / "m.tif", options))
        worker.start()
        worker.join()
    assert sum("fails" in line for line in asked) > 2
    with rasterio.open(tmp_path / "local.tif") as local, rasterio.open(tmp_path / "m.tif") as got:
        np.testing.assert_array_equal(got.read(), local.read())


def test_a_band_of_rows_is_read_with_few_requests(scene_factory):
    values = noise(512, 2048)
    path = scene_factory(values=values, tiled=True, blockxsize=64, blockysize=64, interleave="band")
    with served(path) as (address, asked), open_scene(address) as scene:
        np.testing.assert_array_equal(scene.read(128, 0, 128, 2048)[0], values[:, 128:256])
    # One for the header, and one a band of 64 blocks.
    assert sum("bytes=" in line for line in asked) <= 1 + 3, asked


def test_what_the_user_has_set_counts(scene_factory, monkeypatch):
    monkeypatch.setitem(os.environ, "GDAL_HTTP_MAX_RETRY", "0")
    path = scene_factory(values=noise(64, 64))
    with served(path, failing=100) as (address, _), pytest.raises(InputError):
        open_scene(address)
