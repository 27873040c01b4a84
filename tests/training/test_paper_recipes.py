"""Every recipe: three steps with a small model, and the parameter groups of the real one."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from miniatures import change_folder, write_image

from rsmamba_cli.training import TrainConfig, list_recipes, load_recipe, train
from rsmamba_cli.training.optimiser import parameter_groups
from rsmamba_models import create_model

SMALL = {
    "rsm_ss": "rsm_ss_nano",
    "rsm_cd": "rsm_cd_nano",
    "samba": "samba_upernet_nano",
    "seglstm": "seglstm_upernet_nano",
    "segman": "segman_nano",
    "mamba_diffusion": "mamba_diffusion_nano",
}
"""Start of a model's name -> the family's size for laptops."""


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Task -> a folder dataset of 64 x 64 in 8 bits: two classes, the optical ones in colour."""
    roots = {task: tmp_path_factory.mktemp(task) for task in ("segmentation", "multimodal")}
    rng = np.random.default_rng(0)
    for split, number in (("train", 0), ("train", 1), ("val", 0)):
        label = np.repeat(np.repeat(rng.integers(0, 3, (4, 4)), 16, 0), 16, 1).astype(np.uint8)
        image = (rng.integers(0, 60, (3, 64, 64)) + 60 * label).astype(np.uint8)
        for root in roots.values():
            write_image(root / split / "image" / f"{number}.png", image)
            write_image(root / split / "label" / f"{number}.png", label)
        write_image(roots["multimodal"] / split / "sar" / f"{number}.png", image[:1])
    change = change_folder(tmp_path_factory.mktemp("change"), counts={"train": 2, "val": 1})
    return {**roots, "change": change}


def small_model(name: str | None) -> str:
    return next(small for start, small in SMALL.items() if (name or "rsm_ss").startswith(start))


@pytest.mark.parametrize("name", list_recipes())
def test_three_steps(name: str, tmp_path: Path, tiles: dict[str, Path]) -> None:
    recipe = load_recipe(name)
    model = small_model(recipe.model.name)
    task = {"rsm_cd_nano": "change", "mamba_diffusion_nano": "multimodal"}.get(
        model, "segmentation"
    )
    config = load_recipe(
        name,
        [
            "data.crop=64",
            "loop.epochs=none",
            "schedule.warmup_steps=2",
            "loop.device=cpu",
            "loop.precision=fp32",
        ],
        {
            "model.name": model,
            "data.dataset": "folder",
            "data.root": tiles[task],
            "data.task": task,
            "data.batch_size": 2,
            "data.tiles_per_batch": 2 if recipe.data.tiles_per_batch else 0,
            "loop.steps": 3,
            "loop.pictures": 0,
            "checkpoint.tile": 64,
        },
    )
    result = train(config, tmp_path / "run")
    assert result.finished and result.steps == 3 and result.best is not None
    written = yaml.safe_load((tmp_path / "run/recipe.yaml").read_text())
    assert written["optimiser"]["lr"] == recipe.optimiser.lr
    assert written["name"] == name


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("samba-loveda", 80),
        ("samba-isprs", 0),
        ("seglstm-loveda", 49),
        ("segman-ade20k", None),
        ("mamba-diffusion-hunan", 508),
        ("rsmamba-official", 0),
    ],
)
def test_what_does_not_decay_is_what_the_official_code_spares(name: str, count: int | None) -> None:
    recipe = load_recipe(name)
    assert recipe.model.name is not None
    with torch.device("meta"):
        model = create_model(recipe.model.name, num_classes=7)
    groups = parameter_groups(model, recipe.optimiser)
    spared = {id(p) for g in groups if not g["weight_decay"] for p in g["params"]}
    if count is None:  # the weights and biases of all layer norms of the encoder
        norms = [m for m in model.encoder.modules() if type(m).__name__.startswith("LayerNorm")]
        assert spared == {id(p) for m in norms for p in m.parameters()}
    else:
        assert len(spared) == count


def test_segman_s_decoder_learns_ten_times_as_fast() -> None:
    recipe = load_recipe("segman-ade20k")
    with torch.device("meta"):
        model = create_model("segman_tiny", num_classes=150)
    groups = parameter_groups(model, recipe.optimiser)
    factors = {id(p): g["lr_factor"] for g in groups for p in g["params"]}
    assert {factors[id(p)] for p in model.decoder.parameters()} == {10.0}
    assert {factors[id(p)] for p in model.encoder.parameters()} == {1.0}


def test_a_diffusion_model_resumes_bit_for_bit(tmp_path: Path, tiles: dict[str, Path]) -> None:
    def config(limit: str) -> TrainConfig:
        return load_recipe(
            "mamba-diffusion-hunan",
            [
                *("data.crop=32", "loop.epochs=none", "loop.device=cpu", "loop.steps=3"),
                *("data.dataset=folder", f"data.root={tiles['multimodal']}", "data.val_split=none"),
                *("model.name=mamba_diffusion_nano", "model.arguments.drop_path_rate=0.3"),
                *("data.batch_size=1", f"loop.limit_steps={limit}", "loop.validate_every_steps=9"),
            ],
        )

    train(config("none"), tmp_path / "whole")
    train(config("2"), tmp_path / "parts")
    train(config("none"), tmp_path / "parts", resume=True)
    whole, parts = (
        torch.load(tmp_path / name / "state.pt", weights_only=True)["model"]
        for name in ("whole", "parts")
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
