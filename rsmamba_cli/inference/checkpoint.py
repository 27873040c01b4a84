"""Finding, reading and judging the checkpoint of a run."""

import os
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from rsmamba_cli.errors import CheckpointError
from rsmamba_models import CheckpointMeta, ModelsError, load_checkpoint, read_meta

_COMMANDS = {"segmentation": "predict", "change": "change", "multimodal": "predict"}


def checkpoint_path(model: Path | str | None, task: str) -> Path:
    """The file to use: the one given, or the embedded demonstration checkpoint of the task.

    Raises:
        CheckpointError: no such file, or no embedded model for the task.
    """
    if model is None or os.fspath(model) == "demo":
        if task == "multimodal":
            raise CheckpointError(
                "no model for two modalities is embedded: give a checkpoint with --model FILE"
            )
        from rsmamba_cli.assets import demo_checkpoint

        return Path(demo_checkpoint(task))
    path = Path(model)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file")
    return path


def read_task_meta(path: Path, tasks: Sequence[str]) -> CheckpointMeta:
    """The metadata of a checkpoint, if it is for one of the tasks.

    Raises:
        CheckpointError: not a checkpoint, or for none of them.
    """
    try:
        meta = read_meta(path)
    except (ModelsError, OSError) as error:
        raise CheckpointError(_named(path, error)) from error
    if meta.task == "classification":
        raise CheckpointError(
            f"{path} tells classes of whole images; it is there to be trained further with "
            "`rsmamba train --encoder-weights`"
        )
    if meta.task not in tasks:
        other = _COMMANDS[meta.task]
        advice = (
            "; leave out --sar and --sar-bands, or use a model that takes them"
            if other == _COMMANDS[tasks[0]]
            else f"; use `rsmamba {other}`"
        )
        raise CheckpointError(
            f"{path}: is a {meta.task} model, and this needs {' or '.join(tasks)}{advice}"
        )
    return meta


def load_model(path: Path, meta: CheckpointMeta) -> nn.Module:
    """The model of a checkpoint.

    Raises:
        CheckpointError: damaged, or changed since its metadata was read.
    """
    try:
        model, loaded = load_checkpoint(path)
    except (ModelsError, OSError) as error:
        raise CheckpointError(_named(path, error)) from error
    if loaded != meta:
        raise CheckpointError(f"{path}: changed while it was being read; try again")
    return model


def _named(path: Path, error: BaseException) -> str:
    text = str(error)
    return text if str(path) in text else f"{path}: {text}"
