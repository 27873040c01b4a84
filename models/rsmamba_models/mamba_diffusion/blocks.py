"""What an encoder of one modality is made of: VMamba's block, in its variant without a gate."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from rsmamba_models.layers import DepthwiseConv, DropPath, Linear, Mlp, SelectiveScan2d


@dataclass(frozen=True)
class ScanSize:
    """Sizes that every scan module of a stage shares.

    Attributes:
        channels: Width of the stage, d.
        inner: Width inside the scan, E.
        d_state: States per channel, N.
        dt_rank: Rank of the step's projection, R.
        kernel: Side of the depthwise convolution before the scan.
        conv_bias: Whether that convolution has a bias.
        hidden: Hidden width of the block's MLP.
        eps: Epsilon of the layer norms.
    """

    channels: int
    inner: int
    d_state: int
    dt_rank: int
    kernel: int
    conv_bias: bool
    hidden: int
    eps: float


class SS2D(nn.Module):
    """Four-direction selective scan without a gate ("v05_noz")."""

    def __init__(self, size: ScanSize) -> None:
        super().__init__()
        self.in_proj = Linear(size.channels, size.inner, bias=False)
        self.conv = DepthwiseConv(size.inner, size.kernel, size.conv_bias)
        self.scan = SelectiveScan2d(size.inner, size.d_state, size.dt_rank)
        self.out_norm = nn.LayerNorm(size.inner, eps=size.eps)
        self.out_proj = Linear(size.inner, size.channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, d) -> (B, H, W, d)."""
        out: Tensor = self.out_proj(self.out_norm(self.scan(F.silu(self.conv(self.in_proj(x))))))
        return out


class VSSBlock(nn.Module):
    """Pre-norm residual block: scan, then MLP."""

    def __init__(self, size: ScanSize, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(size.channels, eps=size.eps)
        self.ss2d = SS2D(size)
        self.norm2 = nn.LayerNorm(size.channels, eps=size.eps)
        self.mlp = Mlp(size.channels, size.hidden)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, d) -> (B, H, W, d)."""
        x = x + self.drop_path(self.ss2d(self.norm1(x)))
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return out
