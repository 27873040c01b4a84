"""Where training runs, in how many processes, and with which arithmetic."""

import importlib
import os
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning_fabric.strategies.ddp import DDPStrategy
from lightning_fabric.utilities.rank_zero import rank_zero_only

from rsmamba_cli.errors import DeviceError, InputError
from rsmamba_cli.inference.device import resolve_device
from rsmamba_cli.training.recipe import LoopPart

_FABRIC_NAMES: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}

_LOGGERS = {
    "tensorboard": ("lightning_fabric.loggers", "TensorBoardLogger", "root_dir"),
    "wandb": ("lightning.pytorch.loggers", "WandbLogger", "save_dir"),
    "mlflow": ("lightning.pytorch.loggers", "MLFlowLogger", "save_dir"),
}
"""Name -> module and class of a Lightning logger, and what it calls its folder."""


def training_precision(wanted: str, device: torch.device) -> str:
    """Turn ``auto`` into bf16 on a GPU that has it, else fp32.

    Raises:
        DeviceError: half precision that the device does not have.
    """
    if wanted == "auto":
        return "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    if wanted == "fp16" and device.type != "cuda":
        raise DeviceError(
            f"Training in fp16 needs a CUDA device; on {device} set loop.precision to fp32 or bf16."
        )
    return wanted


def processes(loop: LoopPart) -> tuple[int, int]:
    """Devices a machine and machines: what ``torchrun`` or Slurm started, else what a recipe says.

    Raises:
        DeviceError: another number was started than the recipe asks for, or Slurm was told the
            number of tasks in a way that leaves their places open.
    """
    asked = (loop.devices, loop.nodes)
    try:
        found = _started()
    except RuntimeError as error:
        raise DeviceError(str(error)) from error
    if found is None:
        return asked
    if asked not in ((1, 1), found):
        raise DeviceError(
            f"{found[0]} processes on each of {found[1]} machines were started, but loop.devices "
            f"is {asked[0]} and loop.nodes {asked[1]}. Leave both out, or start as many "
            "(torchrun --nproc-per-node, srun --ntasks-per-node)."
        )
    return found


def _started() -> tuple[int, int] | None:
    """Processes a machine and machines that ``torchrun`` or Slurm started; None if neither did."""
    if TorchElasticEnvironment.detect():
        return int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ.get("GROUP_WORLD_SIZE", "1"))
    if SLURMEnvironment.detect():
        tasks = os.environ.get("SLURM_NTASKS_PER_NODE", "1")
        return int(tasks), int(os.environ.get("SLURM_NNODES", "1"))
    return None


def start_fabric(loop: LoopPart, out: Path) -> tuple[Fabric, str, str]:
    """Start as many processes as there are devices.

    Args:
        loop: the recipe's.
        out: folder for what loggers write.

    Returns:
        Fabric, the kind of the device and the precision.

    Raises:
        DeviceError: the devices are not there.
        InputError: a logger is not installed.
    """
    device = resolve_device(loop.device)
    precision = training_precision(loop.precision, device)
    if device.type == "cuda" and loop.devices > torch.cuda.device_count():
        raise DeviceError(
            f"{loop.devices} GPUs were asked for, but there are {torch.cuda.device_count()}."
        )
    many = loop.devices * loop.nodes > 1
    fabric = Fabric(
        accelerator=device.type,
        devices=loop.devices,
        num_nodes=loop.nodes,
        # Some models have weights that a batch may not reach.
        strategy=DDPStrategy(find_unused_parameters=True) if many else "auto",
        precision=_FABRIC_NAMES[precision],
        loggers=[_make_logger(name, out) for name in loop.loggers],
    )
    fabric.launch()
    return fabric, device.type, precision


def is_main_process() -> bool:
    """Whether this process is the first of a training run, or the only one."""
    return not getattr(rank_zero_only, "rank", 0)


def _make_logger(name: str, out: Path) -> Any:
    """A Lightning logger that writes to ``out/NAME``.

    Raises:
        InputError: it is not installed.
    """
    module, class_name, folder = _LOGGERS[name]
    try:
        logger = getattr(importlib.import_module(module), class_name)
        return logger(**{folder: str(out / name)})
    except ImportError as error:
        package = "rsmamba[tensorboard]" if name == "tensorboard" else f"lightning and {name}"
        raise InputError(
            f"loop.loggers: {name} is not there ({error}). Install {package}."
        ) from error
