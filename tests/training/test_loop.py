"""Training runs from beginning to end, on tiny models and tiles."""

import csv
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from rsmamba_cli.assets import demo_checkpoint
from rsmamba_cli.errors import (
    CheckpointError,
    DatasetError,
    DeviceError,
    InputError,
    Interrupted,
    OutputError,
    ResumeError,
    RsmambaError,
)
from rsmamba_cli.events import Progress, Warned
from rsmamba_cli.training import TrainConfig, load_recipe, train
from rsmamba_cli.training.stepper import Stepper
from rsmamba_models import load_checkpoint, read_meta


def states_equal(a: Path, b: Path) -> bool:
    first, second = (torch.load(p / "state.pt", weights_only=True)["model"] for p in (a, b))
    return all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_leaves_all_it_promises(tmp_path: Path, tiny_config) -> None:
    out = tmp_path / "run"
    result = train(tiny_config(loop={"steps": 3, "validate_every_steps": 2}), out)
    names = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert names == {
        "best.safetensors",
        "last.safetensors",
        "state.pt",
        "recipe.yaml",
        "log.csv",
        "log.jsonl",
        "report.html",
        "pictures/step_0000002.png",
        "pictures/step_0000003.png",
    }
    assert result.finished and 0 <= result.last_metrics["oa"] <= 1


def test_the_log_has_a_line_a_step_and_a_validation(tmp_path: Path, tiny_config) -> None:
    train(tiny_config(loop={"epochs": 2}), tmp_path / "run")
    with (tmp_path / "run/log.csv").open() as file:
        rows = list(csv.DictReader(file))
    steps = [row for row in rows if row["loss"]]
    assert len(steps) == len({row["step"] for row in steps})
    assert float(steps[0]["lr"]) < float(steps[1]["lr"])
    lines = [json.loads(x) for x in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if "val_f1" in line] == [1, 2]


def test_the_checkpoint_says_what_it_was_trained_on(tmp_path: Path, tiny_config) -> None:
    config = tiny_config(loop={"steps": 1}, checkpoint={"gsd": 0.5})
    meta = read_meta(train(config, tmp_path / "run").last)
    assert meta.inputs[0].bands == ("red", "green", "blue") and meta.inputs[0].dtype == "uint8"
    assert meta.inputs[0].transform.mean == (0.485, 0.456, 0.406)
    assert [(c.value, c.name) for c in meta.classes] == [(0, "background"), (1, "foreground")]
    assert (meta.gsd, meta.tile, meta.output) == (0.5, 32, "sigmoid")
    assert meta.training["recipe_sha256"] == config.sha256()
    assert meta.training["step"] == 1 and "val_oa" in meta.metrics


def test_the_recipe_beside_the_checkpoint_is_complete(tmp_path: Path, tiny_config) -> None:
    config = tiny_config(loop={"steps": 1})
    train(config, tmp_path / "run")
    assert load_recipe(tmp_path / "run/recipe.yaml") == config


EVERYTHING = {
    "augment": {
        "scale": [0.5, 1.5],
        "max_class_share": 0.75,
        "photometric": {},
        "mix": "classmix",
        "brightness": 0.3,
        "noise": 0.1,
    },
    "model": {
        "arguments": {"depths": [1, 1, 1, 1], "drop_path_rate": 0.3},
        "gradient_checkpointing": True,
    },
    "loss": {"lovasz": 0.5, "focal": 0.5, "ohem_threshold": 0.9, "class_weights": "auto"},
    "optimiser": {
        "kind": "sgd",
        "ema": 0.9,
        "layer_decay": 0.8,
        "lr_factors": {"head": 2.0},
        "freeze": ["encoder.patch_embed"],
    },
}


