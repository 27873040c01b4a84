"""The two small checkpoints inside the package, for demonstrations and first steps.

``examples/train_embedded.py`` trained them on drawn scenes (`rsmamba_cli.datasets.generator`); they
know nothing of the real world.
"""

from importlib.resources import files
from pathlib import Path

from rsmamba_cli.errors import CheckpointError

_NAMES = {
    "segmentation": "demo_segmentation.safetensors",
    "change": "demo_change.safetensors",
}


def demo_checkpoint(task: str) -> Path:
    """Where the embedded checkpoint of a task lies.

    Args:
        task: ``segmentation`` or ``change``.

    Raises:
        CheckpointError: no checkpoint is embedded for this task, or the installation lacks it.
    """
    name = _NAMES.get(task)
    if name is None:
        raise CheckpointError(
            f"no demonstration checkpoint is embedded for {task!r}, only for "
            f"{' and '.join(_NAMES)}; give a checkpoint with --model"
        )
    path = Path(str(files(__name__).joinpath(name)))
    if not path.is_file():
        raise CheckpointError(
            f"{path}: this installation lacks the demonstration checkpoint; reinstall rsmamba, or "
            "give a checkpoint with --model"
        )
    return path
