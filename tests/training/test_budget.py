"""Fitting a training into a given time."""

import pytest

from rsmamba_cli.errors import InputError
from rsmamba_cli.events import Finished
from rsmamba_cli.training import budget
from rsmamba_cli.training.budget import Speed, scale_to_budget, scheduled
from rsmamba_cli.training.durations import seconds_of


def fake_speeds(monkeypatch: pytest.MonkeyPatch, steps: dict[str, float]) -> list[str]:
    """Let models take so many seconds a step; returns what is measured."""
    measured = []

    def measure(config, seconds: float) -> Speed:
        name = config.model.name or "rsm_ss_nano"
        measured.append(name)
        pixels = config.data.batch_size * config.data.crop**2 / (8 * 256**2)
        step = steps[name] * pixels
        return Speed(step, validation=2.0, steps_per_epoch=50, task="segmentation")

    monkeypatch.setattr(budget, "measure", measure)
    return measured


@pytest.fixture
def unnamed(tiny_config):
    """A recipe that leaves the model open."""
    return tiny_config(
        model={"name": None, "arguments": {}},
        data={"batch_size": 8, "crop": 256},
        schedule={"warmup_steps": 100},
    )


@pytest.mark.parametrize(
    ("speeds", "chosen", "measured"),
    [
        ({"rsm_ss_nano": 0.9}, None, 1),
        ({"rsm_ss_nano": 0.1, "rsm_ss_tiny": 30.0}, None, 2),
        ({"rsm_ss_nano": 0.1, "rsm_ss_tiny": 1.0}, "rsm_ss_tiny", 2),
        (
            {"rsm_ss_nano": 0.01, "rsm_ss_tiny": 0.1, "rsm_ss_small": 0.5},
            "rsm_ss_small",
            3,
        ),
    ],
)
def test_the_largest_model_that_can_do_its_steps_is_chosen(
    unnamed, monkeypatch: pytest.MonkeyPatch, speeds: dict, chosen: str | None, measured: int
) -> None:
    names = fake_speeds(monkeypatch, speeds)
    config = scale_to_budget(unnamed, 1800)
    assert config.model.name == chosen and len(names) == measured
    step = speeds[chosen or "rsm_ss_nano"]
    assert config.loop.steps * step == pytest.approx(1800 * 0.95, rel=0.05)
    assert (config.data.batch_size, config.data.crop) == (8, 256)


def test_too_slow_a_machine_gets_smaller_batches_then_smaller_crops(
    unnamed, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_speeds(monkeypatch, {"rsm_ss_nano": 20.0})
    config = scale_to_budget(unnamed, 1800)
    assert (config.data.batch_size, config.data.crop) == (2, 128)
    assert config.loop.steps > 1000


def test_a_named_model_is_kept(tiny_config, monkeypatch: pytest.MonkeyPatch) -> None:
    names = fake_speeds(monkeypatch, {"rsm_ss_nano": 0.001})
    assert scale_to_budget(tiny_config(), 1800).model.name == "rsm_ss_nano"
    assert names == ["rsm_ss_nano"]


def test_validations_never_take_much_of_the_time(tiny_config) -> None:
    config = scheduled(tiny_config(), Speed(0.1, 60.0, 50, "segmentation"), 1000)
    validations = config.loop.steps / config.loop.validate_every_steps
    assert validations * 60 <= 0.16 * 1000
    assert config.loop.steps * 0.1 <= 0.86 * 1000
    assert config.loop.time_budget == 1000 and config.loop.epochs is None


def test_a_real_trial_gives_a_schedule_for_the_time(tiny_config) -> None:
    told: list[str] = []
    config = scale_to_budget(
        tiny_config(),
        20,
        lambda e: told.append(e.summary) if isinstance(e, Finished) else None,
    )
    assert config.loop.steps > 20 and config.loop.time_budget < 20
    assert len(told) == 1 and "rsm_ss_nano" in told[0]


def test_budgets_that_make_no_sense_are_refused(tiny_config) -> None:
    with pytest.raises(InputError, match="too short"):
        scale_to_budget(tiny_config(), 3)
    with pytest.raises(InputError, match="one device"):
        scale_to_budget(tiny_config(loop={"devices": 2}), 600)
    with pytest.raises(InputError, match="soon: expected a duration"):
        seconds_of("soon")
    assert seconds_of("1.5h") == 5400
