"""Stochastic depth, the MLP branch and the initialisation of linear layers."""

import torch
from torch import Tensor, nn

from rsmamba_models.layers.pointwise import Linear
from rsmamba_models.layers.rows import by_rows


class DropPath(nn.Module):
    """Drop a residual branch for whole samples in training (Huang et al., arXiv 1603.09382).

    Args:
        rate: Probability of dropping, in [0, 1); survivors are scaled by ``1 / (1 - rate)``.
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Any tensor whose first axis is the batch."""
        if not self.training or self.rate == 0.0:
            return x
        shape = (x.shape[0],) + (1,) * (x.dim() - 1)
        keep = torch.rand(shape, dtype=torch.float32, device=x.device) >= self.rate
        return x * (keep / (1.0 - self.rate)).to(x.dtype)

    def extra_repr(self) -> str:
        """The rate, in the printed model."""
        return f"rate={self.rate:.3f}"


class Mlp(nn.Module):
    """Linear, exact GELU, linear, on the last axis.

    Args:
        channels: Width in and out.
        hidden: Width between.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(channels, hidden)
        self.act = nn.GELU()
        self.fc2 = Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return by_rows(self._pixels, x, width=self.fc1.out_features)

    def _pixels(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


def linear_init_(module: nn.Module, std: float = 0.02) -> None:
    """Initialise one module if it is linear: weight normal (truncated at +-2), bias zero."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
