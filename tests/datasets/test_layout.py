"""Finding datasets on disk, and saying what is wrong when they are not there."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from miniatures import blocks, change_folder, segmentation_folder, write_image

from rsmamba_cli.datasets import get_dataset, open_dataset, open_split
from rsmamba_cli.errors import DatasetError


def test_folder_of_images_and_labels_is_segmentation(tmp_path: Path) -> None:
    dataset = open_dataset("folder", segmentation_folder(tmp_path))
    assert dataset.task == "segmentation"
    assert {s: len(dataset.split(s)) for s in dataset.splits} == {"train": 3, "val": 2, "test": 2}


def test_folder_of_two_dates_is_change(tmp_path: Path) -> None:
    dataset = open_dataset("folder", change_folder(tmp_path))
    assert dataset.task == "change"
    assert len(dataset.split("train")[0].images) == 2


@pytest.mark.parametrize("roles", [("A", "B", "label"), ("t1", "t2", "label")])
def test_levir_is_found_by_its_official_names_and_by_ours(
    tmp_path: Path, roles: tuple[str, str, str]
) -> None:
    split = open_split("levir-cd", change_folder(tmp_path, roles=roles), "test")
    assert len(split) == 2
    assert set(np.unique(split[0].label)) == {0, 1}


@pytest.mark.parametrize(
    ("name", "roles"),
    [
        ("whu", ("image", "label")),
        ("whu", ("Image", "Mask")),
        ("massachusetts-roads", ("sat", "map")),
        ("massachusetts-roads", ("image", "label")),
    ],
)
def test_official_segmentation_layouts(tmp_path: Path, name: str, roles: tuple[str, str]) -> None:
    segmentation_folder(tmp_path, roles=roles, suffix=".tif")
    assert len(open_split(name, tmp_path, "train")) == 3


def test_whu_cd_layout(tmp_path: Path) -> None:
    assert len(open_split("whu-cd", change_folder(tmp_path), "val")) == 2


def test_massachusetts_as_published_calls_validation_valid(tmp_path: Path) -> None:
    segmentation_folder(tmp_path, roles=("sat", "map"), suffix=".tiff")
    (tmp_path / "val").rename(tmp_path / "valid")
    assert len(open_split("massachusetts-roads", tmp_path, "val")) == 2


def test_labels_in_a_folder_beside_the_split(tmp_path: Path) -> None:
    segmentation_folder(tmp_path / "a", counts={"train": 3})
    shutil.move(tmp_path / "a/train/image", tmp_path / "b/train")
    shutil.move(tmp_path / "a/train/label", tmp_path / "b/train_labels")
    assert len(open_split("folder", tmp_path / "b", "train")) == 3


def test_roles_above_splits(tmp_path: Path) -> None:
    segmentation_folder(tmp_path / "a", counts={"train": 3})
    shutil.move(tmp_path / "a/train/image", tmp_path / "b/img_dir/train")
    shutil.move(tmp_path / "a/train/label", tmp_path / "b/ann_dir/train")
    assert len(open_split("folder", tmp_path / "b", "train")) == 3


def test_lists_name_the_tiles_of_a_split(tmp_path: Path) -> None:
    change_folder(tmp_path / "a", counts={"train": 3}, roles=("A", "B", "label"))
    root = shutil.move(tmp_path / "a/train", tmp_path / "b")
    (root / "list").mkdir()
    (root / "list/train.txt").write_text("tile_0.png\ntile_2.png\n")
    (root / "list/test.txt").write_text("tile_1.png\n")
    dataset = open_dataset("levir-cd", root)
    assert [dataset.split("train").stem(i) for i in range(2)] == ["tile_0", "tile_2"]
    assert dataset.split("test").stem(0) == "tile_1"


def test_suffixes_may_differ_and_hidden_and_other_files_are_skipped(tmp_path: Path) -> None:
    segmentation_folder(tmp_path, suffix=".tif")
    for name in (".hidden.png", "notes.txt", "tile_0.tif.aux.xml", "tile_0.tfw"):
        (tmp_path / "train/image" / name).write_text("x")
    assert len(open_split("folder", tmp_path, "train")) == 3


def test_two_files_of_one_stem_are_refused(tmp_path: Path) -> None:
    segmentation_folder(tmp_path)
    write_image(tmp_path / "train/image/tile_0.tif", blocks(0)[0])
    with pytest.raises(DatasetError, match=r"tile_0\.png and tile_0\.tif"):
        open_dataset("folder", tmp_path)


def test_an_image_without_its_label_is_named(tmp_path: Path) -> None:
    segmentation_folder(tmp_path)
    (tmp_path / "train/label/tile_1.png").unlink()
    with pytest.raises(DatasetError, match=r"lacks 1 of the 3 tiles .* tile_1"):
        open_dataset("folder", tmp_path)


def test_a_missing_dataset_says_source_layout_and_what_was_found(tmp_path: Path) -> None:
    segmentation_folder(tmp_path)
    with pytest.raises(DatasetError) as refusal:
        open_dataset("levir-cd", tmp_path)
    text = str(refusal.value)
    assert "justchenhao.github.io/LEVIR" in text
    assert "{A,B,label}" in text
    assert "train/image (3 files)" in text


def test_a_missing_folder_names_the_default_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RSMAMBA_DATA", str(tmp_path))
    with pytest.raises(DatasetError, match=f"{tmp_path}/whu does not exist"):
        open_dataset("whu")


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="there is nothing"):
        open_dataset("folder", tmp_path)


def test_a_split_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    dataset = open_dataset("folder", segmentation_folder(tmp_path, counts={"train": 1}))
    with pytest.raises(DatasetError, match="no split 'val'; it has: train"):
        dataset.split("val")


def test_the_wrong_task_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is for segmentation, not for change"):
        open_dataset("whu", tmp_path, task="change")


def test_unknown_names_list_the_known() -> None:
    with pytest.raises(DatasetError, match="levir-cd"):
        get_dataset("levir")
