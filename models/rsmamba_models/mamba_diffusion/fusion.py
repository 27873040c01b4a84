"""The two fusion blocks: double cross-fusion (DCF) and dual-splitting S4 (DS-S4).

Both have the frame of a VMamba block, twice: a branch per modality, each with its own parameters.
Where the branches meet is the mixer ``m(p, q)``, whose first argument is the stream that is being
updated and whose second is the other modality.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsmamba_models.layers import DepthwiseConv, DropPath, Linear, Mlp, SelectiveScan2d, linear
from rsmamba_models.mamba_diffusion.blocks import ScanSize


class Mixer(nn.Module):
    """Parameters that DCF and DS-S4 have in common.

    ``other_out_proj`` belongs to the second argument's result, which nothing uses: it takes no part
    in the computation and is frozen, but official checkpoints hold it.
    """

    def __init__(self, size: ScanSize, projected: int) -> None:
        super().__init__()
        self.in_proj = Linear(size.channels, projected, bias=False)
        self.other_in_proj = Linear(size.channels, projected, bias=False)
        self.conv = DepthwiseConv(size.inner, size.kernel, size.conv_bias)
        self.other_conv = DepthwiseConv(size.inner, size.kernel, size.conv_bias)
        self.scan = SelectiveScan2d(size.inner, size.d_state, size.dt_rank)
        self.out_norm = nn.LayerNorm(size.inner, eps=size.eps)
        self.out_proj = Linear(size.inner, size.channels, bias=False)
        self.other_out_proj = nn.Linear(size.inner, size.channels, bias=False).requires_grad_(False)


class CrossScan(Mixer):
    """DCF's mixer: the other modality steers the backward scans.

    The scanned signal is the stream's own in all four directions. Steps, B and C come from itself
    in the two forward directions and from the other modality in the two backward ones.
    """

    def __init__(self, size: ScanSize) -> None:
        super().__init__(size, size.inner)

    def forward(self, p: Tensor, q: Tensor) -> Tensor:
        """Two of (B, H, W, d) -> what is added to ``p``."""
        u = F.silu(self.conv(self.in_proj(p)))
        other = F.silu(self.other_conv(self.other_in_proj(q)))
        out: Tensor = self.out_proj(self.merged(u, other))
        return out

    def merged(self, u: Tensor, other: Tensor) -> Tensor:
        """The normalised sum of the four scans of ``u``, both (B, H, W, E)."""
        y: Tensor = self.out_norm(self.scan(u, guides=(u, other)))
        return y


class SplitScan(Mixer):
    """DS-S4's mixer: one scan for both modalities, both gated by the stream's own gate.

    The rows of ``other_in_proj`` that would make the other modality's gate are not used.
    """

    def __init__(self, size: ScanSize) -> None:
        super().__init__(size, 2 * size.inner)

    def forward(self, p: Tensor, q: Tensor) -> Tensor:
        """Two of (B, H, W, d) -> what is added to ``p``."""
        u, gate = self.in_proj(p).chunk(2, -1)
        other = linear(q, self.other_in_proj.weight.chunk(2)[0])
        y, y_other = self.merged(F.silu(self.conv(u)), F.silu(self.other_conv(other)))
        gate = F.silu(gate)
        out: Tensor = self.out_proj(y * gate + y_other * gate)
        return out

    def merged(self, u: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        """The normalised sums of the four scans of both, (B, H, W, E), in one pass."""
        y, y_other = self.out_norm(self.scan(torch.cat([u, other]))).chunk(2)
        return y, y_other


class FusionBranch(nn.Module):
    """One modality's half of a fusion block."""

    def __init__(self, mixer: Mixer, size: ScanSize, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(size.channels, eps=size.eps)
        self.mixer = mixer
        self.norm2 = nn.LayerNorm(size.channels, eps=size.eps)
        self.mlp = Mlp(size.channels, size.hidden)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, own: Tensor, other: Tensor) -> Tensor:
        """The stream and both normalised streams, (B, H, W, d) -> the stream updated."""
        x = x + self.drop_path(self.mixer(own, other))
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return out


class FusionBlock(nn.Module):
    """DCF with ``CrossScan`` as its mixer, DS-S4 with ``SplitScan``."""

    def __init__(
        self, mixer: Callable[[ScanSize], Mixer], size: ScanSize, drop_path: float = 0.0
    ) -> None:
        super().__init__()
        self.optical = FusionBranch(mixer(size), size, drop_path)
        self.sar = FusionBranch(mixer(size), size, drop_path)

    def forward(self, optical: Tensor, sar: Tensor) -> tuple[Tensor, Tensor]:
        """Both streams, (B, H, W, d) -> both updated; neither sees the other's update."""
        own, other = self.optical.norm1(optical), self.sar.norm1(sar)
        return self.optical(optical, own, other), self.sar(sar, other, own)
