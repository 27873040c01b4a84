"""SegMAN's mixers: rotary positions, neighbourhood attention, the scan, global attention."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsmamba_models.layers import BatchNorm2d, DepthwiseConv, Linear, SelectiveScan2d
from rsmamba_models.ops.neighborhood import neighborhood_attention

Rotation = tuple[Tensor, Tensor]
"""Cosines and signed sines of every pixel, each (H, W, 1, head_dim), for all heads."""

LAYER_NORM_EPS = 1e-6
GLOBAL_TABLE = (49, 49)
"""Pixel numbers that the last stage's bias table is made for: the 7 x 7 map of a 224 image."""


class RotaryPosition(nn.Module):
    """Rotary position (RoPE, arXiv 2104.09864) along two axes.

    Half of a head's channels turn with the row, the other half with the column.

    Args:
        head_dim: Channels of a head, a multiple of 4.
    """

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        self.head_dim = head_dim

    def angles(self, device: torch.device | None = None) -> Tensor:
        """(head_dim / 2,) radians a pixel, from 1 to 1/10000; neighbours in pairs share one."""
        powers = torch.linspace(0.0, 1.0, self.head_dim // 4, device=device)
        return (1.0 / 10000**powers).repeat_interleave(2)

    def forward(self, height: int, width: int, device: torch.device) -> Rotation:
        """The map's cosines and sines, in float32 whatever the model: bfloat16 has no row 257.

        The first sine of a pair is negative, as ``rotate`` wants it.
        """
        angle = self.angles(device)
        row = torch.arange(height, device=device)[:, None, None] * angle
        column = torch.arange(width, device=device)[:, None] * angle
        turn = torch.cat([row.expand(-1, width, -1), column.expand(height, -1, -1)], -1)[:, :, None]
        sin = turn.sin()
        return turn.cos(), torch.stack([-sin[..., ::2], sin[..., 1::2]], -1).flatten(-2)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn neighbouring channels (a, b) to (a cos - b sin, b cos + a sin).

    Args:
        x: (B, H, W, heads, head_dim).
        rotation: Of ``RotaryPosition``.
    """
    cos, sin = (t.to(x.dtype) for t in rotation)
    swapped = x.view(*x.shape[:-1], -1, 2).flip(-1).flatten(-2)
    return torch.addcmul(x * cos, swapped, sin)


class LocalAttention(nn.Module):
    """What the mixers of all stages share: projections, rotation, neighbourhood attention.

    Args:
        channels: Width in and out, C.
        heads: Attention heads; C / heads is a multiple of 4.
        window: Side of the window, odd.
        relative_bias: Whether attention has learned biases.
    """

    def __init__(self, channels: int, heads: int, window: int, relative_bias: bool = True) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.head_dim = channels // heads
        self.qkv = Linear(channels, 3 * channels)
        self.lepe = DepthwiseConv(channels, 5)
        self.proj = Linear(channels, channels)
        side = 2 * window - 1
        self.window_bias = nn.Parameter(torch.zeros(heads, side, side)) if relative_bias else None

    def attend(self, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Attention of every pixel to its window.

        Args:
            x: (B, H, W, C).
            rotation: Of the map.

        Returns:
            Rotated queries and keys and the attention's result, (B, heads, H, W, head_dim), and the
            local enhancement of the values (LePE, arXiv 2107.00652), (B, H, W, C).
        """
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, self.head_dim)).unbind(3)
        lepe = self.lepe(v.flatten(3))
        q, k = (rotate(t, rotation).permute(0, 3, 1, 2, 4) for t in (q, k))
        found = neighborhood_attention(
            q, k, v.permute(0, 3, 1, 2, 4), self.window, bias=self.window_bias
        )
        return q, k, found, lepe


class LASS(LocalAttention):
    """Local attention and state space (the paper's section 3.2): the scan reads the attention.

    Args:
        channels: Width in and out.
        heads: Attention heads.
        window: Side of the window.
        relative_bias: Whether attention has a learned bias.
    """

    def __init__(self, channels: int, heads: int, window: int, relative_bias: bool = True) -> None:
        super().__init__(channels, heads, window, relative_bias)
        self.conv = DepthwiseConv(channels, 3)
        self.conv_norm = BatchNorm2d(channels)
        self.scan = SelectiveScan2d(channels, 1, math.ceil(channels / 16))
        self.norm = nn.LayerNorm(channels, eps=LAYER_NORM_EPS)

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        *_, found, lepe = self.attend(x, rotation)
        a = found.permute(0, 2, 3, 1, 4).flatten(3)
        u = F.silu(self.conv_norm(self.conv(a).permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        out: Tensor = self.proj(self.norm(self.scan(u)) + a + lepe)
        return out


class GlobalAttention(LocalAttention):
    """The last stage's mixer: every pixel attends to what all pixels' windows held.

    The bias between two pixels is read off a table of their numbers, made for a 7 x 7 map and
    resized by bicubic interpolation over those numbers. That is ``W T W'`` with the interpolation's
    weights W, a product of narrow matrices, so it joins q and k as further channels: the fused
    attention runs without a mask, and memory is linear in the number of pixels.

    Args:
        channels: Width in and out.
        heads: Attention heads.
        window: Side of the window.
        relative_bias: Whether both attentions have learned biases.
        table: Rows and columns of the bias table.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        window: int,
        relative_bias: bool = True,
        table: tuple[int, int] = GLOBAL_TABLE,
    ) -> None:
        super().__init__(channels, heads, window, relative_bias)
        self.global_bias = nn.Parameter(torch.zeros(heads, *table)) if relative_bias else None

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        *heads, lepe = self.attend(x, rotation)
        q, k, found = (t.flatten(2, 3) for t in heads)
        q = q * self.head_dim**-0.5
        if self.global_bias is not None:
            rows, columns = (
                interpolation(q.shape[2], entries, self.global_bias)
                for entries in self.global_bias.shape[1:]
            )
            q = torch.cat([q, (rows @ self.global_bias).to(q.dtype).expand(len(q), -1, -1, -1)], -1)
            k = torch.cat([k, columns.to(k.dtype).expand(*k.shape[:2], -1, -1)], -1)
        a = fused_attention(q, k, found).transpose(1, 2).reshape(x.shape)
        out: Tensor = self.proj(a + lepe)
        return out


def interpolation(length: int, entries: int, like: Tensor) -> Tensor:
    """(length, entries) weights of a table's entries in its bicubic resizing to ``length``."""
    identity = torch.eye(entries, device=like.device)[None, None]
    size = (length, entries)
    return F.interpolate(identity, size, mode="bicubic", align_corners=False)[0, 0].to(like.dtype)


def fused_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of all to all, logits q.k; q and k may be wider than v.

    Args:
        q: (B, heads, L, E).
        k: (B, heads, L, E).
        v: (B, heads, L, D), D at most E.

    Returns:
        (B, heads, L, D).
    """
    # PyTorch's fused kernels want one width, some a multiple of 8; with any other the scores of all
    # pairs would be in memory.
    width = q.shape[-1] + -q.shape[-1] % 8
    q, k, wide = (F.pad(t, (0, width - t.shape[-1])) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, wide, scale=1.0)[..., : v.shape[-1]]