@pytest.mark.parametrize(
    "extra", [{}, {"optimiser": {"ema": 0.9, "accumulate": 2}}, EVERYTHING], ids=["", "ema", "all"]
)
def test_a_resumed_run_equals_one_in_one_piece_bit_for_bit(
    tmp_path: Path, tiny_config, extra: dict
) -> None:
    noisy = {
        "model": {"arguments": {"depths": [1, 1, 1, 1], "drop_path_rate": 0.3}},
        "augment": {"brightness": 0.3, "noise": 0.1},
        "schedule": {"course": "plateau", "patience": 1},
        **extra,
    }
    loop = {"epochs": None, "steps": 5, "validate_every_steps": 2, "log_every": 2}
    train(tiny_config(loop=loop, **noisy), tmp_path / "whole")
    stopped = train(tiny_config(loop={**loop, "limit_steps": 3}, **noisy), tmp_path / "parts")
    assert not stopped.finished and stopped.steps == 3
    resumed = train(tiny_config(loop=loop, **noisy), tmp_path / "parts", resume=True)
    assert resumed.finished and resumed.steps == 5
    assert states_equal(tmp_path / "whole", tmp_path / "parts")

    def figures(out: Path) -> list[dict]:
        lines = map(json.loads, (out / "log.jsonl").read_text().splitlines())
        return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]

    assert figures(tmp_path / "whole") == figures(tmp_path / "parts")


def test_workers_make_no_difference(tmp_path: Path, tiny_config) -> None:
    for workers in (0, 2):
        config = tiny_config(data={"workers": workers}, loop={"steps": 2})
        train(config, tmp_path / str(workers))
    assert states_equal(tmp_path / "0", tmp_path / "2")


def test_resuming_a_finished_run_is_success(tmp_path: Path, tiny_config) -> None:
    config = tiny_config(loop={"steps": 2})
    first = train(config, tmp_path / "run")
    again = train(config, tmp_path / "run", resume=True)
    assert again.steps == 2 and again.best_metrics == first.best_metrics and again.finished


def test_resuming_with_other_settings_is_refused_by_name(tmp_path: Path, tiny_config) -> None:
    train(tiny_config(loop={"steps": 1}), tmp_path / "run")
    with pytest.raises(ResumeError, match=r"optimiser\.lr was 0\.001, is now 0\.5"):
        train(tiny_config(loop={"steps": 1}, optimiser={"lr": 0.5}), tmp_path / "run", resume=True)


def test_resuming_nothing_is_refused(tmp_path: Path, tiny_config) -> None:
    with pytest.raises(ResumeError, match="no run to resume"):
        train(tiny_config(), tmp_path / "run", resume=True)


def test_a_used_folder_is_never_overwritten(tmp_path: Path, tiny_config) -> None:
    train(tiny_config(loop={"steps": 1}), tmp_path / "run")
    with pytest.raises(OutputError, match="go on with --resume"):
        train(tiny_config(loop={"steps": 1}), tmp_path / "run")


def test_two_tiles_can_be_learnt_by_heart(tmp_path: Path, tiny_config) -> None:
    config = tiny_config(
        model={"arguments": {}},
        data={"crop": 64, "limit": 2, "val_split": "train"},
        augment={"flip": 0, "transpose": 0},
        optimiser={"lr": 5e-3},
        loop={"epochs": None, "steps": 40, "validate_every_epochs": None},
    )
    train(config, tmp_path / "run")
    lines = map(json.loads, (tmp_path / "run/log.jsonl").read_text().splitlines())
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < 0.3 * losses[0]


def test_change_is_learnt_from_two_dates(tmp_path: Path, tiny_config, changes: Path) -> None:
    config = tiny_config(
        model={"name": "rsm_cd_nano"}, data={"root": str(changes)}, loop={"steps": 1}
    )
    meta = read_meta(train(config, tmp_path / "run").last)
    assert meta.task == "change" and [i.name for i in meta.inputs] == ["t1", "t2"]


def test_many_classes_bands_and_16_bits(tmp_path: Path, tiny_config, landcover: Path) -> None:
    config = tiny_config(data={"root": str(landcover)}, loop={"steps": 2})
    result = train(config, tmp_path / "run")
    model, meta = load_checkpoint(result.last)
    assert model.num_classes == 3 and len(meta.inputs[0].bands) == 5
    assert meta.output == "softmax" and meta.inputs[0].dtype == "uint16"
    assert 500 < meta.inputs[0].transform.mean[0] < 3500
    assert result.monitor == "miou" and "iou/class 2" in result.last_metrics


