"""Pre-training of encoders on a generated folder of images."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from miniatures import write_image
from typer.testing import CliRunner

from rsmamba_cli.app import app
from rsmamba_cli.errors import CheckpointError, DatasetError, InputError
from rsmamba_cli.pretraining import PretrainConfig, evaluate_classifier, pretrain
from rsmamba_cli.pretraining.config import ImageChangePart
from rsmamba_cli.pretraining.objective import mix_batch
from rsmamba_cli.training import list_recipes, load_recipe, train
from rsmamba_models import load_checkpoint, read_meta

ROOT = Path(__file__).parents[2]
SMALL = "{dims: [8, 16, 32, 64], depths: [1, 1, 1, 1], ssm_d_state: 2}"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, dark and bright, of different sizes."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 4)):
        for name, low in (("bright", 150), ("dark", 10)):
            for i in range(count):
                array = rng.integers(low, low + 80, (3, 40 + i, 48)).astype(np.uint8)
                write_image(root / split / name / f"{i}.png", array)
    return root


FIXED = (
    *("data.crop=32", "data.batch_size=4", "optimiser.accumulate=1", "schedule.warmup_steps=2"),
    *("loop.epochs=none", "loop.validate_every_epochs=none", "loop.device=cpu"),
    *("loop.log_every=1", f"model.arguments={{encoder_arguments: {SMALL}}}"),
)


def config_for(root: Path, *settings: str, recipe: str | None = None, **values) -> PretrainConfig:
    chosen = {"data.root": root, "model.name": "rs_mamba_nano", "loop.steps": 3, **values}
    return load_recipe(recipe, [*FIXED, *settings], chosen, kind=PretrainConfig)


def settings(*lines: str) -> list[str]:
    return [word for line in lines for word in ("--set", line)]


def run_program(*words: object) -> dict:
    """Run ``rsmamba`` in processes of its own; returns the JSON it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "rsmamba_cli", *map(str, words), "--json", "--quiet"],
        env={
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'models'}",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("recipe", list_recipes(PretrainConfig))
def test_three_steps(recipe: str, images: Path, tmp_path: Path) -> None:
    result = pretrain(config_for(images, recipe=recipe), tmp_path / "run")
    assert result.monitor == "top1" and 0 <= result.best_metrics["top1"] <= 1
    meta = read_meta(result.last)
    assert meta.task == "classification" and [c.name for c in meta.classes] == ["bright", "dark"]


def test_classes_are_learnt(images: Path, tmp_path: Path) -> None:
    config = config_for(
        images, "augment.rand_augment=0", "augment.mixup=0", "augment.cutmix=0",
        "optimiser.lr=3e-3", "optimiser.ema=none", **{"loop.steps": 25},
    )  # fmt: skip
    assert pretrain(config, tmp_path / "run").last_metrics["top1"] == 1


