"""Which implementation of an op runs, and why not a faster one.

``reference`` is the equation, ``torch`` runs everywhere, ``native`` is the compiled CPU library,
``triton`` the GPU kernels. The fastest usable one is taken unless the caller or ``RSMAMBA_SCAN``
names another. ``mamba_ssm``, the official package's CUDA kernel, runs only when it is named.
"""

import importlib
import os
from types import ModuleType

import torch
from torch import Tensor

from rsmamba_models.errors import BackendError

ENVIRONMENT = "RSMAMBA_SCAN"
_MODULES = {
    "reference": "rsmamba_models.ops.reference",
    "torch": "rsmamba_models.ops.torch_scan",
    "native": "rsmamba_models.ops.native",
    "triton": "rsmamba_models.ops.triton_scan",
    "mamba_ssm": "rsmamba_models.ops.mamba_ssm",
}
_ALWAYS = ("reference", "torch")
_OPS = ("directional_scan", "selective_scan")


def available_backends() -> dict[str, str]:
    """Every back end's name, with "" when it is usable here, else the reason why it is not."""
    return {name: _why_not(name) for name in _MODULES}


def resolve_backend(op: str, tensor: Tensor, requested: str | None = None) -> str:
    """The back end that a call of ``op`` on ``tensor`` will use.

    Args:
        op: ``directional_scan`` or ``selective_scan``.
        tensor: The op's first argument; its device and dtype decide.
        requested: A back end's name; None takes ``RSMAMBA_SCAN``, else the fastest usable one.

    Raises:
        BackendError: ``requested`` (or the environment's choice) is unknown or not usable.
    """
    if op not in _OPS:
        raise BackendError(f"unknown op {op!r}; known: {', '.join(_OPS)}")
    source = "asked for" if requested else f"set by {ENVIRONMENT}"
    requested = requested_backend(requested)
    if requested is None:
        fastest = "triton" if tensor.device.type == "cuda" else "native"
        usable = not _why_not_for(fastest, tensor) and not _why_not(fastest)
        return fastest if usable else "torch"
    if requested not in _MODULES:
        known = ", ".join(_MODULES)
        raise BackendError(f"scan back end {requested!r} ({source}) is unknown; known: {known}")
    if reason := _why_not(requested) or _why_not_for(requested, tensor):
        raise BackendError(f"scan back end {requested!r} ({source}) is not usable: {reason}")
    return requested


def requested_backend(argument: str | None) -> str | None:
    """What the caller, or else the environment, asks for; None is a free choice."""
    return argument or os.environ.get(ENVIRONMENT) or None


def load_backend(name: str) -> ModuleType:
    """The module of a back end, with its ``forward`` and ``backward``."""
    return importlib.import_module(_MODULES[name])


def _why_not(name: str) -> str:
    """Why a back end cannot run on this machine."""
    if name in _ALWAYS:
        return ""
    try:
        return str(load_backend(name).why_not())
    except ImportError as error:
        return f"its module cannot be imported ({error})"


def _why_not_for(name: str, tensor: Tensor) -> str:
    """Why a back end that runs on this machine cannot take this tensor."""
    found = f"the input is {tensor.dtype} on {tensor.device}"
    if name == "native" and (tensor.device.type != "cpu" or tensor.dtype == torch.float64):
        return f"it takes CPU tensors and keeps a float32 state; {found}"  # float64 asks for more
    if name == "triton" and not tensor.is_cuda and not load_backend(name).interpreted():
        return f"it takes tensors on a GPU; {found}"
    if name == "mamba_ssm" and (not tensor.is_cuda or tensor.dtype == torch.float64):
        return f"it takes tensors on a CUDA device and keeps a float32 state; {found}"
    return ""
