"""The directional scan through the CUDA kernel of the official Mamba package (``mamba-ssm``).

The kernel (``selective_scan_cuda``, Gu & Dao, arXiv 2312.00752) scans channel-first sequences in
time order. So the map is permuted into one sequence per direction, ``(B, K D, L)`` with the
direction as the group of B and C, and the results are permuted back and summed, as the official
vision code does. Here it is a peer to compare with and a way out where the fused kernels cannot
run: it writes K permuted copies of u, the steps and y.

The extension is looked up by name when it is first needed and is held against the equation before
it is trusted. Inputs of one 16-bit dtype are passed as they are, and each direction's y then comes
back rounded to it; mixed dtypes are passed as float32.
"""

import importlib
from typing import Any

import torch
from torch import Tensor

from rsmamba_models.errors import BackendError
from rsmamba_models.ops.arguments import ScanArguments
from rsmamba_models.ops.orders import inverse_order
from rsmamba_models.ops.selfcheck import FirstUse

_EXTENSION = "selective_scan_cuda"
_DEVICE_TYPE = "cuda"
_MOST_STATES = 256  # the kernel's own limit


def is_available() -> bool:
    """Whether the official kernel can be used here; see ``why_not``."""
    return not why_not()


def why_not() -> str:
    """Why the official kernel cannot be used here, or "" when it can and passed its check."""
    if _DEVICE_TYPE == "cuda" and not torch.cuda.is_available():
        return "there is no CUDA device"
    if reason := _missing(_EXTENSION):
        return f"{reason}; the package mamba-ssm provides it"
    index = torch.cuda.current_device() if _DEVICE_TYPE == "cuda" else 0
    return _check(torch.device(_DEVICE_TYPE, index))


def report() -> dict[str, str]:
    """The official compiled extensions: "" for one that can be imported, else why it cannot.

    ``causal_conv1d_cuda`` is listed because the two are installed together; nothing here calls it:
    a depthwise convolution of four taps is as well served by PyTorch's own.
    """
    return {name: _missing(name) for name in (_EXTENSION, "causal_conv1d_cuda")}


def forward(scan: ScanArguments) -> Tensor:
    """Scan a map along every direction and sum the results; see ``directional_scan``.

    Raises:
        BackendError: The kernel is missing, failed its check, or does not take these tensors.
    """
    _require(scan)
    return _forward(scan)


def backward(grad_y: Tensor, scan: ScanArguments) -> tuple[Tensor | None, ...]:
    """Gradients of ``forward``: ``(du, ddelta, dA, dB, dC, dD, dbias)``, None where not given.

    The kernel's forward pass runs again, for the states it left at every 2048th step.

    Raises:
        BackendError: The kernel is missing, failed its check, or does not take these tensors.
    """
    _require(scan)
    return _backward(grad_y, scan)


def _missing(name: str) -> str:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name == name:
            return f"{name} is not installed"
        return f"{name} cannot be imported ({error})"
    except Exception as error:  # an extension built for another torch fails as it likes
        return f"{name} cannot be imported ({error})"
    return ""


def _require(scan: ScanArguments) -> None:
    device, states = scan.u.device, scan.A.shape[-1]
    if device.type != _DEVICE_TYPE:
        raise BackendError(f"the mamba_ssm scan runs on a CUDA device; its input is on {device}")
    if scan.state_dtype == torch.float64:
        raise BackendError("the mamba_ssm scan has no float64; use another back end")
    if states > _MOST_STATES:
        raise BackendError(f"the mamba_ssm scan takes at most {_MOST_STATES} states, not {states}")
    if reason := _missing(_EXTENSION) or _check(device):
        raise BackendError(f"the mamba_ssm scan is not usable: {reason}")


def _forward(scan: ScanArguments) -> Tensor:
    if scan.u.numel() == 0:
        return torch.zeros_like(scan.u)
    sequences = _Sequences(scan)
    return sequences.sum_at_pixels(sequences.scan()[0]).to(scan.u.dtype)


def _backward(grad_y: Tensor, scan: ScanArguments) -> tuple[Tensor | None, ...]:
    given = scan.differentiable
    if scan.u.numel() == 0:
        return tuple(None if t is None else torch.zeros_like(t) for t in given)
    sequences = _Sequences(scan)
    du, ddelta, dA, dB, dC, dD, dbias = sequences.gradients(grad_y)
    found = (
        sequences.sum_at_pixels(du),
        sequences.at_pixels(ddelta.view(sequences.shape)).transpose(2, 3),
        dA.view(scan.A.shape),
        sequences.at_pixels(dB).transpose(2, 3),
        sequences.at_pixels(dC).transpose(2, 3),
        None if scan.D is None else dD.view(scan.D.shape),
        None if scan.delta_bias is None else dbias.view(scan.delta_bias.shape),
    )
    pairs = zip(found, given, strict=True)
    return tuple(None if f is None or t is None else f.to(t.dtype) for f, t in pairs)


_check = FirstUse(_forward, _backward)


class _Sequences:
    """A call's tensors as the kernel wants them: channel-first sequences in time order."""

    def __init__(self, scan: ScanArguments) -> None:
        u, delta, A, B, C, D, delta_bias, order, delta_softplus = scan
        batch, length, channels = u.shape
        self.shape = (batch, order.shape[0], channels, length)
        self.order = order.long()
        self.inverse = inverse_order(self.order)
        same = len({t.dtype for t in (u, delta, B, C)}) == 1
        self.dtype = u.dtype if same else torch.float32
        self.u = self.along(u)
        self.delta = self.in_time(delta.transpose(2, 3)).flatten(1, 2)
        self.A = A.float().flatten(0, 1).contiguous()
        self.B, self.C = (self.in_time(t.transpose(2, 3)) for t in (B, C))
        self.D = None if D is None else D.float().flatten().contiguous()
        self.bias = None if delta_bias is None else delta_bias.float().flatten().contiguous()
        self.softplus = delta_softplus
        self.kernel: Any = importlib.import_module(_EXTENSION)

    def along(self, t: Tensor) -> Tensor:
        """A map (B, L, D) along every direction: (B, K D, L)."""
        return self.in_time(t.transpose(1, 2)[:, None].expand(self.shape)).flatten(1, 2)

    def in_time(self, t: Tensor) -> Tensor:
        """(B, K, ., L) at map positions -> in time order, contiguous."""
        index = self.order[None, :, None].expand(t.shape)
        return t.gather(3, index).to(self.dtype)

    def at_pixels(self, t: Tensor) -> Tensor:
        """(B, K, ., L) in time order -> at map positions."""
        return t.gather(3, self.inverse[None, :, None].expand(t.shape))

    def sum_at_pixels(self, t: Tensor) -> Tensor:
        """(B, K D, L) in time order -> the sum over directions (B, L, D), in float32."""
        return self.at_pixels(t.view(self.shape)).sum(1, dtype=torch.float32).transpose(1, 2)

    def scan(self) -> tuple[Tensor, Tensor]:
        """The kernel's forward pass: y (B, K D, L) and the states it saves."""
        y, states, *_ = self.kernel.fwd(
            self.u, self.delta, self.A, self.B, self.C, self.D, None, self.bias, self.softplus
        )
        return y, states

    def gradients(self, grad_y: Tensor) -> list[Tensor]:
        """The kernel's backward pass: of u, delta, A, B, C, D, bias, in its own layout."""
        states = self.scan()[1]
        inputs = (self.u, self.delta, self.A, self.B, self.C, self.D, None, self.bias)
        found = self.kernel.bwd(
            *inputs, self.along(grad_y), states, None, None, self.softplus, False
        )
        return list(found[:7])
