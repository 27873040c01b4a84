"""Where training runs and with which arithmetic."""

from typing import Literal

import torch
from lightning_fabric import Fabric

from rsmamba_cli.errors import DeviceError
from rsmamba_cli.inference.device import resolve_device
from rsmamba_cli.training.recipe import LoopPart

_FABRIC_NAMES: dict[str, Literal["32-true", "bf16-mixed", "16-mixed"]] = {
    "fp32": "32-true",
    "bf16": "bf16-mixed",
    "fp16": "16-mixed",
}


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


def start_fabric(loop: LoopPart) -> tuple[Fabric, str, str]:
    """Start as many processes as there are devices.

    Returns:
        Fabric, the kind of the device and the precision.

    Raises:
        DeviceError: the devices are not there.
    """
    device = resolve_device(loop.device)
    precision = training_precision(loop.precision, device)
    if device.type == "cuda" and loop.devices > torch.cuda.device_count():
        raise DeviceError(
            f"{loop.devices} GPUs were asked for, but there are {torch.cuda.device_count()}."
        )
    fabric = Fabric(
        accelerator=device.type,
        devices=loop.devices,
        strategy="ddp" if loop.devices > 1 else "auto",
        precision=_FABRIC_NAMES[precision],
    )
    fabric.launch()
    return fabric, device.type, precision
