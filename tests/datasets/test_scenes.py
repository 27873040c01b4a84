"""The dataset ``scenes``: windows of large rasters with raster or vector truth."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import shapely
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from miniatures import write_image
from rasterio.crs import CRS
from rasterio.transform import from_origin

from rsmamba_cli.datasets import IGNORE, check_dataset, open_dataset
from rsmamba_cli.datasets.scenes.blocks import Block, cut_blocks, deal, keep_apart, set_back
from rsmamba_cli.datasets.scenes.truth import near_borders
from rsmamba_cli.errors import DatasetError
from rsmamba_cli.raster.grid import Grid
from rsmamba_cli.raster.vector_files import Features, write_features
from rsmamba_cli.training import TrainConfig, train
from rsmamba_cli.training.recipe_files import validate_config

SIZE = 256
UTM = CRS.from_epsg(32633)


def outlines(seed: int, count: int = 30) -> np.ndarray:
    """Turned boxes in a scene of 256 x 256 pixels of half a metre."""
    rng = np.random.default_rng(seed)
    boxes = []
    for _ in range(count):
        x, y = rng.uniform(0, SIZE / 2, 2)
        box = shapely.box(x, -y, x + rng.uniform(5, 15), -y + rng.uniform(5, 15))
        turned = shapely.affinity.rotate(box, float(rng.uniform(0, 90)))
        boxes.append(shapely.affinity.translate(turned, 500000, 5000000))
    return np.array(boxes)


def write_outlines(path: Path, shapes: np.ndarray, kinds: list[str]) -> Path:
    write_features(path, [Features(shapes, {"kind": np.array(kinds, object)})], UTM, {})
    return path


@pytest.fixture
def area(tmp_path: Path) -> Path:
    """Two scenes of the same make with outlines of houses and sheds."""
    for n in range(2):
        shapes = outlines(n)
        write_outlines(tmp_path / f"o{n}.gpkg", shapes, ["house", "shed"] * 15)
        image = np.random.default_rng(n).integers(1, 60, (3, SIZE, SIZE)).astype(np.uint8)
        place = from_origin(500000, 5000000, 0.5, 0.5)
        burnt = rasterio.features.rasterize(shapes, (SIZE, SIZE), transform=place)
        image[:, burnt > 0] += 120
        write_image(tmp_path / f"s{n}.tif", image, georeferenced=True)
    return tmp_path


def describe(folder: Path, count: int = 1, **changes) -> Path:
    content = {
        "classes": ["ground", "house", {"name": "shed", "color": [9, 9, 9]}],
        "field": "kind",
        "scenes": [{"image": f"s{n}.tif", "label": f"o{n}.gpkg"} for n in range(count)],
        "splits": {"block": 64, "buffer": 8},
    }
    path = folder / "scenes.yaml"
    path.write_text(yaml.safe_dump({**content, **changes}))
    return path


def whole_label(dataset) -> np.ndarray:
    return dataset.readers[0].truth.read(0, 0, SIZE, SIZE)


def test_features_are_burnt_by_class_and_windows_agree_with_the_whole(area: Path) -> None:
    dataset = open_dataset("scenes", describe(area, ignore_border=2, all_touched=True))
    label = whole_label(dataset)
    assert set(np.unique(label)) == {0, 1, 2, IGNORE}
    assert sum(len(dataset.split(s)) for s in dataset.splits) <= 16
    for name in dataset.splits:
        split = dataset.split(name)
        for i, place in enumerate(split.places):
            row, col, height, width = dataset.measured.blocks[place].box
            want = label[row + 5 : row + height, col + 3 : col + width]
            got = split.read(i, (5, 3, height - 5, width - 3))
            np.testing.assert_array_equal(got.label, want)
            x, y = split.header(i).transform @ (0, 0)
            assert (x, y) == (500000 + col / 2, 5000000 - row / 2)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1 << 30), st.integers(0, 40), st.sampled_from(["block", "scene"]))
def test_no_pixel_to_learn_from_is_near_one_to_measure_on(seed, distance, by) -> None:
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in rng.integers(100, 500, 2))
    offsets = [(0, 0), tuple(int(n) for n in rng.integers(-300, 300, 2)), (9999, 9999)]
    grids = [
        Grid(height, width, from_origin(500000 + c / 2, 5000000 - r / 2, 0.5, 0.5), UTM)
        for r, c in offsets
    ]
    boxes = [(s, b) for s in range(3) for b in cut_blocks(height, width, 64)]
    units = boxes if by == "block" else [0, 1, 2]
    dealt = deal(len(units), {"train": 0.6, "val": 0.2, "test": 0.2}, rng)
    blocks = [
        Block(s, b, dealt[i] if by == "block" else dealt[s]) for i, (s, b) in enumerate(boxes)
    ]
    kept = keep_apart(blocks, grids, distance)
    span = 1100
    held = {name: np.zeros((span, span), bool) for name in ("train", "val", "test")}
    apart = {name: np.zeros((span, span), bool) for name in held}
    for b in kept:
        if b.scene == 2:
            continue
        top, left = (300 + o + p for o, p in zip(offsets[b.scene], b.box[:2], strict=True))
        bottom, right = top + b.box[2], left + b.box[3]
        held[b.split][top:bottom, left:right] = True
        near = (
            slice(max(top - distance, 0), bottom + distance),
            slice(max(left - distance, 0), right + distance),
        )
        apart[b.split][near] = True
    assert not (held["train"] & (apart["val"] | apart["test"])).any()
    assert not (held["val"] & apart["test"]).any()


def test_a_block_gives_way_by_the_least() -> None:
    box = set_back((0, 0, 100, 100), np.array([[0, 100, 100, 200]]), 10)
    assert box == (0, 0, 100, 90)
    assert set_back((0, 0, 40, 40), np.array([[0, 40, 40, 80]]), 20) is None


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 60))
def test_every_split_gets_its_share(count: int) -> None:
    dealt = deal(count, {"train": 0.7, "val": 0.2, "test": 0.1}, np.random.default_rng(0))
    assert len(dealt) == count
    if count >= 3:
        assert set(dealt) == {"train", "val", "test"}
    assert abs(dealt.count("train") - 0.7 * count) <= 2


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1 << 30), st.integers(1, 4))
def test_borders_are_where_another_class_is_near(seed: int, distance: int) -> None:
    label = np.random.default_rng(seed).choice([0, 0, 0, 1, IGNORE], (12, 14))
    got = near_borders(label, distance)
    for row, col in np.ndindex(label.shape):
        rows = slice(max(row - distance, 0), row + distance + 1)
        part = label[rows, max(col - distance, 0) : col + distance + 1]
        assert got[row, col] == (len(np.unique(part[part != IGNORE])) > 1)


def test_raster_labels_on_another_grid_with_codes(area: Path) -> None:
    raw = np.zeros((64, 64), np.uint8)
    raw[:32] = 7
    raw[:, 60:] = 9
    place = from_origin(500000, 5000000, 1.0, 1.0)
    with rasterio.open(area / "l.tif", "w", "GTiff", 64, 64, 1, UTM, place, "uint8") as sink:
        sink.write(raw, 1)
    scenes = [{"image": "s0.tif", "label": "l.tif"}]
    path = describe(area, scenes=scenes, codes={7: "house", 9: "ignore"})
    label = whole_label(open_dataset("scenes", path))
    want = np.full((SIZE, SIZE), IGNORE)
    want[:128, :128] = np.kron(
        np.where(raw == 7, 1, np.where(raw == 9, IGNORE, 0)), np.ones((2, 2))
    )
    np.testing.assert_array_equal(label, want)
    describe(area, scenes=scenes)
    with pytest.raises(DatasetError, match="holds the values 7, which are no class"):
        open_dataset("scenes", path)


def test_labels_end_where_they_are_complete_and_lines_have_a_width(area: Path) -> None:
    line = np.array([shapely.LineString([(500010, 4999990), (500050, 4999990)])])
    write_outlines(area / "o0.gpkg.fgb", line, ["house"])
    surveyed = np.array([shapely.box(500000, 4999968, 500064, 5000000)])
    write_outlines(area / "area.geojson", surveyed, ["x"])
    scenes = [{"image": "s0.tif", "label": "o0.gpkg.fgb", "area": "area.geojson"}]
    dataset = open_dataset("scenes", describe(area, scenes=scenes, line_width=4.0))
    label = whole_label(dataset)
    assert (label[:64, :128] != IGNORE).all()
    assert (label[64:] == IGNORE).all() and (label[:, 128:] == IGNORE).all()
    assert (label[:, 60] == 1).sum() == 8
    assert {b.box[0] for b in dataset.measured.blocks} == {0}


def test_what_was_measured_is_stored_and_right(area: Path) -> None:
    path = describe(area, count=2)
    dataset = open_dataset("scenes", path)
    split = dataset.split("train")
    counts, values = split.class_counts(), []
    for i in range(len(split)):
        sample = split[i]
        np.testing.assert_array_equal(np.bincount(sample.label.ravel(), minlength=3), counts[i])
        values.append(sample.images[0].reshape(3, -1))
    mean, std = split.moments()[0].mean_and_std()
    np.testing.assert_allclose(mean, np.concatenate(values, 1).mean(1))
    np.testing.assert_allclose(std, np.concatenate(values, 1).std(1))
    stored = json.loads((area / "scenes.measured.json").read_text())
    assert sum(stored["class_shares"]["train"].values()) == pytest.approx(1, abs=1e-5)
    events = []
    assert open_dataset("scenes", path, on_event=events.append).measured.blocks
    assert not events
    describe(area, count=2, splits={"block": 64, "buffer": 8, "seed": 1})
    again = open_dataset("scenes", path, on_event=events.append)
    assert events and again.measured.blocks != dataset.measured.blocks


def test_second_dates_and_radar_come_on_the_first_grid(area: Path) -> None:
    image = np.random.default_rng(5).integers(1, 255, (1, 300, 300)).astype(np.uint8)
    with rasterio.open(
        area / "radar.tif",
        "w",
        "GTiff",
        300,
        300,
        1,
        UTM,
        from_origin(499990, 5000010, 0.5, 0.5),
        "uint8",
    ) as sink:
        sink.write(image)
    scene = {"image": "s0.tif", "label": "o0.gpkg", "sar": "radar.tif", "t2": "s1.tif"}
    path = describe(area, scenes=[scene])
    dataset = open_dataset("scenes", path)
    assert dataset.inputs[1].bands == ("b1",)
    assert dataset.task == "multimodal" and check_dataset("scenes", path).ok
    row, col, height, width = dataset.measured.blocks[dataset.split("train").places[0]].box
    got = dataset.split("train")[0].images[1][0]
    np.testing.assert_array_equal(got, image[0, row + 20 :, col + 20 :][:height, :width])
    change = open_dataset("scenes", path, task="change")
    assert [i.name for i in change.inputs] == ["t1", "t2"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["ground", "house"]}, "kind holds shed, which are no class"),
        ({"field": "colour"}, "no attribute 'colour'"),
        ({"codes": {"shed": "barn"}}, "codes name 'barn', which is no class"),
        ({"splits": {"size": 3}}, "splits.size: Extra inputs"),
        (
            {"scenes": [{"image": "s0.tif", "label": "none.gpkg"}]},
            "none.gpkg, which does not exist",
        ),
        ({"scenes": [{"image": "s0.tif", "label": "scenes.yaml"}]}, "neither as a raster nor"),
    ],
)
def test_mistakes_are_named(area: Path, changes: dict, message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        open_dataset("scenes", describe(area, **changes))


def test_training_on_scenes_draws_balanced_windows(area: Path, tmp_path: Path) -> None:
    arguments = {"dims": [8, 16, 32, 64], "depths": [1, 1, 1, 1], "ssm_d_state": 2}
    content = {
        "model": {"name": "rsm_ss_nano", "arguments": arguments},
        "data": {
            "dataset": "scenes",
            "root": str(describe(area, count=2)),
            "crop": 32,
            "batch_size": 2,
            "balance": 0.5,
            "normalise": "statistics",
        },
        "loss": {"class_weights": "auto"},
        "loop": {"steps": 3, "epochs": None, "device": "cpu", "pictures": 0},
    }
    result = train(validate_config(content, "test", TrainConfig), tmp_path / "run")
    assert (tmp_path / "run/last.safetensors").exists() and result is not None
