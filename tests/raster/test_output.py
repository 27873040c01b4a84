"""Finished rasters are valid COGs, hold what they should, and appear at once or not at all."""

import errno
import os
from dataclasses import replace

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS
from rio_cogeo import cog_validate

from rsmamba_cli.errors import OutputError
from rsmamba_cli.raster import output as output_module
from rsmamba_cli.raster.grid import Grid
from rsmamba_cli.raster.output import (
    BLOCK,
    RasterSpec,
    check_writable,
    parts,
    publish,
    read_provenance,
    write_cog,
)

GRID = Grid(1100, 700, Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000), CRS.from_epsg(32633))
MASK = RasterSpec(
    "uint8", 255, ("class",), {"RSMAMBA_VERSION": "1"}, {"CLASS_0": "field", "CLASS_1": "road"},
    {0: (0, 0, 0), 1: (200, 100, 50)},
)  # fmt: skip


def blobs(grid=GRID, bands=1, top=2):
    rng = np.random.default_rng(0)
    small = rng.integers(0, top, (bands, -(-grid.height // 9), -(-grid.width // 9)))
    return np.kron(small, np.ones((1, 9, 9)))[:, : grid.height, : grid.width].astype(np.uint8)


def write(path, values=None, grid=GRID, spec=MASK):
    values = blobs(grid) if values is None else values
    write_cog(path, grid, spec, lambda first, last, left, right: values[:, first:last, left:right])
    return values


def test_the_pixels_are_those_given(tmp_path):
    values = write(tmp_path / "mask.tif")
    with rasterio.open(tmp_path / "mask.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(), values)


def test_wide_rasters_are_written_in_parts(tmp_path):
    grid = replace(GRID, height=700, width=20_000)
    asked = list(parts(*grid.shape))
    assert len(asked) == 6
    assert {left % BLOCK for _, _, left, _ in asked} == {0}
    values = write(tmp_path / "mask.tif", grid=grid)
    with rasterio.open(tmp_path / "mask.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(), values)


def test_it_is_a_valid_cog(tmp_path):
    write(tmp_path / "mask.tif")
    assert cog_validate(tmp_path / "mask.tif", strict=True) == (True, [], [])


def test_it_has_overviews_that_hold_classes_only(tmp_path):
    write(tmp_path / "mask.tif", blobs() * 7)
    with rasterio.open(tmp_path / "mask.tif", overview_level=0) as dataset:
        assert set(np.unique(dataset.read())) == {0, 7}


def test_it_says_what_its_values_mean(tmp_path):
    write(tmp_path / "mask.tif")
    with rasterio.open(tmp_path / "mask.tif") as dataset:
        assert dataset.nodata == 255
        assert dataset.colormap(1)[1] == (200, 100, 50, 255)
        assert dataset.colormap(1)[255][3] == 0
        assert dataset.tags(1) == {"CLASS_0": "field", "CLASS_1": "road"}
        assert dataset.descriptions == ("class",)
        assert dataset.tags()["RSMAMBA_VERSION"] == "1"


def test_nothing_goes_to_a_side_file(tmp_path):
    write(tmp_path / "mask.tif")
    assert [p.name for p in tmp_path.iterdir()] == ["mask.tif"]


def test_quantities_carry_their_scale(tmp_path):
    spec = RasterSpec("uint8", 255, ("a", "b"), scale=0.004, resampling="average")
    write(tmp_path / "p.tif", blobs(bands=2, top=250), spec=spec)
    with rasterio.open(tmp_path / "p.tif") as dataset:
        assert dataset.scales == (0.004, 0.004)
        assert dataset.descriptions == ("a", "b")


def test_sixteen_bits_are_written(tmp_path):
    spec = RasterSpec("uint16", 65535, ("class",), colors={0: (1, 2, 3), 300: (4, 5, 6)})
    values = blobs().astype(np.uint16) * 300
    write(tmp_path / "mask.tif", values, spec=spec)
    with rasterio.open(tmp_path / "mask.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(), values)
        assert dataset.colormap(1)[300] == (4, 5, 6, 255)


def test_the_same_pixels_give_the_same_bytes(tmp_path):
    write(tmp_path / "a.tif")
    write(tmp_path / "b.tif")
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()


@pytest.mark.parametrize(
    "shape",
    [(1, 1), (1, 3000), (3000, 1), (512, 512), (513, 511), (2048, 1024), (3000, 256), (700, 512)],
)
def test_every_size_is_a_valid_cog(tmp_path, shape):
    grid = Grid(*shape, GRID.transform, GRID.crs)
    values = write(tmp_path / "mask.tif", grid=grid)
    assert cog_validate(tmp_path / "mask.tif")[0]
    with rasterio.open(tmp_path / "mask.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(), values)
        assert Grid.of(dataset) == grid


def test_pixels_that_did_not_reach_the_disk_are_noticed(tmp_path, monkeypatch):
    real = output_module.rasterio.shutil.copy

    def lossy(source, target, **options):
        real(source, target, **options)
        data = bytearray(target.read_bytes())
        data[-2000:-1000] = bytes(1000)
        target.write_bytes(data)

    monkeypatch.setattr(output_module.rasterio.shutil, "copy", lossy)
    with pytest.raises(OutputError):
        write(
            tmp_path / "mask.tif",
            np.random.default_rng(0).integers(0, 9, (1, 1100, 700)).astype("uint8"),
        )


def test_a_folder_that_is_not_there_is_an_output_error(tmp_path):
    with pytest.raises(OutputError):
        write(tmp_path / "nowhere" / "mask.tif")


def test_publishing_replaces_in_one_step(tmp_path):
    new, final = tmp_path / "new", tmp_path / "final"
    new.write_text("new")
    final.write_text("old")
    publish(new, final)
    assert final.read_text() == "new"
    assert not new.exists()


def test_publishing_works_across_file_systems(tmp_path, monkeypatch):
    new, final = tmp_path / "new", tmp_path / "final"
    new.write_text("new")
    real = output_module.Path.replace

    def other_device(self, target):
        if self == new:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return real(self, target)

    monkeypatch.setattr(output_module.Path, "replace", other_device)
    publish(new, final)
    assert [p.name for p in tmp_path.iterdir()] == ["final"]


def test_failed_publishing_leaves_the_old_file(tmp_path):
    final = tmp_path / "final"
    final.write_text("old")
    with pytest.raises(OutputError):
        publish(tmp_path / "missing", final)
    assert final.read_text() == "old"


def test_a_read_only_folder_is_refused_early(tmp_path):
    if os.geteuid() == 0:
        pytest.skip("the superuser may write everywhere")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            check_writable(tmp_path / "mask.tif")
    finally:
        tmp_path.chmod(0o700)


def test_folders_are_no_outputs(tmp_path):
    with pytest.raises(OutputError, match="is a folder"):
        check_writable(tmp_path)


def test_tags_of_what_is_no_raster_are_empty(tmp_path):
    (tmp_path / "x.tif").write_text("hello")
    assert read_provenance(tmp_path / "x.tif") == ({}, None)
