"""The datasets of the papers: what the catalogue says of them, their layouts and label codings."""

from pathlib import Path

import numpy as np
import pytest
from miniatures import blocks, write_image

from rsmamba_cli.datasets import IGNORE, catalogue, check_dataset, get_dataset, open_dataset
from rsmamba_cli.errors import DatasetError
from rsmamba_cli.training import list_recipes, load_recipe

OFFICIAL = {
    "loveda": ("img_dir/{split}/{n}.png", "ann_dir/{split}/{n}.png", "train", "val"),
    "potsdam": ("img_dir/rgb/{split}/{n}.tif", "ann_dir/{split}/{n}.png", "train", "val"),
    "vaihingen": ("img_dir/irrg/{split}/{n}.tif", "ann_dir/{split}/{n}.png", "train", "val"),
    "isaid": (
        "img_dir/{split}/P{n}_0_64_0_64.png",
        "ann_dir/{split}/P{n}_0_64_0_64_instance_color_RGB.png",
        "train",
        "val",
    ),
    "ade20k": ("images/{split}/{n}.jpg", "annotations/{split}/{n}.png", "training", "validation"),
    "cityscapes": (
        "leftImg8bit/{split}/ulm/ulm_{n}_leftImg8bit.png",
        "gtFine/{split}/ulm/ulm_{n}_gtFine_labelIds.png",
        "train",
        "val",
    ),
    "coco-stuff": (
        "images/{split}/{n}.jpg",
        "annotations/{split}/{n}_labelTrainIds.png",
        "train2017",
        "val2017",
    ),
}
"""Name -> paths of an image and of its label, and what the splits are called."""


def write_official(root: Path, name: str, label: np.ndarray) -> Path:
    image, mask, *splits = OFFICIAL[name]
    for split in splits:
        for n in range(2):
            write_image(root / image.format(split=split, n=n), blocks(n)[0])
            write_image(root / mask.format(split=split, n=n), label)
    return root


def filled(*values: int) -> np.ndarray:
    """64 x 64, in as many bands of rows as there are values."""
    rows = np.array(values, np.uint8)[np.arange(64) * len(values) // 64]
    return np.repeat(rows[:, None], 64, axis=1)


@pytest.mark.parametrize("info", catalogue(), ids=lambda info: info.name)
def test_entries_are_complete(info) -> None:
    assert info.title and info.licence and info.source and info.layout
    values = [c.value for c in info.classes]
    assert len(set(values)) == len(values) and info.ignore_index not in values
    assert all(0 <= part <= 255 for c in info.classes for part in c.color)
    for other in info.recodings:
        assert len(set(other.values)) == len(values)
        assert not set(other.values) & set(other.ignore)
    measured = len(info.bands) + len(info.sar_bands) if info.mean else 0
    assert len(info.mean) == len(info.std) == measured
    if info.coloured:
        assert len({c.color for c in info.classes}) == len(values)
    if info.name not in ("demo", "folder", "scenes"):
        assert info.citation and info.classes
    assert info.tasks and {"train", "val"} <= set(info.splits) <= {"train", "val", "test"}


@pytest.mark.parametrize(
    ("name", "count"),
    [
        *(("loveda", 7), ("potsdam", 6), ("isaid", 16), ("hunan", 7), ("whu-opt-sar", 7)),
        *(("cityscapes", 19), ("ade20k", 150), ("coco-stuff", 171)),
    ],
)
def test_numbers_of_classes_are_the_papers(name: str, count: int) -> None:
    assert len(get_dataset(name).classes) == count


@pytest.mark.parametrize("recipe", list_recipes())
def test_the_datasets_of_all_recipes_are_known(recipe: str) -> None:
    assert get_dataset(load_recipe(recipe).data.dataset)


@pytest.mark.parametrize("name", OFFICIAL)
def test_published_layouts_are_taken_as_they_are(name: str, tmp_path: Path) -> None:
    info = get_dataset(name)
    first, last = info.classes[0].value, info.classes[-1].value
    label = filled(first, last, info.ignore_index)
    if name == "cityscapes":
        label = filled(7, 33, 0)
    report = check_dataset(name, write_official(tmp_path, name, label))
    assert report.ok
    assert {s: r.tiles for s, r in report.splits.items()} == {"train": 2, "val": 2}
    sample = open_dataset(name, tmp_path).split("val")[0]
    assert set(np.unique(sample.label)) == {0, len(info.classes) - 1, IGNORE}


def test_train_ids_are_told_from_cityscapes_ids(tmp_path: Path) -> None:
    root = write_official(tmp_path, "cityscapes", filled(7, 33, 3))
    for path in root.rglob("*_labelIds.png"):
        write_image(
            path.with_name(path.name.replace("labelIds", "labelTrainIds")), filled(0, 18, 255)
        )
    dataset = open_dataset("cityscapes", root)
    assert dataset.classes[18].value == 18
    label = dataset.split("val")[0].label
    for path in root.rglob("*_labelTrainIds.png"):
        path.unlink()
    ids = open_dataset("cityscapes", root)
    assert ids.classes[18].value == 33 and ids.classes[18].name == "bicycle"
    np.testing.assert_array_equal(ids.split("val")[0].label, label)


def test_published_ids_of_coco_stuff_skip_what_is_no_class(tmp_path: Path) -> None:
    root = write_official(tmp_path, "coco-stuff", filled(0, 12, 181, 255))
    for path in root.rglob("*_labelTrainIds.png"):
        path.rename(path.with_name(path.name.replace("_labelTrainIds", "")))
    label = open_dataset("coco-stuff", root).split("train")[0].label
    assert np.unique(label).tolist() == [0, 11, 170, IGNORE]


@pytest.mark.parametrize("name", ["potsdam", "vaihingen", "isaid"])
def test_labels_in_the_official_colours(name: str, tmp_path: Path) -> None:
    info = get_dataset(name)
    index = np.arange(64 * 64).reshape(64, 64) % len(info.classes)
    picture = np.array([c.color for c in info.classes], np.uint8)[index].transpose(2, 0, 1)
    picture[:, :8] = 0
    root = write_official(tmp_path, name, picture)
    index[:8] = 0 if name == "isaid" else IGNORE
    np.testing.assert_array_equal(open_dataset(name, root).split("val")[1].label, index)


def test_a_colour_of_no_class_is_named(tmp_path: Path) -> None:
    picture = np.full((3, 64, 64), 255, np.uint8)
    picture[2, 0, 0] = 254
    root = write_official(tmp_path, "potsdam", picture)
    with pytest.raises(DatasetError, match=r"1 colour\(s\) of no class: \(255, 255, 254\)"):
        open_dataset("potsdam", root).split("train")[0]
