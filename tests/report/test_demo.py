"""The demonstration: its inputs, its manners in folders, and the whole way with a blank model."""

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

import rsmamba_cli.assets
from rsmamba_cli.assets import demo_checkpoint
from rsmamba_cli.demo import DemoResult, _prepare, draw_demo, run_demo, write_scene_pair
from rsmamba_cli.errors import CheckpointError, InputError, OutputError
from rsmamba_cli.evaluation import evaluate_map
from rsmamba_models import (
    CheckpointMeta,
    ClassInfo,
    InputSpec,
    Transform,
    create_model,
    save_checkpoint,
)


def blank_checkpoint(path: Path, task: str) -> Path:
    """An untrained model with the metadata of an embedded one."""
    torch.manual_seed(0)
    names = ("t1", "t2") if task == "change" else ("image",)
    model = create_model("rsm_cd_nano" if task == "change" else "rsm_ss_nano")
    meta = CheckpointMeta(
        architecture=model.architecture,
        arguments=model.arguments,
        task=task,
        inputs=tuple(
            InputSpec(name=n, bands=("red", "green", "blue"), transform=Transform.imagenet8())
            for n in names
        ),
        classes=(
            ClassInfo(value=0, name="background", color=(0, 0, 0)),
            ClassInfo(value=1, name="thing", color=(200, 0, 0)),
        ),
        output="sigmoid",
        tile=128,
        size_multiple=model.size_multiple,
        demo=True,
    )
    save_checkpoint(path, model, meta)
    return path


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    models = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            rsmamba_cli.assets,
            "demo_checkpoint",
            lambda task: blank_checkpoint(models / f"{task}.safetensors", task),
        )
        return run_demo(tmp_path_factory.mktemp("demo"), size=160, device="cpu")


def test_every_file_is_there(result: DemoResult) -> None:
    assert {p for p in result.files.values() if not p.is_file()} == set()


def test_nothing_else_is_left_behind(result: DemoResult) -> None:
    found = {path.name for path in result.folder.iterdir()}
    assert found == {path.name for path in result.files.values()} | {".rsmamba-demo.json"}


def test_the_dates_lie_on_different_grids(result: DemoResult) -> None:
    with rasterio.open(result.files["t1"]) as t1, rasterio.open(result.files["t2"]) as t2:
        assert t1.crs == t2.crs
        assert t1.res != t2.res
        shift = (t2.bounds.left - t1.bounds.left) / t1.res[0]
        assert abs(shift - round(shift)) > 0.1


def test_the_second_date_covers_the_first(result: DemoResult) -> None:
    with rasterio.open(result.files["t1"]) as t1, rasterio.open(result.files["t2"]) as t2:
        assert t2.bounds.left < t1.bounds.left
        assert t2.bounds.right > t1.bounds.right
        assert t2.bounds.bottom < t1.bounds.bottom
        assert t2.bounds.top > t1.bounds.top


def test_masks_have_the_grid_of_the_first_date(result: DemoResult) -> None:
    with rasterio.open(result.files["t1"]) as t1:
        for role in ("buildings", "change", "truth_building", "truth_change"):
            with rasterio.open(result.files[role]) as mask:
                assert (mask.transform, mask.crs, mask.shape) == (t1.transform, t1.crs, t1.shape)


def test_metrics_are_shares(result: DemoResult) -> None:
    assert {"building_f1", "change_f1", "building_iou", "change_iou"} <= set(result.metrics)
    assert all(0 <= value <= 1 for value in result.metrics.values() if value == value)


def test_the_result_is_json(result: DemoResult) -> None:
    assert json.loads(json.dumps(result.to_json()))["size"] == 160


def test_the_truth_knows_buildings_and_changes(tmp_path: Path) -> None:
    pair = write_scene_pair(tmp_path, 200, seed=36)
    with rasterio.open(pair.truth_building) as building, rasterio.open(pair.truth_change) as change:
        assert building.read(1).mean() > 0.02
        assert 0 < change.read(1).mean() < 0.5
        assert building.tags(1)["class_1"] == "building"


def test_the_outlines_are_those_of_the_truth(tmp_path: Path) -> None:
    pair = draw_demo(tmp_path / "d", 200, seed=36)
    assert {path.name for path in (tmp_path / "d").iterdir()} == {
        path.name for path in pair.files().values()
    } | {".rsmamba-demo.json"}
    found = evaluate_map(pair.truth_building, pair.truth_outlines)
    assert found.metrics["f1"] > 0.95
    draw_demo(tmp_path / "d", 200, seed=36)  # again into its own folder


def test_pairs_are_the_same_each_time(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in "ab"]
    arrays = []
    for folder in folders:
        folder.mkdir()
        with rasterio.open(write_scene_pair(folder, 96, seed=3).t2) as dataset:
            arrays.append(dataset.read())
    assert np.array_equal(*arrays)


def test_foreign_files_are_respected(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(OutputError, match="did not make"):
        run_demo(tmp_path, size=64)
    assert {p.name for p in tmp_path.iterdir()} == {"letter.txt"}


def test_its_own_folder_is_used_again(result: DemoResult) -> None:
    assert _prepare(result.folder, 96, 1, overwrite=False) == result.folder


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    target = tmp_path / "demo"
    target.write_text("a file")
    with pytest.raises(OutputError, match="cannot be used"):
        run_demo(target, size=64)


@pytest.mark.parametrize("bad", [{"size": 10}, {"seed": -1}])
def test_bad_numbers_are_refused_before_any_work(tmp_path: Path, bad: dict[str, int]) -> None:
    with pytest.raises(InputError):
        run_demo(tmp_path / "demo", **bad)
    assert not (tmp_path / "demo").exists()


def test_only_two_tasks_have_a_checkpoint() -> None:
    with pytest.raises(CheckpointError, match="multimodal"):
        demo_checkpoint("multimodal")


def test_a_missing_asset_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rsmamba_cli.assets._NAMES, "change", "not-there.safetensors")
    with pytest.raises(CheckpointError, match="reinstall"):
        demo_checkpoint("change")
