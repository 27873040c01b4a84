"""Which form of an op runs, and why not a faster one.

Every op has a few forms: its equation, plain PyTorch that runs everywhere, the compiled CPU
library, GPU kernels. The fastest usable one is taken unless the caller or an environment variable
names another. Kernels of other packages run only when they are named.
"""

import importlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType, ModuleType

import torch
from torch import Tensor

from rsmamba_models.errors import BackendError

ENVIRONMENT = "RSMAMBA_SCAN"
AUTO = "auto"
_SHORT = 200
"""Steps up to which the quadratic mLSTM is as fast as the chunkwise one."""


@dataclass(frozen=True)
class Form:
    """One way of computing an op.

    Attributes:
        here: Tells why it cannot run on this machine; "" if it can.
        takes: Tells why it cannot take a tensor, where it can run; "" if it can.
    """

    here: Callable[[], str] = str
    takes: Callable[[Tensor], str] = lambda _: ""


@dataclass(frozen=True)
class Op:
    """The forms of one op and the choice among them.

    Attributes:
        name: For messages.
        environment: The variable that names the form to use where the caller names none.
        forms: By name.
        preferred: For a tensor, the forms that may be taken unasked, the fastest first; the last
            one always runs.
    """

    name: str
    environment: str
    forms: Mapping[str, Form]
    preferred: Callable[[Tensor], tuple[str, ...]]

    def available(self) -> dict[str, str]:
        """Every form's name, with "" when it is usable here, else the reason why it is not."""
        return {name: form.here() for name, form in self.forms.items()}

    def why_not(self, name: str, tensor: Tensor) -> str:
        """Why a form cannot take ``tensor`` on this machine, "" if it can."""
        form = self.forms[name]
        return form.here() or form.takes(tensor)

    def usable(self, tensor: Tensor) -> tuple[str, ...]:
        """The forms that can take ``tensor`` on this machine."""
        return tuple(name for name in self.forms if not self.why_not(name, tensor))

    def asked(self, requested: str | None) -> str | None:
        """What the caller, or else the environment, asks for; None is a free choice."""
        if requested in (None, "", AUTO):
            requested = os.environ.get(self.environment)
        return None if requested in (None, "", AUTO) else requested

    def resolve(self, tensor: Tensor, requested: str | None = None) -> str:
        """The form that a call on ``tensor`` will use.

        Args:
            tensor: The op's first argument; its device, dtype and shape decide.
            requested: A form's name; None or ``"auto"`` take the environment's choice, else the
                fastest usable form.

        Raises:
            BackendError: The form that was asked for is unknown or not usable.
        """
        name: str | None = self.asked(requested)
        if name is None:
            *faster, always = self.preferred(tensor)
            return next((form for form in faster if not self.why_not(form, tensor)), always)
        source = "asked for" if name == requested else f"set by {self.environment}"
        if name not in self.forms:
            known = ", ".join(self.forms)
            raise BackendError(f"{self.name} form {name!r} ({source}) is unknown; known: {known}")
        if reason := self.why_not(name, tensor):
            raise BackendError(f"{self.name} form {name!r} ({source}) is not usable: {reason}")
        return name


_SCAN_MODULES = {
    "reference": "rsmamba_models.ops.reference",
    "traceable": "rsmamba_models.ops.traceable",
    "torch": "rsmamba_models.ops.torch_scan",
    "native": "rsmamba_models.ops.native",
    "triton": "rsmamba_models.ops.triton_scan",
    "mamba_ssm": "rsmamba_models.ops.mamba_ssm",
}


def load_backend(name: str) -> ModuleType:
    """The module of a back end of the scan, with its ``forward`` and ``backward``."""
    return importlib.import_module(_SCAN_MODULES[name])


def _module(name: str) -> Callable[[], str]:
    """Why the back end in a module, imported late, cannot run here."""

    def why_not() -> str:
        try:
            return str(load_backend(name).why_not())
        except ImportError as error:
            return f"its module cannot be imported ({error})"

    return why_not


def _package(name: str) -> Callable[[], str]:
    def why_not() -> str:
        return str(importlib.import_module("rsmamba_models.ops.third_party").why_not(name))

    return why_not


def _found(tensor: Tensor) -> str:
    return f"the input is {tensor.dtype} on {tensor.device}"


def _float32_cpu(tensor: Tensor) -> str:
    if tensor.device.type == "cpu" and tensor.dtype != torch.float64:
        return ""
    return f"it takes CPU tensors and computes in float32; {_found(tensor)}"


def _float32_cuda(tensor: Tensor) -> str:
    if tensor.is_cuda and tensor.dtype != torch.float64:
        return ""
    return f"it takes tensors on a CUDA device and computes in float32; {_found(tensor)}"


def _gpu_or_interpreter(tensor: Tensor) -> str:
    if tensor.is_cuda or load_backend("triton").interpreted():
        return ""
    return f"it takes tensors on a GPU; {_found(tensor)}"


SCAN = Op(
    "selective scan",
    ENVIRONMENT,
    MappingProxyType(
        {
            "reference": Form(),
            "traceable": Form(),
            "torch": Form(),
            "native": Form(_module("native"), _float32_cpu),
            "triton": Form(_module("triton"), _gpu_or_interpreter),
            "mamba_ssm": Form(_module("mamba_ssm"), _float32_cuda),
        }
    ),
    # Triton's interpreter, which takes CPU tensors too, is for tests.
    lambda tensor: ("triton", "torch") if tensor.is_cuda else ("native", "torch"),
)
MLSTM = Op(
    "mLSTM",
    "RSMAMBA_MLSTM",
    MappingProxyType(
        {
            "recurrent": Form(),
            "parallel": Form(),
            "chunkwise": Form(),
            "mlstm_kernels": Form(_package("mlstm_kernels"), _float32_cuda),
        }
    ),
    lambda q: ("parallel",) if q.shape[2] <= _SHORT else ("chunkwise",),
)
ATTENTION = Op(
    "neighbourhood attention",
    "RSMAMBA_NA",
    MappingProxyType(
        {
            "reference": Form(),
            "tiled": Form(),
            "native": Form(_module("native"), _float32_cpu),
            "natten": Form(_package("natten"), _float32_cuda),
        }
    ),
    lambda q: ("native", "tiled"),
)
OPS: Mapping[str, Op] = MappingProxyType(
    {
        "directional_scan": SCAN,
        "selective_scan": SCAN,
        "mlstm": MLSTM,
        "neighborhood_attention": ATTENTION,
    }
)


def available_backends() -> dict[str, str]:
    """Every back end of the scan, with "" when it is usable here, else why it is not."""
    return SCAN.available()


def resolve_backend(op: str, tensor: Tensor, requested: str | None = None) -> str:
    """The form that a call of a public op on ``tensor`` will use.

    Args:
        op: ``directional_scan``, ``selective_scan``, ``mlstm`` or ``neighborhood_attention``.
        tensor: The op's first argument.
        requested: A form's name; None takes the environment's choice, else the fastest usable one.

    Raises:
        BackendError: The op or the form is unknown, or the form is not usable.
    """
    if op not in OPS:
        raise BackendError(f"unknown op {op!r}; known: {', '.join(OPS)}")
    return OPS[op].resolve(tensor, requested)
