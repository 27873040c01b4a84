"""Seg-LSTM's encoder: Vision-LSTM with four taps.

Zhu et al., "Seg-LSTM: Performance of xLSTM for Semantic Segmentation of Remotely Sensed Images",
arXiv 2406.14086, on Alkin et al., "Vision-LSTM: xLSTM as Generic Vision Backbone", arXiv
2406.04303 (its first version), as the official code computes them. Patches become tokens in
row-major order; blocks of an mLSTM layer read them from the top left and from the bottom right in
turn; the residual stream after each of four groups of blocks is a map of stride ``patch_size``.
"""

import math
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsmamba_models.errors import ArgumentsError
from rsmamba_models.layers import CausalConv1d, DropPath, Linear
from rsmamba_models.ops.mlstm import mlstm

HEADS = 4
_QKV_BLOCK = 4
_CONV_KERNEL = 4
_EXPANSION = 2


class BlockDiagonal(nn.Module):
    """Linear map, no bias, whose matrix is made of small square blocks along the diagonal.

    Args:
        channels: Width in and out.
        size: Side of a block; divides ``channels``.
    """

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels // size, size, size))  # block, out, in

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, channels) -> (B, L, channels)."""
        blocks, size, _ = self.weight.shape
        # Products of single blocks are too small to be fast: several share a tile, with zeros.
        per_tile = math.gcd(blocks, 8)
        tiles, side = blocks // per_tile, per_tile * size
        weight = self.weight.view(tiles, per_tile, size, size).permute(0, 2, 3, 1)
        weight = torch.diag_embed(weight).permute(0, 3, 1, 4, 2).reshape(tiles, side, side)
        parts = x.reshape(-1, tiles, side).transpose(0, 1)
        return torch.bmm(parts, weight.mT).transpose(0, 1).reshape(x.shape)


class Gates(nn.Module):
    """Input and forget gates of all heads before their non-linearities, from q, k and v.

    In float32 whether or not autocast is on: the cell takes their exponentials.

    Args:
        inner: Width of q, of k and of v.
        heads: Heads of the cell.
    """

    def __init__(self, inner: int, heads: int) -> None:
        super().__init__()
        self.input = nn.Linear(3 * inner, heads)
        self.forget = nn.Linear(3 * inner, heads)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Gates that at first depend on no token; heads that forget at different rates."""
        nn.init.zeros_(self.input.weight)
        nn.init.zeros_(self.forget.weight)
        nn.init.normal_(self.input.bias, std=0.1)
        self.forget.bias.copy_(torch.linspace(3.0, 6.0, self.forget.out_features))

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Three of (B, L, inner) -> (B, L, 2 * heads), input gates first."""
        dtype = torch.promote_types(q.dtype, torch.float32)
        weight = torch.cat([self.input.weight, self.forget.weight]).to(dtype)
        out = torch.cat([self.input.bias, self.forget.bias]).to(dtype)
        with torch.autocast(q.device.type, enabled=False):
            for x, columns in zip((q, k, v), weight.chunk(3, 1), strict=True):
                out = out + x.to(dtype) @ columns.T
        return out


class HeadNorm(nn.Module):
    """Layer norm of every head's output, no bias; the heads are put side by side.

    Args:
        inner: Width of all heads together.
        eps: Epsilon.
    """

    def __init__(self, inner: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(inner))

    def forward(self, h: Tensor) -> Tensor:
        """(B, heads, L, inner / heads) -> (B, L, inner)."""
        h = F.layer_norm(h, h.shape[-1:], eps=self.eps)
        return h.transpose(1, 2).flatten(2) * self.weight


class MLSTMCell(nn.Module):
    """mLSTM cell: gates from q, k and v, matrix memory, a norm per head.

    Args:
        inner: Width of q, of k and of v.
        heads: Heads of the memory.
        eps: Epsilon of the norm.
    """

    def __init__(self, inner: int, heads: int = HEADS, eps: float = 1e-5) -> None:
        super().__init__()
        self.heads = heads
        self.gates = Gates(inner, heads)
        self.norm = HeadNorm(inner, eps)

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Three of (B, L, inner) -> (B, L, inner)."""
        i_gate, f_gate = self.gates(q, k, v).transpose(1, 2).chunk(2, 1)
        q, k, v = (t.view(*t.shape[:2], self.heads, -1).transpose(1, 2) for t in (q, k, v))
        out: Tensor = self.norm(mlstm(q, k, v, i_gate, f_gate))
        return out


class MLSTMLayer(nn.Module):
    """mLSTM layer (the Vision-LSTM paper's figure 1) along one direction.

    Args:
        dim: Width in and out.
        reverse: Read the tokens from the last to the first.
        eps: Epsilon of the norm in the cell.
    """

    def __init__(self, dim: int, reverse: bool = False, eps: float = 1e-5) -> None:
        super().__init__()
        inner = _EXPANSION * dim
        self.reverse = reverse
        self.proj_up = Linear(dim, 2 * inner, bias=False)
        self.conv = CausalConv1d(inner, _CONV_KERNEL)
        self.q = BlockDiagonal(inner, _QKV_BLOCK)
        self.k = BlockDiagonal(inner, _QKV_BLOCK)
        self.v = BlockDiagonal(inner, _QKV_BLOCK)
        self.cell = MLSTMCell(inner, eps=eps)
        self.skip = nn.Parameter(torch.ones(inner))
        self.proj_down = Linear(inner, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, dim) -> (B, L, dim), both in row-major order."""
        if self.reverse:
            x = x.flip(1)
        u, z = self.proj_up(x).chunk(2, -1)
        c = F.silu(self.conv(u))
        h = self.cell(self.q(c), self.k(c), self.v(u))
        out: Tensor = self.proj_down((h + self.skip * c) * F.silu(z))
        return out.flip(1) if self.reverse else out


class ViLBlock(nn.Module):
    """Pre-norm residual block of one mLSTM layer; there is no MLP.

    Args:
        dim: Width in and out.
        reverse: Read the tokens from the last to the first.
        drop_path: Stochastic depth of the layer.
        eps: Epsilon of the norms.
    """

    def __init__(
        self, dim: int, reverse: bool = False, drop_path: float = 0.0, eps: float = 1e-5
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=eps, bias=False)
        self.layer = MLSTMLayer(dim, reverse, eps)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, dim) -> (B, L, dim)."""
        out: Tensor = x + self.drop_path(self.layer(self.norm(x)))
        return out


