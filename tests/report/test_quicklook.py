"""Quick-looks: what is painted, what is left alone, which grids fit together."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.transform import from_origin

from rsmamba_cli.errors import InputError, OutputError
from rsmamba_cli.report import write_change_quicklook, write_quicklook
from rsmamba_cli.report.painting import (
    Panel,
    checkered,
    compose,
    greyed,
    outlines,
    overlay,
    stretch,
)

UTM = CRS.from_epsg(32632)
RED = (200, 20, 20)


def write(
    path: Path,
    array: np.ndarray,
    *,
    origin: tuple[float, float] | None = (500_000.0, 5_000_000.0),
    gsd: float = 1.0,
    crs: CRS | None = UTM,
    colors: dict[int, tuple[int, int, int]] | None = None,
    names: dict[int, str] | None = None,
    **profile: Any,
) -> Path:
    array = array if array.ndim == 3 else array[None]
    georeference = (
        {} if origin is None else {"crs": crs, "transform": from_origin(*origin, gsd, gsd)}
    )
    with rasterio.open(
        path, "w", driver="GTiff", count=len(array), height=array.shape[1], width=array.shape[2],
        dtype=array.dtype, **georeference, **profile,
    ) as dataset:  # fmt: skip
        dataset.write(array)
        if colors:
            dataset.write_colormap(1, {k: (*v, 255) for k, v in colors.items()})
        if names:
            dataset.update_tags(1, **{f"class_{k}": v for k, v in names.items()})
    return path


def pixels(png: Path) -> np.ndarray:
    with Image.open(png) as picture:
        assert picture.mode == "RGB"
        return np.asarray(picture)


def has(png: Path, color: tuple[int, int, int]) -> bool:
    return bool((pixels(png) == color).all(-1).any())


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    values = np.random.default_rng(0).integers(60, 90, (3, 400, 400)).astype(np.uint8)
    return write(tmp_path / "scene.tif", values)


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    values = np.zeros((400, 400), np.uint8)
    values[100:200, 50:300] = 1
    return write(tmp_path / "mask.tif", values, nodata=255, colors={1: RED}, names={1: "building"})


def test_image_and_mask_stand_side_by_side(scene: Path, mask: Path, tmp_path: Path) -> None:
    picture = pixels(write_quicklook(scene, mask, tmp_path / "q.png"))
    alone = pixels(write_quicklook(scene, mask, tmp_path / "a.png", side_by_side=False))
    assert picture.shape[1] > 800 > alone.shape[1] > 400


def test_the_masks_own_colour_is_painted(scene: Path, mask: Path, tmp_path: Path) -> None:
    assert has(write_quicklook(scene, mask, tmp_path / "q.png", opacity=1.0), RED)


def test_an_image_alone_needs_no_mask(scene: Path, tmp_path: Path) -> None:
    picture = pixels(write_quicklook(scene, None, tmp_path / "q.png"))
    values = rasterio.open(scene).read().transpose(1, 2, 0)
    row = (picture.reshape(-1, 3) == values[0, 0]).all(-1)
    assert row.any()


def test_pictures_are_no_larger_than_asked(scene: Path, tmp_path: Path) -> None:
    picture = pixels(write_quicklook(scene, None, tmp_path / "q.png", max_side=100))
    # Reduced to 100 pixels, and then shown threefold because that is tiny.
    assert picture.shape[1] == 300 + 16


def test_the_legend_is_missing_when_nothing_is_painted(scene: Path, tmp_path: Path) -> None:
    empty = write(tmp_path / "empty.tif", np.zeros((400, 400), np.uint8))
    full = write(tmp_path / "full.tif", np.ones((400, 400), np.uint8))
    low = pixels(write_quicklook(scene, empty, tmp_path / "e.png"))
    high = pixels(write_quicklook(scene, full, tmp_path / "f.png"))
    assert low.shape[0] < high.shape[0]


def test_sixteen_bits_are_stretched(tmp_path: Path) -> None:
    values = np.linspace(3000, 4000, 200 * 200).reshape(1, 200, 200).astype(np.uint16)
    path = write(tmp_path / "deep.tif", np.repeat(values, 3, 0))
    picture = pixels(write_quicklook(path, None, tmp_path / "q.png"))
    shown = picture[30:-10, 20:-20]
    assert shown.min() < 10
    assert shown.max() > 245


def test_a_single_band_is_grey(tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 255, (100, 100)).astype(np.uint8)
    picture = pixels(write_quicklook(write(tmp_path / "g.tif", values), None, tmp_path / "q.png"))
    assert (picture == picture[..., :1]).all()


def test_nodata_is_checkered_and_named(tmp_path: Path) -> None:
    values = np.full((3, 400, 400), 90, np.uint8)
    values[:, :, 200:] = 0
    holed = write(tmp_path / "holed.tif", values, nodata=0)
    whole = write(tmp_path / "whole.tif", values)
    with_holes = pixels(write_quicklook(holed, None, tmp_path / "h.png"))
    without = pixels(write_quicklook(whole, None, tmp_path / "w.png"))
    assert with_holes.shape[0] > without.shape[0]
    assert {150, 190} <= set(np.unique(with_holes[:, 250:400]).tolist())


def test_nan_is_checkered_without_any_tag(tmp_path: Path) -> None:
    values = np.random.default_rng(2).random((1, 400, 400)).astype(np.float32)
    values[:, :200] = np.nan
    png = write_quicklook(write(tmp_path / "n.tif", values), None, tmp_path / "q.png")
    assert has(png, (150, 150, 150))
    assert has(png, (190, 190, 190))


def test_nodata_does_not_darken_its_neighbours(tmp_path: Path) -> None:
    values = np.full((1, 512, 512), 200, np.uint8)
    values[:, ::2] = 0
    path = write(tmp_path / "lines.tif", values, nodata=0)
    picture = pixels(write_quicklook(path, None, tmp_path / "q.png", max_side=128))
    seen = set(np.unique(picture[30:260, 20:260]).tolist())
    assert seen <= {200, 150, 190}


def test_named_colour_bands_are_found(tmp_path: Path) -> None:
    values = np.zeros((4, 200, 200), np.uint8)
    values[3] = 222
    path = tmp_path / "bgrn.tif"
    write(path, values)
    with rasterio.open(path, "r+") as dataset:
        dataset.colorinterp = [
            ColorInterp.undefined, ColorInterp.blue, ColorInterp.green, ColorInterp.red,
        ]  # fmt: skip
    assert has(write_quicklook(path, None, tmp_path / "q.png"), (222, 0, 0))


def test_bands_can_be_chosen(scene: Path, tmp_path: Path) -> None:
    png = write_quicklook(scene, None, tmp_path / "q.png", bands=(2,))
    picture = pixels(png)
    assert (picture == picture[..., :1]).all()


def test_two_bands_make_no_picture(scene: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one band or three"):
        write_quicklook(scene, None, tmp_path / "q.png", bands=(1, 2))


def test_palette_images_show_their_colours(tmp_path: Path) -> None:
    values = np.full((200, 200), 7, np.uint8)
    path = write(tmp_path / "p.tif", values, colors={7: (12, 134, 56)})
    assert has(write_quicklook(path, None, tmp_path / "q.png"), (12, 134, 56))


def test_masks_without_colours_get_distinct_ones(scene: Path, tmp_path: Path) -> None:
    values = np.zeros((400, 400), np.uint8)
    values[:100], values[200:300] = 3, 9
    mask = write(tmp_path / "m.tif", values)
    png = write_quicklook(scene, mask, tmp_path / "q.png", opacity=1.0)
    assert has(png, (230, 159, 0))
    assert has(png, (86, 180, 233))


def test_a_mask_of_probabilities_is_refused(scene: Path, tmp_path: Path) -> None:
    mask = write(tmp_path / "p.tif", np.zeros((400, 400), np.float32))
    with pytest.raises(InputError, match="not class values"):
        write_quicklook(scene, mask, tmp_path / "q.png")


def test_an_image_on_another_grid_is_warped(mask: Path, tmp_path: Path) -> None:
    values = np.zeros((3, 300, 300), np.uint8)
    values[:, 50:100, 25:150] = 255  # the mask's rectangle at two metres a pixel
    coarse = write(tmp_path / "coarse.tif", values, gsd=2.0)
    png = write_quicklook(coarse, mask, tmp_path / "q.png")
    panel = pixels(png)[19:419, 8:408, 0]
    painted = rasterio.open(mask).read(1) == 1
    assert panel[painted].mean() > 240
    assert panel[~painted].mean() < 15


def test_what_an_image_does_not_cover_is_checkered(mask: Path, tmp_path: Path) -> None:
    small = write(tmp_path / "small.tif", np.full((3, 100, 100), 80, np.uint8))
    assert has(write_quicklook(small, mask, tmp_path / "q.png"), (190, 190, 190))


def test_plain_images_pair_by_size(tmp_path: Path) -> None:
    image = write(tmp_path / "i.tif", np.zeros((3, 50, 60), np.uint8), origin=None)
    mask = write(tmp_path / "m.tif", np.ones((50, 60), np.uint8), origin=None)
    assert write_quicklook(image, mask, tmp_path / "q.png").is_file()


def test_plain_images_of_other_sizes_are_refused(tmp_path: Path) -> None:
    image = write(tmp_path / "i.tif", np.zeros((3, 50, 60), np.uint8), origin=None)
    mask = write(tmp_path / "m.tif", np.ones((50, 61), np.uint8), origin=None)
    with pytest.raises(InputError, match="cannot be shown together"):
        write_quicklook(image, mask, tmp_path / "q.png")
    assert not (tmp_path / "q.png").exists()


def test_a_change_sheet_has_three_panels(scene: Path, mask: Path, tmp_path: Path) -> None:
    later = write(
        tmp_path / "t2.tif", np.full((3, 500, 500), 60, np.uint8), origin=(499_990.3, 5_000_010.7)
    )
    picture = pixels(write_change_quicklook(scene, later, mask, tmp_path / "q.png"))
    assert picture.shape[1] == 3 * 400 + 4 * 8


def test_the_truth_is_a_further_panel(scene: Path, mask: Path, tmp_path: Path) -> None:
    one = pixels(write_change_quicklook(scene, scene, mask, tmp_path / "1.png"))
    two = pixels(write_change_quicklook(scene, scene, mask, tmp_path / "2.png", truth=mask))
    assert two.shape[1] - one.shape[1] == 408


def test_an_existing_picture_is_kept(scene: Path, tmp_path: Path) -> None:
    png = tmp_path / "q.png"
    png.write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        write_quicklook(scene, None, png)
    assert png.read_text() == "mine"


def test_an_existing_picture_is_replaced_when_asked(scene: Path, tmp_path: Path) -> None:
    png = tmp_path / "q.png"
    png.write_text("mine")
    assert pixels(write_quicklook(scene, None, png, overwrite=True)).any()


def test_a_missing_folder_is_an_output_error(scene: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_quicklook(scene, None, tmp_path / "nowhere" / "q.png")


def test_nothing_half_written_is_left(scene: Path, tmp_path: Path) -> None:
    before = set(tmp_path.iterdir())
    write_quicklook(scene, None, tmp_path / "q.png")
    assert set(tmp_path.iterdir()) - before == {tmp_path / "q.png"}


@settings(max_examples=20, deadline=None)
@given(height=st.integers(1, 80), width=st.integers(1, 80))
def test_any_size_gives_a_picture(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    image = write(folder / "i.tif", np.full((3, height, width), 9, np.uint16))
    mask = write(folder / "m.tif", np.ones((height, width), np.uint8))
    assert pixels(write_quicklook(image, mask, folder / "q.png", max_side=32)).size


def test_flat_bands_are_grey_and_not_black() -> None:
    flat = stretch(np.full((1, 4, 4), 7.5, np.float32), np.ones((4, 4), bool))
    assert (flat == 128).all()


def test_stretching_ignores_invalid_pixels() -> None:
    values = np.linspace(0, 1, 100, dtype=np.float32).reshape(1, 10, 10)
    valid = np.ones((10, 10), bool)
    valid[0] = False
    spoiled = values.copy()
    spoiled[0, 0] = 1e9
    assert np.array_equal(stretch(values, valid)[:, 1:], stretch(spoiled, valid)[:, 1:])


def test_eight_bits_are_left_alone() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    assert np.array_equal(stretch(values, np.ones((16, 16), bool)), values)


def test_outlines_are_two_pixels_wide() -> None:
    mask = np.zeros((5, 6), np.uint8)
    mask[:, 3:] = 1
    assert np.array_equal(np.flatnonzero(outlines(mask)[0]), [2, 3])


def test_unlisted_classes_are_not_painted() -> None:
    image = np.full((4, 4, 3), 50, np.uint8)
    assert np.array_equal(overlay(image, np.full((4, 4), 2), {1: RED}, 1.0), image)


def test_half_opacity_mixes_half() -> None:
    image = np.full((5, 5, 3), 100, np.uint8)
    mixed = overlay(image, np.ones((5, 5), int), {1: (200, 0, 100)}, 0.5)
    assert mixed[2, 2].tolist() == [150, 50, 100]


def test_valid_pixels_are_not_checkered() -> None:
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert np.array_equal(checkered(image, np.ones((4, 4), bool)), image)


def test_greyed_pictures_have_no_colour() -> None:
    image = np.random.default_rng(0).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    grey = greyed(image)
    assert (grey == grey[..., :1]).all()


def test_long_legends_wrap() -> None:
    panel = Panel("p", np.zeros((60, 200, 3), np.uint8))
    entries = [(f"a long class name {k}", (k, k, k)) for k in range(6)]
    assert compose([panel], entries).height > compose([panel], entries[:1]).height + 4 * 15
