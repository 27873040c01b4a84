"""A first-use check of a back end that this project cannot test on every machine.

GPU kernels depend on a compiler, a driver and a device that no test suite has seen in all their
combinations. One small case, held against the equation in float64, costs milliseconds and turns a
silent wrong answer into a refusal.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from rsmamba_models.ops import reference
from rsmamba_models.ops.orders import scan_order

Forward = Callable[..., Tensor]
Backward = Callable[..., tuple[Tensor | None, ...]]

# float32 kernels with hardware exponentials agree to about 1e-6; a wrong index is off by about 1.
_TOLERANCE = 1e-3
_GRADIENTS = ("u", "delta", "A", "B", "C", "D", "delta_bias")


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
        order = scan_order("cross", 9, 13)
        exact = _case(order.shape[0], order.shape[1], channels=40, states=16)
        u, delta, A, B, C, D, bias = exact
        grad = u.flip(1)
        inputs = [t.to(device, torch.float32) for t in exact]
        names = ("y", *(f"the gradient of {name}" for name in _GRADIENTS))
        wanted = (
            reference.forward(u, delta, A, B, C, D, bias, order, True),
            *reference.backward(grad, u, delta, A, B, C, D, bias, order, True),
        )
        place = order.to(device)
        found = (
            forward(*inputs, place, True),
            *backward(grad.to(inputs[0]), *inputs, place, True),
        )
    for name, truth, value in zip(names, wanted, found, strict=True):
        if truth is None or value is None:
            return f"{name} is missing"
        error = (value.cpu().double() - truth).abs().max() / truth.abs().max()
        if not error <= _TOLERANCE:  # NaN is a disagreement too
            return f"{name} is off by {float(error):.1e} of its largest value on {device}"
    return ""


def _case(directions: int, length: int, channels: int, states: int) -> list[Tensor]:
    """u, delta, A, B, C, D, delta_bias in float64 on the CPU, the same ones every time."""
    generator = torch.Generator().manual_seed(20240404)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return [
        normal(2, length, channels),
        normal(2, directions, length, channels),
        -torch.exp(normal(directions, channels, states)),
        normal(2, directions, length, states),
        normal(2, directions, length, states),
        normal(directions, channels),
        normal(directions, channels) - 1,
    ]
