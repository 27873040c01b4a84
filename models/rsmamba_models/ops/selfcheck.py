"""A first-use check of a back end that this project cannot test on every machine.

GPU kernels depend on a compiler, a driver and a device that no test suite has seen in all their
combinations. One small case, held against the equation in float64, costs milliseconds and turns a
silent wrong answer into a refusal.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from rsmamba_models.ops import reference
from rsmamba_models.ops.arguments import ScanArguments
from rsmamba_models.ops.orders import scan_order

Forward = Callable[[ScanArguments], Tensor]
Backward = Callable[[Tensor, ScanArguments], tuple[Tensor | None, ...]]

# float32 kernels with hardware exponentials agree to about 1e-6; a wrong index is off by about 1.
_TOLERANCE = 1e-3


def disagreement(forward: Forward, backward: Backward, device: torch.device) -> str:
    """Compare a back end with the reference on a small random case.

    Args:
        forward: The back end's ``forward``.
        backward: The back end's ``backward``.
        device: Where to run it (float32 inputs).

    Returns:
        "" when y and all gradients agree, else what differs and by how much.
    """
    with torch.inference_mode(False), torch.no_grad():
        exact = _case(scan_order("cross", 9, 13), channels=40, states=16)
        grad = exact.u.flip(1)
        there = exact.to(device, torch.float32)
        names = ("y", *(f"the gradient of {name}" for name in ScanArguments._fields[:7]))
        wanted = (reference.forward(exact), *reference.backward(grad, exact))
        found = (forward(there), *backward(grad.to(there.u), there))
    for name, truth, value in zip(names, wanted, found, strict=True):
        if truth is None or value is None:
            return f"{name} is missing"
        error = (value.cpu().double() - truth).abs().max() / truth.abs().max()
        if not error <= _TOLERANCE:  # NaN is a disagreement too
            return f"{name} is off by {float(error):.1e} of its largest value on {device}"
    return ""


class FirstUse:
    """The check of a back end at its first use, once per device."""

    def __init__(self, forward: Forward, backward: Backward) -> None:
        """Remember whose check it is."""
        self._functions = forward, backward
        self._verdicts: dict[torch.device, str] = {}

    def __call__(self, device: torch.device) -> str:
        """Why the back end must not be used on ``device``; "" when it passed its check there."""
        if device not in self._verdicts:
            self._verdicts[device] = self._verdict(device)
        return self._verdicts[device]

    def forget(self) -> None:
        """Check again at the next use."""
        self._verdicts.clear()

    def _verdict(self, device: torch.device) -> str:
        try:
            wrong = disagreement(*self._functions, device)
        except Exception as error:  # compilers, drivers and other packages raise what they like
            return f"its kernels do not run on {device} ({type(error).__name__}: {error})"
        return f"its kernels failed their check: {wrong}" if wrong else ""


def _case(order: Tensor, channels: int, states: int) -> ScanArguments:
    """Float64 on the CPU, the same one every time."""
    generator = torch.Generator().manual_seed(20240404)
    directions, length = order.shape

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return ScanArguments(
        normal(2, length, channels),
        normal(2, directions, length, channels),
        -torch.exp(normal(directions, channels, states)),
        normal(2, directions, length, states),
        normal(2, directions, length, states),
        normal(directions, channels),
        normal(directions, channels) - 1,
        order,
        delta_softplus=True,
    )
