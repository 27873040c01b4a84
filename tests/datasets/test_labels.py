"""What label values mean."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from miniatures import blocks, segmentation_folder, write_image

from rsmamba_cli.datasets import IGNORE, DatasetClass, open_dataset
from rsmamba_cli.datasets.labels import LabelCoding, infer_coding
from rsmamba_cli.errors import DatasetError


def coding_of(*files: set[int], classes: int | None = None) -> LabelCoding:
    counted = {Path(f"{i}.png"): dict.fromkeys(v, 1) for i, v in enumerate(files)}
    return infer_coding(counted, "building", classes)


def test_zero_and_255_are_two_classes_and_nothing_is_ignored() -> None:
    coding = coding_of({0, 255}, {0}, {255})
    assert coding.encode(np.array([[0, 255]])).tolist() == [[0, 1]]
    assert coding.ignore == ()
    assert "255 is building, not ignored" in coding.notes[0]


def test_zero_and_one_are_two_classes() -> None:
    assert coding_of({0, 1}).encode(np.array([[0, 1]])).tolist() == [[0, 1]]


def test_255_beside_class_numbers_is_ignored_and_said_so() -> None:
    coding = coding_of({0, 1, 2, 255})
    assert coding.encode(np.array([[2, 255]])).tolist() == [[2, IGNORE]]
    assert any("255" in note for note in coding.notes)


def test_255_beside_one_in_the_same_file_is_ignored() -> None:
    assert coding_of({0, 1, 255}).ignore == (255,)


def test_files_coded_differently_are_refused() -> None:
    with pytest.raises(DatasetError, match=r"0/1 \(0.png\), others 0/255 \(1.png\)"):
        coding_of({0, 1}, {0, 255})


def test_grey_values_are_refused() -> None:
    with pytest.raises(DatasetError, match="does not look like class numbers"):
        coding_of({0, 60, 120, 200})


def test_a_mask_saved_as_jpeg_is_recognised() -> None:
    with pytest.raises(DatasetError, match="saved as JPEG"):
        coding_of({0, 1, 3, 250, 254, 255})


def test_a_test_split_with_few_classes_keeps_the_classes_of_the_model() -> None:
    assert len(coding_of({0, 2}, classes=6).classes) == 6
    assert len(coding_of({0}, classes=6).classes) == 6
    assert len(coding_of({255}, classes=6).classes) == 6


def test_more_classes_than_the_model_has_are_refused() -> None:
    with pytest.raises(DatasetError, match="class 4, but the model has only"):
        coding_of({0, 4}, classes=3)


@settings(deadline=None)
@given(st.integers(2, 30), st.booleans(), st.randoms(use_true_random=False))
def test_class_numbers_encode_to_themselves(count: int, ignored: bool, random) -> None:
    values = {*range(count), 255} if ignored else set(range(count))
    raw = np.array(random.choices(sorted(values), k=50)).reshape(5, 10)
    assert np.array_equal(coding_of(values).encode(raw), raw)


def test_a_value_that_is_no_class_is_named() -> None:
    coding = LabelCoding((DatasetClass(1, "a", (0, 0, 0)), DatasetClass(7, "b", (9, 9, 9))), (0,))
    assert coding.encode(np.array([[0, 1, 7]])).tolist() == [[IGNORE, 0, 1]]
    with pytest.raises(DatasetError, match=r"x.png holds the values 3"):
        coding.encode(np.array([[3]]), "x.png")


@pytest.mark.parametrize("name", ["classes.json", "classes.yaml"])
def test_a_class_file_decides(tmp_path: Path, name: str) -> None:
    segmentation_folder(tmp_path, counts={"train": 1})
    content = {
        "classes": [
            {"value": 255, "name": "roof", "color": [200, 0, 0]},
            {"value": 0, "name": "rest"},
        ],
        "gsd": 0.25,
    }
    (tmp_path / name).write_text(json.dumps(content))  # JSON is YAML
    dataset = open_dataset("folder", tmp_path)
    assert [c.name for c in dataset.classes] == ["roof", "rest"]
    assert dataset.classes[0].color == (200, 0, 0)
    assert dataset.gsd == 0.25
    assert set(np.unique(dataset.split("train")[0].label)) == {0, 1}


def test_a_class_file_can_ignore_zero(tmp_path: Path) -> None:
    image, label = blocks(1, white=2)
    write_image(tmp_path / "train/image/a.png", image)
    write_image(tmp_path / "train/label/a.png", label)
    (tmp_path / "classes.json").write_text(
        json.dumps({"classes": [{"value": 1, "name": "x"}, {"value": 2, "name": "y"}], "ignore": 0})
    )
    sample = open_dataset("folder", tmp_path).split("train")[0]
    assert set(np.unique(sample.label)) == {1, IGNORE}


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"classes": [{"value": 0}]}', '{"classes": ["a", "b"], "colour": 1}']
)
def test_a_class_file_that_makes_no_sense_is_refused_with_an_example(
    tmp_path: Path, text: str
) -> None:
    segmentation_folder(tmp_path, counts={"train": 1})
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(DatasetError, match="Expected for example"):
        open_dataset("folder", tmp_path)


def test_named_binary_sets_take_any_value_but_zero_as_positive(tmp_path: Path) -> None:
    segmentation_folder(tmp_path, counts={"train": 1}, white=17)
    assert set(np.unique(open_dataset("whu", tmp_path).split("train")[0].label)) == {0, 1}
