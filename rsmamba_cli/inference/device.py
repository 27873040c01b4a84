"""One resolver for device, precision and the kernel of the scan."""

import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from rsmamba_cli.errors import DeviceError


def resolve_device(name: str) -> torch.device:
    """The device to run on.

    Args:
        name: "auto" (the first CUDA device, else Apple's, else the CPU), "cpu", "cuda", "cuda:N" or
            "mps".

    Raises:
        DeviceError: not a device, or not there; the message says what is.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", 0)
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"--device {name!r} is not one of auto, cpu, cuda, cuda:N, mps") from None
    if device.type == "cuda":
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if not found:
            built = "" if torch.version.cuda else " (this build of torch has no CUDA support)"
            raise DeviceError(f"--device {name}: no CUDA device is usable here{built}; use cpu")
        if device.index is not None and device.index >= found:
            raise DeviceError(f"--device {name}: there are {found} CUDA devices, counted from 0")
        return torch.device("cuda", device.index or 0)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DeviceError("--device mps: this machine has no usable Apple GPU; use cpu")
    if device.type not in ("cpu", "mps"):
        raise DeviceError(f"--device {name!r} is not one of auto, cpu, cuda, cuda:N, mps")
    return device


def resolve_devices(name: str, workers: int) -> list[str]:
    """The device of every worker.

    Args:
        name: as for `resolve_device`, or several CUDA devices ("cuda:0,2").
        workers: local processes; one a device where ``name`` lists several.

    Returns:
        At least ``workers`` names. "auto" and "cuda" spread workers over all CUDA devices.

    Raises:
        DeviceError: not a device, or not there.
    """
    kind, _, numbers = name.partition(":")
    names = [f"{kind}:{n.strip().removeprefix('cuda:')}" for n in numbers.split(",")]
    if not numbers:
        first = resolve_device(name)
        names = [str(first)]
        if first.type == "cuda" and workers > 1:
            names = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    devices = [str(resolve_device(n)) for n in names]
    return [devices[i % len(devices)] for i in range(max(workers, len(devices)))]


def resolve_precision(name: str, device: torch.device) -> str:
    """The floating point to run in: "auto" is fp32.

    Raises:
        DeviceError: the device cannot do it.
    """
    if name == "auto":
        return "fp32"
    if name == "fp16" and device.type == "cpu":
        raise DeviceError("--precision fp16 is for GPUs; on a CPU use fp32 or bf16")
    if name == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise DeviceError("--precision bf16: this GPU does not support it; use fp16 or fp32")
    return name


def precision_warning(precision: str, device: torch.device) -> str | None:
    """What to tell somebody whose processor has no instructions for a precision, or None."""
    if precision != "bf16" or device.type != "cpu" or platform.machine() not in ("x86_64", "AMD64"):
        return None
    # torch has no public question for these; one that it does not know is not answered with no.
    questions = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    if any(getattr(torch.cpu, question, lambda: True)() for question in questions):
        return None
    return "this processor has no bf16 arithmetic: --precision bf16 will be slower than fp32"


def scan_backend(device: torch.device) -> str:
    """Name of the implementation of the selective scan on a device.

    Raises:
        DeviceError: one was forced and is not usable.
    """
    from rsmamba_models.errors import BackendError
    from rsmamba_models.ops.backends import resolve_backend

    try:
        return resolve_backend("directional_scan", torch.empty(0, device=device))
    except BackendError as error:
        raise DeviceError(str(error)) from error


@contextmanager
def torch_threads(count: int | None) -> Iterator[None]:
    """CPU threads of torch inside the block; None leaves its setting alone."""
    if count is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
