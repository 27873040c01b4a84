"""``rsmamba train`` and ``rsmamba eval``, from tiles on disk to figures."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from rsmamba_cli.commands.eval import parse_limit
from rsmamba_cli.errors import CheckpointError
from rsmamba_models import load_checkpoint

TINY = (
    *("--set", "model.arguments={dims: [8, 16, 32, 64], depths: [1, 1, 1, 1], ssm_d_state: 2}"),
    *("--set", "data.crop=64", "--set", "data.batch_size=2", "--set", "data.workers=0"),
    *("--set", "schedule.warmup_steps=0", "--set", "loop.epochs=2", "--set", "loop.pictures=1"),
    *("--set", "loop.validate_every_epochs=1", "--device", "cpu", "--model", "rsm_ss_nano"),
)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def tiles(tmp_path_factory) -> Path:
    """A folder dataset: bright squares are the foreground, labels 0/255."""
    root = tmp_path_factory.mktemp("tiles")
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2), ("test", 2)):
        for number in range(count):
            label = np.zeros((64, 64), np.uint8)
            row, col = rng.integers(0, 32, 2)
            label[row : row + 28, col : col + 28] = 255
            image = (rng.integers(0, 80, (64, 64, 3)) + label[..., None] // 2).astype(np.uint8)
            for folder, array in (("image", image), ("label", label)):
                path = root / split / folder / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(path)
    return root


@pytest.fixture
def masks(scene_factory) -> tuple[Path, Path]:
    """A prediction and a truth of 100 pixels: 40 right, 10 missed, 10 too many, 40 background."""
    guess, truth = np.zeros((2, 1, 10, 10), np.uint8)
    guess[0, :5], truth[0, :4], truth[0, 5] = 255, 255, 255
    return scene_factory("guess.tif", values=guess), scene_factory("truth.tif", values=truth)


def test_train_then_eval_then_predict(cli_json, tiles, scene_factory, tmp_path) -> None:
    run = cli_json("train", "--dataset", "folder", "--data", tiles, "--out", "run", *TINY)
    assert run["finished"] is True
    assert Path(run["last"]).is_file()
    assert Path("run/log.csv").is_file()
    words = ("eval", run["best"], "--dataset", "folder", "--data", tiles, "--device", "cpu")
    scores = cli_json(*words, "--save-predictions", "maps")
    assert set(scores["metrics"]) >= {"precision", "recall", "f1", "iou", "oa", "kappa"}
    assert np.sum(scores["confusion"]) == 2 * 64 * 64
    assert sorted(p.name for p in Path("maps").glob("0*")) == ["0.png", "0_painted.png"]
    cli_json("predict", scene_factory(), "-m", run["best"])


def test_a_run_goes_on_with_its_own_settings(cli_json, tiles) -> None:
    words = ("train", "--dataset", "folder", "--data", tiles, "--out", "run", *TINY)
    begun = cli_json(*words, "--limit-steps", "1")
    assert begun["finished"] is False
    done = cli_json("train", "--resume", "--out", "run")
    assert (done["finished"], done["steps"]) == (True, 4)


def test_learning_by_heart_measures_what_it_learns(cli_json, tiles) -> None:
    words = ("train", "--dataset", "folder", "--data", tiles, "--out", "run", *TINY)
    cli_json(*words, "--overfit", "2", "--limit-steps", "1")
    recipe = yaml.safe_load(Path("run/recipe.yaml").read_text())
    assert recipe["data"]["limit"] == recipe["data"]["val_limit"] == 2
    assert recipe["data"]["val_split"] == "train"
    assert (recipe["augment"]["flip"], recipe["augment"]["scale"]) == (0, [1, 1])


def test_a_frozen_encoder_from_another_run(cli_json, tiles) -> None:
    words = ("train", "--dataset", "folder", "--data", tiles, *TINY)
    first = cli_json(*words, "--out", "first", "--limit-steps", "1")
    again = (*words, "--out", "second", "--limit-steps", "1", "--freeze", "encoder")
    second = cli_json(*again, "--encoder-weights", first["last"])
    (a, _), (b, _) = (load_checkpoint(run["last"]) for run in (first, second))
    for name, tensor in a.state_dict().items():
        same = torch.equal(tensor, b.state_dict()[name])
        assert same or not name.startswith("encoder"), name


def test_the_debugger_opens_where_training_fails(cli, tiles, monkeypatch) -> None:
    opened = []
    monkeypatch.setattr("pdb.post_mortem", lambda: opened.append(sys.exc_info()[0]))
    words = (
        "train",
        "--dataset",
        "folder",
        "--data",
        tiles,
        *TINY,
        "--init",
        "nothing.safetensors",
    )
    assert cli(*words).exit_code == 1 and not opened
    assert cli(*words, "--pdb").exit_code == 1
    assert opened == [CheckpointError]


def test_a_budget_is_not_for_resumed_runs(cli) -> None:
    result = cli("train", "--resume", "--out", "run", "--dataset", "demo", "--budget", "5min")
    assert result.exit_code == 2 and "keeps the schedule" in result.output


def test_training_in_words(cli, tiles) -> None:
    words = ("train", "--dataset", "folder", "--data", tiles, *TINY)
    result = cli(*words, "--set", "loop.limit_steps=1")
    assert result.exit_code == 0, result.output
    assert "runs/folder-rsm_ss_nano" in result.stdout
    assert "--resume" in result.stdout


def test_training_needs_a_dataset(cli) -> None:
    assert cli("train").exit_code == 2


def test_a_missing_dataset_says_where_it_comes_from(refuses) -> None:
    message = refuses("train", "--dataset", "whu", "--data", "nowhere", "--out", "run")
    assert "nowhere" in message
    assert "gpcv.whu.edu.cn" in message
    assert not Path("run").exists()


def test_an_unknown_setting_is_refused(refuses) -> None:
    message = refuses("train", "--dataset", "demo", "--set", "optimiser.lrr=1")
    assert "optimiser.lr" in message


def test_an_unknown_recipe_is_refused(refuses) -> None:
    assert "nothing" in refuses("train", "--dataset", "demo", "--recipe", "nothing")


def test_a_run_does_not_overwrite_another(refuses, tiles) -> None:
    Path("run").mkdir()
    Path("run/precious").write_text("")
    refuses("train", "--dataset", "folder", "--data", tiles, "--out", "run", *TINY)
    assert [p.name for p in Path("run").iterdir()] == ["precious"]


def test_eval_of_two_maps(cli_json, masks) -> None:
    guess, truth = masks
    metrics = cli_json("eval", "--prediction", guess, "--truth", truth)["metrics"]
    assert metrics["precision"] == pytest.approx(0.8)
    assert metrics["recall"] == pytest.approx(0.8)
    assert metrics["iou"] == pytest.approx(40 / 60)


def test_eval_in_words(cli, masks) -> None:
    guess, truth = masks
    text = cli("eval", "--prediction", guess, "--truth", truth).stdout
    assert "0.8000" in text
    assert "0/255" in text


def test_eval_of_several_classes_in_words(cli, scene_factory) -> None:
    values = np.arange(100, dtype=np.uint8).reshape(1, 10, 10) % 3
    mask = scene_factory(values=values)
    result = cli("eval", "--prediction", mask, "--truth", mask)
    assert result.exit_code == 0, result.output
    assert "class 2" in result.stdout


@pytest.mark.parametrize(("limit", "status"), [("f1=0.79", 0), ("f1=0.81", 4)])
def test_fail_under(cli, masks, limit, status) -> None:
    guess, truth = masks
    result = cli("eval", "--prediction", guess, "--truth", truth, "--fail-under", limit)
    assert result.exit_code == status


def test_fail_under_still_prints_the_result(cli, masks) -> None:
    guess, truth = masks
    words = ("eval", "--prediction", guess, "--truth", truth, "--fail-under", "iou=0.99")
    result = cli(*words, "--json")
    assert json.loads(result.stdout)["pixels"] == 100
    assert "wanted 0.99" in result.stderr


def test_an_undefined_metric_is_below_every_limit(cli, scene_factory) -> None:
    empty = scene_factory(values=np.zeros((1, 4, 4), np.uint8))
    words = ("eval", "--prediction", empty, "--truth", empty, "--fail-under", "f1=0")
    assert cli(*words).exit_code == 4


def test_an_unknown_metric_is_refused(refuses, masks) -> None:
    guess, truth = masks
    words = ("eval", "--prediction", guess, "--truth", truth, "--fail-under", "f2=1")
    assert "f1" in refuses(*words)


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("model.safetensors",),
        ("--prediction", "a.tif"),
        ("model.safetensors", "--dataset", "whu", "--prediction", "a.tif", "--truth", "b.tif"),
        ("model.safetensors", "--dataset", "whu", "--fail-under", "f1"),
    ],
)
def test_usage_errors(cli, words) -> None:
    assert cli("eval", *words).exit_code == 2


def test_limits() -> None:
    assert parse_limit("f1/road=0.5") == ("f1/road", 0.5)