def test_a_resumed_run_equals_one_in_one_piece(images: Path, tmp_path: Path) -> None:
    pretrain(config_for(images), tmp_path / "whole")
    pretrain(config_for(images, "loop.limit_steps=2"), tmp_path / "parts")
    pretrain(config_for(images), tmp_path / "parts", resume=True)
    first, second = (
        torch.load(tmp_path / name / "state.pt", weights_only=True)["model"]
        for name in ("whole", "parts")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_two_processes_take_the_course_of_one_with_twice_the_batch(
    images: Path, tmp_path: Path
) -> None:
    same = ("augment.rand_augment=0", "augment.mixup=0", "augment.cutmix=0", "optimiser.ema=none")
    smooth = (*same, "optimiser.kind=sgd", "optimiser.lr=0.02", "data.workers=0")
    alone = pretrain(config_for(images, *smooth, "data.batch_size=4"), tmp_path / "alone")
    done = run_program(
        "pretrain", "--data", images, "--out", tmp_path / "pair", "--devices", "2",
        *settings(*FIXED, *smooth, "data.batch_size=2", "loop.steps=3"),
        "--model", "rs_mamba_nano",
    )  # fmt: skip
    assert done["last_metrics"]["nll"] == pytest.approx(alone.last_metrics["nll"], rel=1e-3)
    first, second = (
        torch.load(tmp_path / run / "state.pt", weights_only=True)["model"]
        for run in ("alone", "pair")
    )
    for name, tensor in first.items():
        assert torch.allclose(tensor, second[name], rtol=1e-4, atol=1e-5), name
    page = (tmp_path / "pair/report.html").read_text()
    assert "Finished: 3 steps" in page and "rs_mamba_nano on images" in page


def test_a_classifier_is_measured_as_its_training_did(images: Path, tmp_path: Path) -> None:
    result = pretrain(config_for(images, "data.batch_size=3"), tmp_path / "run")
    found = evaluate_classifier(result.last, images, PretrainConfig())
    assert found["images"] == 8
    measured = result.last_metrics
    assert found["top1"] == measured["top1"]
    assert found["nll"] == pytest.approx(measured["nll"], rel=1e-5)
    words = ["pretrain", "--data", images, "--evaluate", result.last, "--json"]
    done = CliRunner().invoke(app, [str(w) for w in words])
    assert done.exit_code == 0 and json.loads(done.stdout)["top1"] == found["top1"]


def test_classes_of_other_names_are_matched_in_their_order(images: Path, tmp_path: Path) -> None:
    result = pretrain(config_for(images), tmp_path / "run")
    same = evaluate_classifier(result.last, images)
    shutil.copytree(images / "val/bright", tmp_path / "other/val/n01")
    shutil.copytree(images / "val/dark", tmp_path / "other/val/n02")
    said: list[object] = []
    assert evaluate_classifier(result.last, tmp_path / "other", on_event=said.append) == same
    assert any("order of their names" in getattr(event, "message", "") for event in said)
    shutil.copytree(images / "val/dark", tmp_path / "other/val/n03")
    with pytest.raises(DatasetError, match="holds the class n01"):
        evaluate_classifier(result.last, tmp_path / "other")


def test_what_is_no_classifier_is_not_measured_so(images: Path, checkpoint_factory) -> None:
    with pytest.raises(CheckpointError, match="`rsmamba eval` measures it"):
        evaluate_classifier(checkpoint_factory(), images)


def test_train_starts_from_the_encoder(images: Path, tmp_path: Path, tiny_config) -> None:
    encoder = pretrain(config_for(images), tmp_path / "encoder").last
    config = tiny_config(
        encoder_weights=str(encoder), optimiser={"freeze": ["encoder"]}, loop={"steps": 1}
    )
    model, _ = load_checkpoint(train(config, tmp_path / "run").last)
    source, _ = load_checkpoint(encoder)
    for name, tensor in source.encoder.state_dict().items():
        assert torch.equal(tensor, model.encoder.state_dict()[name]), name


@pytest.mark.parametrize("options", [{"mixup": 0}, {"cutmix": 0}], ids=["cutmix", "mixup"])
def test_the_share_is_what_is_left_of_an_image(options: dict) -> None:
    zeros_and_ones = torch.stack([torch.zeros(1, 20, 30), torch.ones(1, 20, 30)])
    for seed in range(20):
        rng = np.random.default_rng(seed)
        mixed, share = mix_batch(zeros_and_ones, rng, ImageChangePart(**options))
        assert float(mixed[1].mean()) == pytest.approx(share, abs=1e-5)


def test_what_is_wrong_is_said(images: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no encoder"):
        pretrain(config_for(images, **{"model.name": "upernet"}), tmp_path / "a")
    with pytest.raises(DatasetError, match="does not exist"):
        pretrain(config_for(images, "data.val_split=valid"), tmp_path / "b")
    with pytest.raises(InputError, match="did you mean"):
        config_for(images, "augment.mixupp=1")
