"""From archives as published to datasets that open, on miniatures of the official layouts."""

import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from miniatures import blocks, change_folder, segmentation_folder, write_image

from rsmamba_cli.datasets import IGNORE, check_dataset, get_dataset, open_dataset, prepare_dataset
from rsmamba_cli.datasets.prepare import chip_boxes
from rsmamba_cli.errors import DatasetError

LABEL = np.add.outer(np.arange(64), np.arange(64)) // 20


def picture(name: str, index: np.ndarray) -> np.ndarray:
    """A label in the official colours; 255 is black."""
    colors = np.zeros((256, 3), np.uint8)
    classes = get_dataset(name).classes
    colors[: len(classes)] = [c.color for c in classes]
    return colors[index].transpose(2, 0, 1)


def ids(name: str, index: np.ndarray) -> np.ndarray:
    values = np.array([c.value for c in get_dataset(name).classes], np.uint8)
    return values[index]


def zipped(folder: Path, archive: Path) -> None:
    """All of a folder in an archive, the folder itself left out; then it is removed."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as packed:
            for path in sorted(p for p in folder.rglob("*") if p.is_file()):
                packed.write(path, path.relative_to(folder))
    else:
        with tarfile.open(archive, "w:gz") as packed:
            packed.add(folder, ".")
    shutil.rmtree(folder)


def loveda(root: Path) -> None:
    for split, stems in (("Train", "01"), ("Val", "2"), ("Test", "3")):
        for n, stem in enumerate(stems):
            place = root / "x" / split / ("Urban", "Rural")[n]
            write_image(place / f"images_png/{stem}.png", blocks(n)[0])
            if split != "Test":
                write_image(place / f"masks_png/{stem}.png", ids("loveda", LABEL))
        zipped(root / "x", root / f"{split}.zip")


def potsdam(root: Path) -> None:
    for key in ("2_10", "7_12", "2_13"):
        write_image(root / f"x/2_Ortho_RGB/top_potsdam_{key}_RGB.tif", blocks(1)[0])
        label = picture("potsdam", np.where(LABEL == 0, 255, LABEL % 6))
        write_image(root / f"y/top_potsdam_{key}_label_noBoundary.tif", label)
    zipped(root / "x", root / "2_Ortho_RGB.zip")
    zipped(root / "y", root / "5_Labels_all_noBoundary.zip")
    (root / "z").mkdir()
    for file in root.glob("*.zip"):
        file.rename(root / "z" / file.name)
    zipped(root / "z", root / "Potsdam.zip")


def vaihingen(root: Path) -> None:
    for area in (1, 2):
        name = f"top_mosaic_09cm_area{area}"
        write_image(root / f"x/top/{name}.tif", blocks(1)[0])
        write_image(root / f"x/gts_for_participants/{name}.tif", blocks(1)[0])
        label = picture("vaihingen", np.where(LABEL == 0, 255, LABEL % 6))
        write_image(root / f"y/{name}_noBoundary.tif", label)
    zipped(root / "x", root / "ISPRS_semantic_labeling_Vaihingen.zip")
    zipped(root / "y", root / "ground_truth_eroded_COMPLETE.zip")


def isaid(root: Path) -> None:
    for split, stem in (("train", "P0001"), ("val", "P0003")):
        write_image(root / split / f"images/{stem}.png", blocks(1)[0][:, :50])
        label = picture("isaid", LABEL)[:, :50]
        masks = root / split / "Semantic_masks/images"
        write_image(masks / f"{stem}_instance_color_RGB.png", label)


def cityscapes(root: Path) -> None:
    published = np.array((7, 8, 11, 12, 13, 17, 3), np.uint8)[LABEL]
    for split in ("train", "val"):
        stem = f"{split}/ulm/ulm_000000_000019"
        write_image(root / f"x/leftImg8bit/{stem}_leftImg8bit.png", blocks(1)[0])
        write_image(root / f"y/gtFine/{stem}_gtFine_labelIds.png", published)
        write_image(root / f"y/gtFine/{stem}_gtFine_instanceIds.png", published)
    (root / "x/license.txt").write_text("terms")
    zipped(root / "x", root / "leftImg8bit_trainvaltest.zip")
    zipped(root / "y", root / "gtFine_trainvaltest.tar.gz")


def coco_stuff(root: Path) -> None:
    published = np.array((0, 12, 181, 26, 27, 30, 255), np.uint8)[LABEL]
    for n, split in enumerate(("train2017", "val2017")):
        write_image(root / f"x/{split}/00000000000{n}.jpg", blocks(1)[0])
        zipped(root / "x", root / f"{split}.zip")
        write_image(root / f"y/{split}/00000000000{n}.png", published)
    zipped(root / "y", root / "stuffthingmaps_trainval2017.zip")


def ade20k(root: Path) -> None:
    for split in ("training", "validation"):
        place = root / "x/ADEChallengeData2016"
        write_image(place / f"images/{split}/ADE_1.jpg", blocks(1)[0])
        write_image(place / f"annotations/{split}/ADE_1.png", ids("ade20k", LABEL))
    zipped(root / "x", root / "ADEChallengeData2016.zip")


def whu_opt_sar(root: Path) -> None:
    for n in range(10):
        for folder, bands in (("optical", 4), ("sar", 1)):
            image = np.full((bands, 64, 64), n + 1, np.uint8)
            write_image(root / folder / f"NH{n}.tif", image, photometric="MINISBLACK")
        write_image(root / f"lbl/NH{n}.tif", ids("whu-opt-sar", LABEL % 7))


HUNAN_PLACES = np.arange(64 * 64).reshape(64, 64) % 13
HUNAN_CODES = np.array((255, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12), np.uint8)
HUNAN_CLASSES = np.array((IGNORE, 0, 1, 2, 1, 3, 5, 6, 6, 4, 6, IGNORE, IGNORE))
"""Cropland, forest, grassland, forest, wetland, water, others twice, bare land, others."""


def hunan(root: Path) -> None:
    for split in ("train", "val", "test"):
        place = root / "x/Hunan_Dataset" / split
        write_image(place / "s2/s2_7.tif", np.ones((13, 64, 64), np.uint16), georeferenced=True)
        write_image(place / "s1/s1_7.tif", np.full((2, 64, 64), -9, np.float32))
        write_image(place / "topo/topo_7.tif", np.ones((2, 64, 64), np.float32))
        # The publication names labels either way.
        name = "lc_7.tif" if split == "train" else "7.tif"
        write_image(place / "lc" / name, HUNAN_CODES[HUNAN_PLACES])
    zipped(root / "x", root / "Hunan_Dataset.zip")


def levir_cd(root: Path) -> None:
    change_folder(root / "x", roles=("A", "B", "label"))
    for split in ("train", "val", "test"):
        zipped(root / "x" / split, root / f"{split}.zip")
    shutil.rmtree(root / "x")


def whu(root: Path) -> None:
    name = "3. The cropped image tiles and raster labels"
    segmentation_folder(root / "x" / name, suffix=".tif")
    zipped(root / "x", root / f"{name}.zip")


@pytest.mark.parametrize(
    ("make", "tile", "tiles", "classes"),
    [
        (loveda, None, {"train": 2, "val": 1}, LABEL),
        (potsdam, 48, {"train": 8, "val": 4}, None),
        (vaihingen, 64, {"train": 1, "val": 1}, np.where(LABEL == 0, IGNORE, LABEL % 6)),
        (isaid, 40, {"train": 4, "val": 4}, LABEL[:40, :40]),
        (cityscapes, None, {"train": 1, "val": 1}, np.where(LABEL == 6, IGNORE, LABEL)),
        (coco_stuff, None, {"train": 1, "val": 1}, None),
        (ade20k, None, {"train": 1, "val": 1}, LABEL),
        (whu_opt_sar, 32, {"train": 28, "val": 4, "test": 8}, (LABEL % 7)[:32, :32]),
        (hunan, None, {"train": 1, "val": 1, "test": 1}, HUNAN_CLASSES[HUNAN_PLACES]),
        (levir_cd, 32, {"train": 12, "val": 8, "test": 8}, None),
        (whu, None, {"train": 3, "val": 2, "test": 2}, None),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_published_archives_become_a_dataset(tmp_path: Path, make, tile, tiles, classes) -> None:
    source = tmp_path / "in"
    source.mkdir()
    make(source)
    name = make.__name__.replace("_", "-")
    report = prepare_dataset(name, source, tmp_path / "out", tile, workers=2)
    assert report.tiles == tiles
    checked = check_dataset(name, tmp_path / "out")
    assert checked.ok and {s: r.tiles for s, r in checked.splits.items()} == tiles
    sample = open_dataset(name, tmp_path / "out").split("train")[0]
    if classes is not None:
        np.testing.assert_array_equal(sample.label, classes)
    if name == "coco-stuff":
        assert np.unique(sample.label).tolist() == [0, 11, 24, 25, 26, 170, IGNORE]
    if name == "whu-opt-sar":
        assert report.split == "rsmamba-tens" and sample.images[0].shape == (4, 32, 32)
    if name == "hunan":
        assert [i.shape for i in sample.images] == [(13, 64, 64), (2, 64, 64)]
    if name == "potsdam":
        names = {p.stem for p in (tmp_path / "out/img_dir/val").iterdir()}
        assert "2_13_0_16_48_64" in names
    assert not list((tmp_path / "out").glob("_*"))


def test_small_images_of_isaid_are_filled_up(tmp_path: Path) -> None:
    isaid(tmp_path / "in")
    prepare_dataset("isaid", tmp_path / "in", tmp_path / "out")
    dataset = open_dataset("isaid", tmp_path / "out")
    split = dataset.split("val")
    assert split.stem(0) == "P0003_0_896_0_896"
    sample = split[0]
    assert sample.label.shape == (896, 896)
    np.testing.assert_array_equal(sample.label[:50, :64], LABEL[:50])
    assert (sample.label[50:] == IGNORE).all() and (sample.label[:, 64:] == IGNORE).all()


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(8, 90), st.integers(0, 40))
def test_chips_are_full_and_cover_everything(height, width, side, overlap) -> None:
    seen = np.zeros((max(height, side), max(width, side)), bool)
    for row, col, tall, wide in chip_boxes(height, width, side, max(1, side - overlap)):
        assert (tall, wide) == (side, side)
        assert row + side <= len(seen) and col + side <= seen.shape[1]
        seen[row : row + tall, col : col + wide] = True
    assert seen[:height, :width].all()


def test_chips_of_potsdam_are_as_many_as_the_papers() -> None:
    assert 24 * len(list(chip_boxes(6000, 6000, 512, 512))) == 3456


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "Train.zip").write_bytes(b"PK nothing")
    with pytest.raises(DatasetError, match=r"Train\.zip cannot be unpacked"):
        prepare_dataset("loveda", tmp_path, tmp_path / "out")


def test_a_single_archive_is_a_source_and_another_file_is_none(tmp_path: Path) -> None:
    ade20k(tmp_path)
    prepare_dataset("ade20k", tmp_path / "ADEChallengeData2016.zip", tmp_path / "out")
    assert check_dataset("ade20k", tmp_path / "out").ok
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DatasetError, match=r"notes\.txt is no archive"):
        prepare_dataset("ade20k", tmp_path / "notes.txt", tmp_path / "more")
    with pytest.raises(DatasetError, match="does not exist"):
        prepare_dataset("ade20k", tmp_path / "nothing", tmp_path / "more")


def test_another_dataset_is_refused_with_what_was_found(tmp_path: Path) -> None:
    segmentation_folder(tmp_path / "in", roles=("x", "y"))
    with pytest.raises(DatasetError, match=r"loveda .* was not found(.|\n)*train/x \(3 files\)"):
        prepare_dataset("loveda", tmp_path / "in", tmp_path / "out")


def test_units_far_from_the_published_are_said(tmp_path: Path) -> None:
    whu_opt_sar(tmp_path / "in")
    prepare_dataset("whu-opt-sar", tmp_path / "in", tmp_path / "out", 32)
    notes = check_dataset("whu-opt-sar", tmp_path / "out").notes
    assert any("nir has mean 4 and deviation 2; published are 100.9" in note for note in notes)
