"""Recipes and overrides."""

from pathlib import Path

import pytest

from rsmamba_cli.errors import InputError
from rsmamba_cli.training import TrainConfig, list_recipes, load_recipe


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_that_comes_along_is_valid(name: str) -> None:
    assert load_recipe(name).name == name


def test_the_official_recipe_is_the_paper_s() -> None:
    config = load_recipe("rsmamba-official")
    assert config.model.name == "rsm_ss_tiny"
    assert (config.optimiser.lr, config.optimiser.weight_decay) == (1e-3, 1e-3)
    assert (config.schedule.warmup_steps, config.schedule.patience) == (1000, 12)
    assert (config.loop.epochs, config.data.tiles_per_batch, config.data.crop) == (300, 2, 256)


def test_overrides_take_the_type_of_their_setting() -> None:
    config = load_recipe(
        None,
        [
            "optimiser.lr=3e-4",
            "data.bands=[4, 3, 2]",
            "optimiser.clip_norm=none",
            "loop.time_budget=30min",
            "data.crops_per_tile=4",
            "model.arguments.drop_path_rate=0.2",
        ],
    )
    assert config.optimiser.lr == 3e-4
    assert config.data.bands == (4, 3, 2)
    assert config.optimiser.clip_norm is None
    assert config.loop.time_budget == 1800
    assert config.data.crops_per_tile == 4
    assert config.model.arguments == {"drop_path_rate": 0.2}


def test_overrides_win_over_values_and_values_over_the_recipe() -> None:
    values = {"seed": 7, "data.dataset": "whu", "data.root": None}
    config = load_recipe("demo-change", ["seed=9"], values)
    assert (config.seed, config.data.dataset, config.data.root) == (9, "whu", None)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.lr=1", r"no setting optimizer.*optimiser"),
        ("optimiser.learning_rate=1", r"no setting optimiser\.learning_rate"),
        ("lr=1", r"did you mean optimiser\.lr"),
        ("optimiser.lr=fast", r"optimiser\.lr: .*number"),
        ("data.crop=7", r"data\.crop: .*32"),
        ("data.crop.x=1", "crop is a setting, not a group"),
        ("optimiser.lr", "takes KEY=VALUE"),
        ("data.tiles_per_batch=2", "needs crop_mode: grid"),
        ("loop.time_budget=soon", "expected a duration"),
    ],
)
def test_a_wrong_override_is_explained(override: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_recipe("demo-change", [override])


def test_a_wrong_recipe_name_gets_the_nearest() -> None:
    with pytest.raises(InputError, match="Did you mean rsmamba-official"):
        load_recipe("rsmamba-oficial")


def test_a_recipe_written_out_reads_back_the_same(tmp_path: Path) -> None:
    config = load_recipe("rsmamba-official", ["data.bands=[1,2]", "loop.time_budget=90s"])
    path = tmp_path / "recipe.yaml"
    path.write_text(config.to_yaml())
    assert load_recipe(path) == config


def test_a_recipe_that_extends_another_changes_only_what_it_names() -> None:
    base, changed = load_recipe("samba-loveda"), load_recipe("samba-isprs")
    assert changed.name == "samba-isprs" and changed.data.dataset == "potsdam"
    assert changed.augment.base_size == (512, 512) and changed.optimiser.no_decay == ()
    assert changed.schedule == base.schedule and changed.loss == base.loss
    assert changed.augment.photometric == base.augment.photometric is not None


def test_a_file_may_extend_what_comes_along_but_not_itself(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: segman-cityscapes\nloop: {steps: 7}\n")
    config = load_recipe(mine)
    assert (config.name, config.loop.steps, config.data.crop) == ("mine", 7, 1024)
    assert config.optimiser.lr_factors == {"decoder": 10.0}
    mine.write_text(f"extends: {mine}\n")
    with pytest.raises(InputError, match="extends itself"):
        load_recipe(mine)


def test_the_hash_leaves_out_what_changes_no_result() -> None:
    plain = TrainConfig().sha256()
    assert load_recipe(None, ["name=x"]).sha256() != plain
    same = TrainConfig.model_validate({"data": {"workers": 3}, "loop": {"pictures": 0}})
    assert same.sha256() == plain
    assert TrainConfig.model_validate({"seed": 1}).sha256() != plain
