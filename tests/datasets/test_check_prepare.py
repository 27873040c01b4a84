"""Checking a dataset, and bringing a published one into its layout."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from miniatures import blocks, change_folder, segmentation_folder, write_image

from rsmamba_cli.datasets import check_dataset, open_dataset, prepare_dataset
from rsmamba_cli.datasets.prepare import strip_boxes, tile_boxes
from rsmamba_cli.datasets.published import STRIPS
from rsmamba_cli.errors import DatasetError, OutputError


def test_check_counts_everything(tmp_path: Path) -> None:
    report = check_dataset("folder", segmentation_folder(tmp_path))
    assert report.ok
    train = report.splits["train"]
    assert train.tiles == 3 and train.sizes == {"64 x 64": 3}
    assert set(train.values) == {0, 255}
    assert sum(train.class_pixels.values()) == 3 * 64 * 64


def test_check_tells_official_counts_from_what_is_there(tmp_path: Path) -> None:
    notes = check_dataset("levir-cd", change_folder(tmp_path, roles=("A", "B", "label"))).notes
    assert "train: 3 tiles; the official split has 445" in notes


def test_check_goes_on_after_a_broken_tile_and_names_it(tmp_path: Path) -> None:
    segmentation_folder(tmp_path)
    (tmp_path / "val/image/tile_1.png").write_bytes(b"broken")
    report = check_dataset("folder", tmp_path)
    assert len(report.problems) == 1 and "val/image/tile_1.png" in report.problems[0]
    assert report.splits["val"].sizes == {"64 x 64": 1}


def test_check_says_when_there_is_nothing_to_learn(tmp_path: Path) -> None:
    for role, array in (("image", blocks(0)[0]), ("label", np.zeros((64, 64), np.uint8))):
        write_image(tmp_path / "train" / role / "a.png", array)
    assert "nothing can be learnt" in check_dataset("folder", tmp_path).problems[0]


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 200), st.integers(1, 200), st.integers(4, 90))
def test_tiles_cover_every_pixel_once(height: int, width: int, side: int) -> None:
    seen = np.zeros((height, width), int)
    for row, column, tall, wide in tile_boxes(height, width, side):
        seen[row : row + tall, column : column + wide] += 1
    assert (seen == 1).all()


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 100), st.integers(97, 900), st.integers(32, 48))
def test_strips_never_share_a_column(height: int, width: int, side: int) -> None:
    columns: dict[str, set[int]] = {}
    for split, box in strip_boxes(height, width, side):
        columns.setdefault(split, set()).update(range(box[1], box[1] + box[3]))
    assert set(columns) == {"train", "val", "test"}
    assert max(columns["train"]) < min(columns["val"])
    assert max(columns["val"]) < min(columns["test"])


def test_levir_is_cut_into_the_official_tiles(tmp_path: Path) -> None:
    change_folder(
        tmp_path / "in", counts={"train": 1, "test": 1}, roles=("A", "B", "label"), size=96
    )
    report = prepare_dataset("levir-cd", tmp_path / "in", tmp_path / "out", tile=32)
    assert report.tiles == {"train": 9, "test": 9}
    whole = open_dataset("levir-cd", tmp_path / "in").split("test")[0]
    cut = open_dataset("levir-cd", tmp_path / "out").split("test")
    first = cut[[cut.stem(i) for i in range(9)].index("tile_0_00032_00064")]
    assert np.array_equal(first.images[1], whole.images[1][:, 32:64, 64:96])
    assert np.array_equal(first.label, whole.label[32:64, 64:96])


def test_whu_is_copied_as_it_is(tmp_path: Path) -> None:
    segmentation_folder(tmp_path / "in", roles=("Image", "Mask"), suffix=".tif")
    prepare_dataset("whu", tmp_path / "in", tmp_path / "out")
    before = (tmp_path / "in/train/Image/tile_0.tif").read_bytes()
    assert (tmp_path / "out/train/image/tile_0.tif").read_bytes() == before
    assert check_dataset("whu", tmp_path / "out").ok


def test_massachusetts_is_brought_from_sat_and_map(tmp_path: Path) -> None:
    segmentation_folder(tmp_path / "in", roles=("sat", "map"), suffix=".tiff")
    report = prepare_dataset("massachusetts-roads", tmp_path / "in", tmp_path / "out", tile=48)
    assert report.tiles["train"] == 3 * 4
    assert check_dataset("massachusetts-roads", tmp_path / "out").ok


@pytest.fixture
def big_pair(tmp_path: Path) -> Path:
    t2, label = blocks(3, size=200)
    t1 = blocks(4, size=200)[0]
    root = tmp_path / "Building change detection dataset"
    write_image(root / "2012/whole_image.tif", t1, georeferenced=True)
    write_image(root / "2016/whole_image.tif", t2, georeferenced=True)
    write_image(root / "change_label/change_label.tif", label, georeferenced=True)
    return root


def test_whu_cd_is_cut_in_named_strips_and_stays_in_its_place(
    tmp_path: Path, big_pair: Path
) -> None:
    report = prepare_dataset("whu-cd", big_pair, tmp_path / "out", tile=40)
    assert report.split == STRIPS
    assert sum(report.tiles.values()) == 25
    dataset = open_dataset("whu-cd", tmp_path / "out")
    first = dataset.split("test").header(0)
    with rasterio.open(big_pair / "2012/whole_image.tif") as whole:
        assert first.transform == whole.transform @ whole.transform.translation(160, 0)
        assert np.array_equal(dataset.split("test")[0].images[0], whole.read()[:, :40, 160:])


def test_whu_cd_with_a_raster_missing_says_what_was_found(tmp_path: Path, big_pair: Path) -> None:
    (big_pair / "2016/whole_image.tif").unlink()
    with pytest.raises(DatasetError, match=r"t2: none.*\n.*t1\.tif, t2\.tif and label\.tif"):
        prepare_dataset("whu-cd", big_pair, tmp_path / "out")


def test_an_existing_folder_is_never_touched(tmp_path: Path) -> None:
    segmentation_folder(tmp_path / "in")
    (tmp_path / "out").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        prepare_dataset("whu", tmp_path / "in", tmp_path / "out")


def test_an_interrupted_run_goes_on_and_ends_as_one_in_one_piece(tmp_path: Path) -> None:
    segmentation_folder(tmp_path / "in", counts={"train": 4})
    broken = tmp_path / "in/train/label/tile_3.png"
    kept = broken.read_bytes()
    broken.write_bytes(b"broken")
    with pytest.raises(DatasetError, match=r"tile_3\.png"):
        prepare_dataset("whu", tmp_path / "in", tmp_path / "out", tile=32, workers=1)
    assert not (tmp_path / "out").exists()
    broken.write_bytes(kept)
    journal = tmp_path / "out.partial/_done.txt"
    assert len(journal.read_text().splitlines()) == 3
    first = tmp_path / "out.partial/train/image/tile_0_00000_00000.png"
    before = first.stat().st_mtime_ns
    prepare_dataset("whu", tmp_path / "in", tmp_path / "out", tile=32)
    assert (tmp_path / "out/train/image" / first.name).stat().st_mtime_ns == before
    prepare_dataset("whu", tmp_path / "in", tmp_path / "again", tile=32)
    files = [p.relative_to(tmp_path / "out") for p in (tmp_path / "out").rglob("*.*")]
    assert len(files) == 33
    for file in files:
        assert (tmp_path / "out" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again", "in", "out"]


def test_another_tile_size_starts_anew(tmp_path: Path) -> None:
    segmentation_folder(tmp_path / "in", counts={"train": 1})
    (tmp_path / "out.partial/train/image").mkdir(parents=True)
    (tmp_path / "out.partial/train/image/old.png").touch()
    (tmp_path / "out.partial/_plan.json").write_text("{}")
    report = prepare_dataset("whu", tmp_path / "in", tmp_path / "out", tile=32)
    assert report.tiles == {"train": 4}
    assert not list((tmp_path / "out").rglob("old.png"))


def test_datasets_that_need_no_preparing_say_so(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="needs no preparing"):
        prepare_dataset("folder", tmp_path, tmp_path / "out")