def test_generated_scenes_can_be_learnt(tmp_path: Path, tiny_config) -> None:
    demo = {"scenes": 2, "held_out": 1, "size": 48}
    config = tiny_config(data={"dataset": "demo", "root": None, "demo": demo}, loop={"steps": 1})
    assert train(config, tmp_path / "run").last.is_file()


def test_batches_of_whole_tiles_hold_all_their_crops(tmp_path: Path, tiny_config) -> None:
    config = tiny_config(
        data={"crop_mode": "grid", "tiles_per_batch": 2}, loop={"epochs": 2, "steps": None}
    )
    assert train(config, tmp_path / "run").steps == 4


def test_training_without_validation_has_no_best(tmp_path: Path, tiny_config) -> None:
    result = train(tiny_config(data={"val_split": None}, loop={"steps": 2}), tmp_path / "run")
    assert result.best is None and result.last.is_file()


def test_a_missing_validation_split_is_explained(tmp_path: Path, tiny_config, landcover) -> None:
    config = tiny_config(data={"root": str(landcover), "val_split": "test"})
    with pytest.raises(DatasetError, match="no split test to validate on, only train, val"):
        train(config, tmp_path / "run")


def test_model_and_dataset_must_have_one_task(tmp_path: Path, tiny_config) -> None:
    config = tiny_config(model={"name": "rsm_cd_nano"})
    with pytest.raises(DatasetError, match=r"t1,t2,label"):
        train(config, tmp_path / "run")
    config = tiny_config(model={"name": "rsm_cd_nano"}, data={"task": "segmentation"})
    with pytest.raises(InputError, match="rsm_cd_nano is a model for change"):
        train(config, tmp_path / "other")


def test_an_unknown_model_gets_the_nearest(tmp_path: Path, tiny_config) -> None:
    with pytest.raises(InputError, match="rsm_ss_nano"):
        train(tiny_config(model={"name": "rsm_ss_nanno"}), tmp_path / "run")


def test_training_ends_early_without_progress_and_stays_ended(tmp_path: Path, tiny_config) -> None:
    config = tiny_config(
        optimiser={"lr": 1e-12},
        loop={"epochs": 50, "validate_every_epochs": 1, "patience": 2},
    )
    result = train(config, tmp_path / "run")
    assert result.finished and result.epochs == 3
    assert train(config, tmp_path / "run", resume=True).epochs == 3


def test_frozen_weights_and_statistics_stay_and_the_rest_learns(
    tmp_path: Path, tiny_config
) -> None:
    # The same seed draws the same first weights; a vanishing rate shows them.
    still = tiny_config(optimiser={"lr": 1e-12, "weight_decay": 0}, loop={"steps": 1})
    train(still, tmp_path / "start")
    frozen = tiny_config(optimiser={"freeze": ["encoder", "decoder.blocks.0"]}, loop={"steps": 2})
    train(frozen, tmp_path / "run")
    first, after = (
        torch.load(tmp_path / name / "state.pt", weights_only=True)["model"]
        for name in ("start", "run")
    )
    for name, tensor in after.items():
        if name.startswith("encoder") or "num_batches_tracked" in name:
            continue
        if not name.startswith("decoder.blocks.0"):
            assert not torch.allclose(tensor, first[name], atol=1e-8), name
    kept = [name for name in after if name.startswith("encoder")]
    assert all(torch.allclose(after[name], first[name], atol=1e-9) for name in kept)
    norms = {n: int(t) for n, t in after.items() if n.endswith("num_batches_tracked")}
    assert all(n == (0 if "blocks.0" in name else 2) for name, n in norms.items())


def test_tensorboard_gets_what_the_log_gets(tmp_path: Path, tiny_config) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tiny_config(loop={"steps": 2, "loggers": ["tensorboard"]}), tmp_path / "run")
    (file,) = (tmp_path / "run/tensorboard").rglob("events.out.*")
    events = EventAccumulator(str(file)).Reload()
    lines = map(json.loads, (tmp_path / "run/log.jsonl").read_text().splitlines())
    losses = [line["loss"] for line in lines if "loss" in line]
    assert [e.value for e in events.Scalars("loss")] == pytest.approx(losses, rel=1e-6)
    assert "val_f1" in events.Tags()["scalars"]


