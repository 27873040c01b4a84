"""Starting and resuming a training run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from rsmamba_cli.errors import DeviceError, OutputError, ResumeError
from rsmamba_cli.events import EventHandler, ignore_events
from rsmamba_cli.training.assembly import assemble
from rsmamba_cli.training.devices import processes, start_fabric
from rsmamba_cli.training.job import Job, dense_job
from rsmamba_cli.training.recipe import Config, RunConfig, TrainConfig
from rsmamba_cli.training.recipe_files import flattened
from rsmamba_cli.training.results import TrainResult
from rsmamba_cli.training.state import LAST, RECIPE, STATE, RunLog, load_state
from rsmamba_cli.training.trainer import Trainer

Builder = Callable[[Fabric, EventHandler, bool], Job]
"""Processes, who is told, whether the run has begun before -> what is worked on."""


def train(
    config: TrainConfig,
    out: Path | str,
    resume: bool = False,
    on_event: EventHandler = ignore_events,
) -> TrainResult:
    """Train a model.

    With ``torchrun`` or under Slurm, their processes are taken instead of ``loop.devices`` and
    ``loop.nodes``. The folder ``out`` receives ``best.safetensors`` and ``last.safetensors``,
    ``state.pt`` (for an exact resume), ``recipe.yaml`` (every setting), ``log.csv``, ``log.jsonl``,
    ``pictures/`` and ``report.html``, which is made anew at each validation.

    Args:
        config: all settings; see `load_recipe`.
        out: a new or empty folder, or with ``resume`` that of an earlier run.
        resume: go on from the saved state. On a CPU with one process the result is bit for bit
            that of a run in one piece.
        on_event: told of every step and validation.

    Raises:
        DatasetError, CheckpointError, InputError: the parts are missing or do not fit.
        OutputError: ``out`` is in use or cannot be written.
        ResumeError: no state, or other settings than those it was made with.
        DeviceError: the device is not there, or its memory is too small.
        Interrupted: stopped by a signal; the state is saved.
        RsmambaError: the loss or a gradient is not finite; the batch is saved.
    """
    config = as_started(config)

    def build(fabric: Fabric, listen: EventHandler, begun: bool) -> Job:
        # What a run began with may be gone by the time it is resumed; its own checkpoint is there.
        init = Path(out) / LAST if begun and config.init is not None else config.init
        encoder = None if begun else config.encoder_weights
        parts = assemble(config, listen, init, encoder)
        return dense_job(config, parts, fabric, Path(out), listen)

    return run(config, Path(out), build, resume, on_event)


def as_started(config: Config) -> Config:
    """The same settings with the processes that ``torchrun`` or Slurm started, if they did.

    Raises:
        DeviceError: they are not those that the settings ask for.
    """
    devices, nodes = processes(config.loop)
    loop = config.loop.model_copy(update={"devices": devices, "nodes": nodes})
    return config.model_copy(update={"loop": loop})


def run(
    config: RunConfig, out: Path, build: Builder, resume: bool, on_event: EventHandler
) -> TrainResult:
    """Start or resume a training of any kind; see `train`.

    Args:
        config: its settings, `as_started`.
        out: the run's folder.
        build: makes what is worked on, with torch's global generator seeded.
        resume: go on from the saved state.
        on_event: told of every step and validation.
    """
    fabric, device, precision = start_fabric(config.loop, out)
    listen = on_event if fabric.is_global_zero else ignore_events
    state = load_state(out) if resume else None
    if state is not None:
        _check_same(config, state)
    elif fabric.is_global_zero:
        _check_free(out)
    fabric.barrier()
    try:
        return _run(config, out, build, state, fabric, (device, precision), listen)
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        raise DeviceError(
            f"The memory of {device} is too small for this training. Choose a smaller "
            "data.batch_size (with optimiser.accumulate to make up for it) or data.crop, "
            "model.gradient_checkpointing=true, or a smaller model."
        ) from error


def _run(
    config: RunConfig,
    out: Path,
    build: Builder,
    state: dict[str, Any] | None,
    fabric: Fabric,
    where: tuple[str, str],
    listen: EventHandler,
) -> TrainResult:
    """Build everything a run consists of, and train."""
    torch.manual_seed(config.seed)
    job = build(fabric, listen, state is not None)
    trainer = Trainer(config, out, job, fabric, where, listen)
    if state is not None:
        trainer.restore(state)
    elif fabric.is_global_zero:
        # Only now: a run that cannot start (a mistyped folder) must not block the next try.
        _claim(out, config)
    if fabric.is_global_zero:
        trainer.log = RunLog(out, resume_step=trainer.step)
    return trainer.go()


def _out_of_memory(error: Exception) -> bool:
    """Whether an error is about memory; PyTorch's CPU allocator raises a RuntimeError."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(
        words in str(error) for words in ("out of memory", "can't allocate memory")
    )


def _check_free(out: Path) -> None:
    """Refuse a folder that holds anything.

    Raises:
        OutputError: something is in it already, or it cannot be read.
    """
    try:
        used = out.is_dir() and any(out.iterdir())
        begun = (out / STATE).is_file()
    except OSError as error:
        raise OutputError(f"{out} cannot be read: {error}") from error
    if used:
        hint = "go on with --resume, or" if begun else "empty it, or"
        raise OutputError(f"{out} is not empty: {hint} choose another folder with --out.")


def _claim(out: Path, config: RunConfig) -> None:
    """Make the folder of a new run and write its recipe there.

    Raises:
        OutputError: it cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        # The limit is of this call; going on must not meet it again.
        loop = config.loop.model_copy(update={"limit_steps": None})
        text = config.model_copy(update={"loop": loop}).to_yaml()
        (out / RECIPE).write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{out} cannot be written: {error}") from error


def _check_same(config: RunConfig, state: dict[str, Any]) -> None:
    """Refuse to go on with other settings than those a run began with.

    Raises:
        ResumeError: naming the settings that differ.
    """
    before, now = flattened(json.loads(state["recipe"])), flattened(config.fixed())
    differ = sorted(k for k in before.keys() | now.keys() if before.get(k) != now.get(k))
    if differ:
        shown = "; ".join(f"{k} was {before.get(k)}, is now {now.get(k)}" for k in differ[:5])
        raise ResumeError(
            f"A run can only go on with the settings it began with: {shown}. "
            "Start a new one with --init and the last checkpoint to change them."
        )