class PositionalEmbedding(nn.Module):
    """A learned map added to the tokens' map, interpolated (bicubic) where the sizes differ.

    Args:
        dim: Width.
        height: Rows of the learned map.
        width: Its columns.
    """

    def __init__(self, dim: int, height: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(1, dim, height, width))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, dim, h, w) -> (B, dim, h, w)."""
        size = x.shape[-2:]
        if size == self.weight.shape[-2:]:
            return x + self.weight
        return x + F.interpolate(self.weight, size=size, mode="bicubic", align_corners=False)


class VisionLSTM(nn.Module):
    """Seg-LSTM's encoder.

    Args:
        in_chans: Bands of an image.
        dim: Width of the tokens, even.
        patch_size: Side of a patch in pixels.
        depths: Blocks of the four groups; in each the first reads from the top left.
        grid_size: Rows and columns of the learned positional embedding.
        drop_path_rate: Stochastic depth of the blocks.
        drop_path_decay: Whether it grows linearly from 0 at the first block.
        layer_norm_eps: Epsilon of every norm.

    Attributes:
        channels: Widths of the four maps.
        strides: Their strides: none is finer than the others.
        size_multiple: What an image's sides have to be multiples of.

    Raises:
        ArgumentsError: Values that make no such network.
    """

    def __init__(
        self,
        in_chans: int = 3,
        dim: int = 384,
        patch_size: int = 16,
        depths: Sequence[int] = (6, 6, 6, 6),
        grid_size: Sequence[int] = (32, 32),
        drop_path_rate: float = 0.0,
        drop_path_decay: bool = False,
        layer_norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        _check(in_chans, dim, patch_size, depths, grid_size, drop_path_rate, layer_norm_eps)
        self.channels = (dim,) * len(depths)
        self.strides = (patch_size,) * len(depths)
        self.size_multiple = patch_size
        self.patch_embed = nn.Conv2d(in_chans, dim, patch_size, stride=patch_size)
        self.pos_embed = PositionalEmbedding(dim, *grid_size)
        first_rate = 0.0 if drop_path_decay else drop_path_rate
        rates = torch.linspace(first_rate, drop_path_rate, sum(depths), device="cpu").tolist()
        self.groups = nn.ModuleList(
            nn.Sequential(
                *(ViLBlock(dim, j % 2 == 1, rates.pop(0), layer_norm_eps) for j in range(depth))
            )
            for depth in depths
        )
        self.reset_projections()

    @torch.no_grad()
    def reset_projections(self) -> None:
        """As in xLSTM: small going up, going down the smaller the deeper the network is."""
        nn.init.xavier_uniform_(self.patch_embed.weight.flatten(1))
        nn.init.zeros_(cast(Tensor, self.patch_embed.bias))
        layers = [m for m in self.modules() if isinstance(m, MLSTMLayer)]
        for layer in layers:
            dim = layer.proj_up.in_features
            for projection in (layer.proj_up, layer.q, layer.k, layer.v):
                nn.init.normal_(projection.weight, std=math.sqrt(2 / (5 * dim)))
            nn.init.normal_(layer.proj_down.weight, std=2 / (len(layers) * math.sqrt(dim)))

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, in_chans, H, W), sides multiples of a patch -> a map of (B, dim, h, w) per group."""
        x = self.pos_embed(self.patch_embed(image))
        height, width = x.shape[-2:]
        x = x.flatten(2).transpose(1, 2)
        maps = []
        for group in self.groups:
            x = group(x)
            maps.append(x.mT.view(-1, x.shape[2], height, width))
        return maps


def _check(
    in_chans: int,
    dim: int,
    patch_size: int,
    depths: Sequence[int],
    grid_size: Sequence[int],
    drop_path_rate: float,
    layer_norm_eps: float,
) -> None:
    whole = [in_chans, dim, patch_size, *depths, *grid_size]
    if not all(isinstance(v, int) and not isinstance(v, bool) and 1 <= v <= 65536 for v in whole):
        raise ArgumentsError("bands, widths, sizes and depths are whole numbers from 1")
    if dim % 2:
        raise ArgumentsError(f"dim is even, so that {HEADS} heads share twice of it, not {dim}")
    if not depths or sum(depths) > 1000:
        raise ArgumentsError(f"depths are those of some groups of blocks, not {list(depths)}")
    if len(grid_size) != 2:
        raise ArgumentsError(f"grid_size is rows and columns, not {list(grid_size)}")
    if not 0.0 <= drop_path_rate < 1.0:
        raise ArgumentsError(f"drop_path_rate is in [0, 1), not {drop_path_rate}")
    if not 0.0 < layer_norm_eps < 1.0:
        raise ArgumentsError(f"layer_norm_eps is in (0, 1), not {layer_norm_eps}")
