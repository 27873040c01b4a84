"""Linear layers, which oneDNN computes where no gradient is wanted on a CPU.

PyTorch gives float32 products to another library (MKL), which on an AMD processor takes a tenth
more time for the narrow layers of these networks. Its own way to oneDNN's products is an internal
operator: it is looked up and held against the plain form at its first use, and where it is missing
or wrong the plain form stays.
"""

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsmamba_models.tracing import is_recorded

_TOLERANCE = 1e-5


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``.

    Args:
        x: ``(..., I)``.
        weight: ``(O, I)``.
        bias: ``(O,)`` or None.

    Returns:
        ``(..., O)``.
    """
    product = _onednn() if _suits_onednn(x, weight, bias) else None
    if product is None:
        return F.linear(x, weight, bias)
    return product(x, weight, bias, "none", [], "none")


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
    """The linear layer of oneDNN; None where it is missing or wrong."""
    x, weight, bias = (
        torch.linspace(-2, 2, numbers, dtype=torch.float32, device="cpu").sin()
        for numbers in (20, 12, 3)
    )
    x, weight = x.view(5, 4), weight.view(3, 4)
    try:
        product: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise.default
        found = product(x, weight, bias, "none", [], "none")
    except (AttributeError, RuntimeError):  # another PyTorch's operators
        return None
    expected = F.linear(x, weight, bias)
    return product if torch.allclose(found, expected, _TOLERANCE, _TOLERANCE) else None


class Linear(nn.Linear):
    """``nn.Linear`` by ``linear``."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return linear(x, self.weight, self.bias)
