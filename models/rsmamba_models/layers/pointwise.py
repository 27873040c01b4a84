"""Linear layers with their activation; oneDNN computes them where no gradient is wanted on a CPU.

PyTorch gives float32 products to another library (MKL), which on AMD processors takes a seventh
more time for the narrow layers of these networks, and leaves the activation to a second pass. Its
own way to oneDNN's products with an activation is an internal operator: it is looked up and held
against the plain form at its first use, and where it is missing or wrong the plain form stays.
"""

import functools
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsmamba_models.tracing import is_recorded

Activation = Literal["none", "gelu", "silu"]

_ACTIVATIONS: dict[Activation, tuple[Callable[[Tensor], Tensor], str]] = {
    "none": (lambda x: x, "none"),
    "gelu": (F.gelu, "gelu"),
    "silu": (F.silu, "swish"),
}
"""The plain form, and oneDNN's name."""
_TOLERANCE = 1e-5


def linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: Activation = "none"
) -> Tensor:
    """``activation(x @ weight.T + bias)``.

    Args:
        x: ``(..., I)``.
        weight: ``(O, I)``.
        bias: ``(O,)`` or None.
        activation: "gelu" is the exact one.

    Returns:
        ``(..., O)``.
    """
    plain, name = _ACTIVATIONS[activation]
    fused = _onednn() if _suits_onednn(x, weight, bias) else None
    if fused is None:
        return plain(F.linear(x, weight, bias))
    return fused(x, weight, bias, name, [], "none")


def _suits_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether nobody wants a gradient, another dtype or a record of the product."""
    return (
        not torch.is_grad_enabled()
        and all(
            t.device.type == "cpu" and t.dtype == torch.float32
            for t in (x, weight, bias)
            if t is not None
        )
        and x.numel() > 0
        and x.shape[-1] == weight.shape[-1]  # else the plain form says what is wrong
        and not torch.is_autocast_enabled("cpu")
        and not is_recorded()
    )


@functools.cache
def _onednn() -> Callable[..., Tensor] | None:
    """The linear layer of oneDNN with an activation; None where it is missing or wrong."""
    x, weight, bias = (
        torch.linspace(-2, 2, numbers, dtype=torch.float32, device="cpu").sin()
        for numbers in (20, 12, 3)
    )
    x, weight = x.view(5, 4), weight.view(3, 4)
    try:
        fused: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise.default
        right = all(
            torch.allclose(
                fused(x, weight, bias, name, [], "none"),
                plain(F.linear(x, weight, bias)),
                rtol=_TOLERANCE,
                atol=_TOLERANCE,
            )
            for plain, name in _ACTIVATIONS.values()
        )
    except (AttributeError, RuntimeError):  # another PyTorch's operators
        return None
    return fused if right else None


class Linear(nn.Linear):
    """``nn.Linear`` on the last axis, and an activation.

    Args:
        in_features: Width in.
        out_features: Width out.
        bias: Whether it has one.
        activation: "gelu" is the exact one.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation: Activation = "none",
    ) -> None:
        super().__init__(in_features, out_features, bias)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return linear(x, self.weight, self.bias, self.activation)

    def extra_repr(self) -> str:
        """The sizes and the activation, in the printed model."""
        return f"{super().extra_repr()}, activation={self.activation}"
