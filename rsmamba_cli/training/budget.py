"""A training that fits into a given time on this machine: size, length and schedule."""

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rsmamba_cli.errors import InputError
from rsmamba_cli.events import EventHandler, Finished, ignore_events
from rsmamba_cli.training.assembly import assemble
from rsmamba_cli.training.data import make_loader, worker_count
from rsmamba_cli.training.devices import start_fabric
from rsmamba_cli.training.job import dense_job
from rsmamba_cli.training.recipe import TrainConfig
from rsmamba_cli.training.trainer import Trainer
from rsmamba_cli.training.validation import Validator

_SIZES = {
    "segmentation": ("rsm_ss_nano", "rsm_ss_tiny", "rsm_ss_small"),
    "change": ("rsm_cd_nano", "rsm_cd_tiny", "rsm_cd_small"),
}
"""Task -> models to choose from, small to large, where a recipe names none."""

_EPOCHS = 20
_FEWEST, _MOST = 300, 2000
"""Steps that a model needs to be worth choosing: so many epochs, within these limits."""

_LARGER = 8
"""A larger model is tried where the smaller one could do so many times the steps it needs."""

_SHARE_OF_VALIDATION = 0.15
_SHARE_OF_MEASURING = 0.03
_VALIDATIONS = 10
_TILES = 4


@dataclass(frozen=True)
class Speed:
    """What was measured of a recipe.

    Attributes:
        step: seconds of an optimiser step, reading included.
        validation: seconds of a validation.
        steps_per_epoch: optimiser steps.
        task: of the dataset.
    """

    step: float
    validation: float
    steps_per_epoch: float
    task: str

    @property
    def needed(self) -> int:
        """Steps that make a training worth it."""
        return int(min(max(_EPOCHS * self.steps_per_epoch, _FEWEST), _MOST))

    def steps(self, seconds: float) -> int:
        """Steps that fit into a time beside the validations."""
        training = seconds - min(_VALIDATIONS * self.validation, _SHARE_OF_VALIDATION * seconds)
        return max(1, int(0.95 * training / self.step))


def scale_to_budget(
    config: TrainConfig, seconds: float, on_event: EventHandler = ignore_events
) -> TrainConfig:
    """Change a recipe so that its training ends in time.

    Short trials on this machine tell how long a step and a validation take. Where the recipe names
    no model, it is the largest that can still do the steps it needs. If not even the smallest can,
    batches become smaller, then crops. The schedule spans the steps that fit.

    Args:
        config: for one device.
        seconds: from now to the end, trials included.
        on_event: told what was chosen.

    Raises:
        InputError: several devices, or less than ten seconds.
        RsmambaError: the training cannot start.
    """
    if config.loop.devices * config.loop.nodes > 1:
        raise InputError("--budget measures one device; set loop.steps for several.")
    if seconds < 10:
        raise InputError(f"--budget: {seconds:g} s are too short to train anything; give minutes.")
    started = time.monotonic()
    chosen, speed = config, measure(config, _SHARE_OF_MEASURING * seconds)
    if config.model.name is None and config.init is None:
        sizes = _SIZES.get(speed.task, ())
        for name in sizes[1:]:
            if speed.steps(seconds) < _LARGER * speed.needed:
                break
            larger = _with(config, "model", name=name)
            found = measure(larger, _SHARE_OF_MEASURING * seconds)
            if found.steps(seconds) < found.needed:
                break
            chosen, speed = larger, found
    smaller = _smaller(chosen, speed, seconds - (time.monotonic() - started))
    if smaller is not chosen:  # what a step costs beside its pixels shows now
        chosen, speed = smaller, measure(smaller, _SHARE_OF_MEASURING * seconds)
    chosen = scheduled(chosen, speed, seconds - (time.monotonic() - started))
    data = chosen.data
    on_event(
        Finished(
            "budget",
            f"{chosen.model.name or 'the default model'}, {chosen.loop.steps} steps of "
            f"{data.batch_size} x {data.crop} px at {speed.step:.2f} s",
        )
    )
    return chosen


def measure(config: TrainConfig, seconds: float) -> Speed:
    """Time a few steps and the validation of a few tiles.

    Args:
        config: the recipe.
        seconds: about how long to measure; one step after the first is timed in any case.
    """
    quiet = config.loop.model_copy(update={"pictures": 0, "loggers": ()})
    config = config.model_copy(update={"loop": quiet})
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        fabric, device, precision = start_fabric(config.loop, out)
        parts = assemble(config, ignore_events, config.init, config.encoder_weights)
        job = dense_job(config, parts, fabric, out, ignore_events)
        run = Trainer(config, out, job, fabric, (device, precision), ignore_events)
        gpu = device == "cuda"
        loader = iter(make_loader(run.stream, 0, worker_count(config.data.workers, gpu), gpu))
        run.stepper.advance(loader, 0.0, run.total)
        times: list[float] = []
        while not times or (len(times) < 5 and sum(times) < seconds):
            times.append(_seconds(lambda: run.stepper.advance(loader, 0.0, run.total)))
        validator = Validator(config, parts, fabric, out, ignore_events)
        tiles = 0 if validator.split is None else len(validator.split)
        tiles = min(tiles, config.data.val_limit or tiles)
        validator.limit = min(tiles, _TILES)
        validation = 0.0
        if tiles:
            trial = _seconds(lambda: validator.measure(run.stepper.raw, 0, "trial"))
            validation = trial * tiles / validator.limit
    return Speed(
        step=sum(times) / len(times),
        validation=validation,
        steps_per_epoch=run.stream.per_epoch / config.optimiser.accumulate,
        task=parts.dataset.task,
    )


def _smaller(config: TrainConfig, speed: Speed, seconds: float) -> TrainConfig:
    """Halve batches, then crops, until enough steps should fit, in proportion to their pixels."""
    while speed.steps(seconds) < speed.needed:
        data = config.data
        if data.tiles_per_batch == 0 and data.batch_size > 2:
            config, faster = _with(config, "data", batch_size=data.batch_size // 2), 2
        elif data.crop >= 192:
            config, faster = _with(config, "data", crop=data.crop // 64 * 32), 4
        else:
            break
        speed = replace(speed, step=speed.step / faster)
    return config


def scheduled(config: TrainConfig, speed: Speed, seconds: float) -> TrainConfig:
    """Set length, warm-up and validations for what fits into a time."""
    steps = speed.steps(seconds)
    validations = _VALIDATIONS
    if speed.validation:
        validations = min(validations, int(_SHARE_OF_VALIDATION * seconds / speed.validation))
    config = _with(config, "schedule", warmup_steps=min(config.schedule.warmup_steps, steps // 20))
    return _with(
        config,
        "loop",
        epochs=None,
        steps=steps,
        time_budget=seconds,
        validate_every_epochs=None,
        validate_every_steps=max(1, steps // max(validations, 1)),
    )


def _with(config: TrainConfig, part: str, **changes: Any) -> TrainConfig:
    """A recipe with some settings of one part changed."""
    return config.model_copy(update={part: getattr(config, part).model_copy(update=changes)})


def _seconds(work: Any) -> float:
    """How long a call takes."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started