def test_a_logger_that_is_not_there_is_named(tmp_path: Path, tiny_config) -> None:
    with pytest.raises(InputError, match=r"wandb is not there.*Install"):
        train(tiny_config(loop={"loggers": ["wandb"]}), tmp_path / "run")


def test_another_number_of_class_weights_than_classes_is_refused(
    tmp_path: Path, tiny_config, landcover: Path
) -> None:
    config = tiny_config(
        data={"root": str(landcover)}, loss={"class_weights": [1.0, 2.0]}, loop={"steps": 1}
    )
    with pytest.raises(InputError, match="2 numbers, but folder has 3 classes"):
        train(config, tmp_path / "run")


def test_memory_that_is_too_small_comes_with_advice(
    tmp_path: Path, tiny_config, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 B")

    monkeypatch.setattr(Stepper, "advance", full)
    with pytest.raises(DeviceError, match=r"too small.*data\.batch_size"):
        train(tiny_config(), tmp_path / "run")


def test_the_time_budget_ends_a_run(tmp_path: Path, tiny_config) -> None:
    loop = {"epochs": None, "time_budget": 1.0, "validate_every_epochs": None}
    result = train(tiny_config(loop=loop), tmp_path / "run")
    assert result.finished and result.seconds < 20
    lines = [json.loads(x) for x in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert [line for line in lines if "lr" in line][-1]["lr"] < 1e-3


def test_a_signal_saves_the_state_and_the_run_goes_on(tmp_path: Path, tiny_config) -> None:
    config = tiny_config(loop={"epochs": None, "steps": 4, "validate_every_epochs": None})

    sent: list[int] = []

    def interrupt(event) -> None:
        if isinstance(event, Progress) and event.stage == "train" and not sent:
            sent.append(signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="--resume"):
        train(config, tmp_path / "run", on_event=interrupt)
    assert torch.load(tmp_path / "run/state.pt", weights_only=True)["step"] == 2
    assert train(config, tmp_path / "run", resume=True).steps == 4
    train(config, tmp_path / "whole")
    assert states_equal(tmp_path / "run", tmp_path / "whole")


def test_a_loss_that_is_not_finite_stops_and_saves_the_batch(
    tmp_path: Path, tiny_config, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(loop={"steps": 3})
    original = Stepper.advance

    def poisoned(self: Stepper, *arguments) -> dict[str, float]:
        if self.step == 1:
            with torch.no_grad():
                next(self.raw.parameters()).fill_(float("nan"))
        return original(self, *arguments)

    monkeypatch.setattr(Stepper, "advance", poisoned)
    with pytest.raises(RsmambaError, match=r"step 1: the loss is nan.*nonfinite_batch\.pt"):
        train(config, tmp_path / "run")
    batch = torch.load(tmp_path / "run/nonfinite_batch.pt", weights_only=True)
    assert batch["images"][0].shape == (2, 3, 32, 32) and len(batch["stems"]) == 2


def test_clipping_bounds_the_update_but_not_the_recorded_norm(tmp_path: Path, tiny_config) -> None:
    def first_norms(clip: float | None) -> list[float]:
        out = tmp_path / str(clip)
        train(tiny_config(optimiser={"clip_norm": clip}, loop={"steps": 1}), out)
        lines = map(json.loads, (out / "log.jsonl").read_text().splitlines())
        return [line["grad_norm"] for line in lines if "grad_norm" in line]

    assert first_norms(1e-3) == first_norms(None)
    assert not states_equal(tmp_path / "0.001", tmp_path / "None")


def test_init_takes_the_weights_and_the_normalisation(
    tmp_path: Path, tiny_config, buildings: Path
) -> None:
    config = tiny_config(data={"normalise": "statistics"}, loop={"steps": 1})
    first = train(config, tmp_path / "first")
    tuned = tiny_config(
        init=str(first.last),
        model={"name": None, "arguments": {}},
        optimiser={"lr": 1e-12, "weight_decay": 0},
        loop={"steps": 1},
    )
    second = train(tuned, tmp_path / "second")
    (a, meta_a), (b, meta_b) = load_checkpoint(first.last), load_checkpoint(second.last)
    assert meta_a.inputs[0].transform == meta_b.inputs[0].transform
    weights = dict(b.named_parameters())
    assert all(torch.allclose(p, weights[n], atol=1e-6) for n, p in a.named_parameters())


@pytest.mark.parametrize("task", ["segmentation", "change"])
def test_init_demo_is_the_embedded_checkpoint_of_the_task(
    task: str, tmp_path: Path, tiny_config, buildings: Path, changes: Path
) -> None:
    config = tiny_config(
        init="demo",
        model={"name": None, "arguments": {}},
        data={"root": str({"segmentation": buildings, "change": changes}[task])},
        optimiser={"lr": 1e-12, "weight_decay": 0},
        loop={"steps": 1},
    )
    begun, embedded = (
        load_checkpoint(path)[0]
        for path in (train(config, tmp_path / "run").last, demo_checkpoint(task))
    )
    weights = dict(embedded.named_parameters())
    assert all(torch.allclose(p, weights[n], atol=1e-6) for n, p in begun.named_parameters())


@pytest.mark.parametrize(("steps", "warned"), [(39, True), (40, False)])
def test_a_training_that_is_mostly_warm_up_is_warned_of(
    steps: int, warned: bool, tmp_path: Path, tiny_config
) -> None:
    said: list[str] = []
    train(
        tiny_config(
            schedule={"warmup_steps": 10}, loop={"epochs": 99, "steps": steps, "limit_steps": 1}
        ),
        tmp_path / "run",
        on_event=lambda e: said.append(e.message) if isinstance(e, Warned) else None,
    )
    assert any("small-data" in line for line in said) is warned


def test_a_run_goes_on_without_what_it_was_initialised_from(tmp_path: Path, tiny_config) -> None:
    first = train(tiny_config(loop={"steps": 1}), tmp_path / "first")

    def tuned(**loop: int) -> TrainConfig:
        return tiny_config(init=str(first.last), loop={"steps": 2, **loop})

    train(tuned(), tmp_path / "whole")
    train(tuned(limit_steps=1), tmp_path / "parts")
    first.last.unlink()
    train(tuned(), tmp_path / "parts", resume=True)
    assert states_equal(tmp_path / "whole", tmp_path / "parts")


def test_init_with_other_bands_and_classes_adapts_and_says_so(
    tmp_path: Path, tiny_config, landcover: Path
) -> None:
    first = train(tiny_config(loop={"steps": 1}), tmp_path / "first")
    said: list[str] = []
    config = tiny_config(
        init=str(first.last),
        model={"name": None, "arguments": {}},
        data={"root": str(landcover)},
        loop={"steps": 1},
    )
    train(
        config,
        tmp_path / "second",
        on_event=lambda e: said.append(e.message) if isinstance(e, Warned) else None,
    )
    assert any("takes 3 bands, this model 5" in line for line in said)
    assert any("1 outputs, this model 3" in line for line in said)


def test_init_of_another_size_is_refused(tmp_path: Path, tiny_config) -> None:
    first = train(tiny_config(loop={"steps": 1}), tmp_path / "first")
    config = tiny_config(init=str(first.last), model={"arguments": {"dims": [4, 8, 16, 32]}})
    with pytest.raises(CheckpointError, match="another size"):
        train(config, tmp_path / "second")


def test_init_that_is_no_checkpoint_is_refused(tmp_path: Path, tiny_config) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match=r"x\.safetensors"):
        train(tiny_config(init=str(tmp_path / "x.safetensors")), tmp_path / "run")


def test_pictures_show_image_truth_prediction_and_errors(tmp_path: Path, tiny_config) -> None:
    train(tiny_config(loop={"steps": 1}), tmp_path / "run")
    with rasterio.open(tmp_path / "run/pictures/step_0000001.png") as picture:
        # Two rows of four panels of 64 pixels with gaps of 4.
        assert picture.shape == (2 * 64 + 4, 4 * 64 + 3 * 4)
        assert set(np.unique(picture.read()[:, :64, 68:132])) == {0, 255}
