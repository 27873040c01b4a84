"""SegMAN's blocks, stages and encoder."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsmamba_models.checks import check_counts
from rsmamba_models.errors import ArgumentsError
from rsmamba_models.layers import BatchNorm2d, DepthwiseConv, DropPath, Linear, crop, pad_to
from rsmamba_models.segman.attention import (
    GLOBAL_TABLE,
    LASS,
    LAYER_NORM_EPS,
    GlobalAttention,
    LocalAttention,
    RotaryPosition,
    Rotation,
)


class ConvMlp(nn.Module):
    """MLP with a depth-wise 3x3 convolution, as a residual, after the activation.

    Args:
        channels: Width in and out.
        hidden: Width between.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(channels, hidden)
        self.conv = DepthwiseConv(hidden, 3)
        self.fc2 = Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = F.gelu(self.fc1(x))
        out: Tensor = self.fc2(x + self.conv(x))
        return out


class LayerScale(nn.Module):
    """A gain and a bias per channel; the gain starts so small that a block starts as nothing.

    Args:
        channels: Width.
        gain: Its first value.
    """

    def __init__(self, channels: int, gain: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((channels,), gain))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) -> (..., C)."""
        return x * self.weight + self.bias


class Block(nn.Module):
    """Position, mixer, position, MLP: four residuals, the mixer's and MLP's with a norm before.

    Args:
        mixer: (B, H, W, C), and what ``forward`` is given beyond, to (B, H, W, C).
        channels: Width in and out, C.
        hidden: Width inside the MLP.
        layer_scale: First gain of the branches' scales; None for no scales.
        drop_path: Stochastic depth of both branches.
    """

    def __init__(
        self,
        mixer: nn.Module,
        channels: int,
        hidden: int,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.position1 = DepthwiseConv(channels, 3)
        self.norm1 = nn.LayerNorm(channels, eps=LAYER_NORM_EPS)
        self.mixer = mixer
        self.position2 = DepthwiseConv(channels, 3)
        self.norm2 = nn.LayerNorm(channels, eps=LAYER_NORM_EPS)
        self.mlp = ConvMlp(channels, hidden)
        self.scale1, self.scale2 = (
            nn.Identity() if layer_scale is None else LayerScale(channels, layer_scale)
            for _ in range(2)
        )
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor, *context: Rotation) -> Tensor:
        """(B, H, W, C), and what the mixer wants beyond -> (B, H, W, C)."""
        x = x + self.position1(x)
        x = x + self.drop_path(self.scale1(self.mixer(self.norm1(x), *context)))
        x = x + self.position2(x)
        out: Tensor = x + self.drop_path(self.scale2(self.mlp(self.norm2(x))))
        return out


class Stage(nn.Module):
    """Blocks of one width, which share the rotation of their map.

    Args:
        channels: Width in and out.
        heads: Attention heads.
        window: Side of the window.
        hidden: Width inside the MLPs.
        drop_paths: Stochastic depth of every block; their number is the stage's depth.
        layer_scale: First gain of the branches' scales; None for no scales.
        relative_bias: Whether attention has learned biases.
        table: Rows and columns of the last stage's bias table; None for the stages with LASS.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        window: int,
        hidden: int,
        drop_paths: Sequence[float],
        *,
        layer_scale: float | None = None,
        relative_bias: bool = True,
        table: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.rotary = RotaryPosition(channels // heads)
        self.blocks = nn.ModuleList()
        for rate in drop_paths:
            mixer: LocalAttention
            if table is None:
                mixer = LASS(channels, heads, window, relative_bias)
            else:
                mixer = GlobalAttention(channels, heads, window, relative_bias, table)
            self.blocks.append(Block(mixer, channels, hidden, layer_scale, rate))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W); channel-last in between."""
        rotation = self.rotary(x.shape[2], x.shape[3], x.device)
        x = x.permute(0, 2, 3, 1)
        for block in self.blocks:
            x = block(x, rotation)
        return x.permute(0, 3, 1, 2)


class SegMANEncoder(nn.Module):
    """Convolutional stem and four stages, with a convolution of stride 2 between them.

    Takes images whose last map holds a window: from 193 pixels a side with windows of 7. Smaller
    ones are padded by replication and the maps cropped.

    Args:
        in_chans: Bands of an image.
        dims: Widths of the four stages.
        depths: Blocks of the four stages.
        heads: Attention heads of the four stages; a head's width is a multiple of 4.
        windows: Sides of the four stages' attention windows, odd.
        mlp_ratios: Hidden widths of the MLPs over the stage's, rounded down to whole channels.
        layer_scale: First gain of the branches' scales; None for none.
        drop_path_rate: Stochastic depth of the last block; linear from 0 over the blocks.
        relative_bias: Whether attention has learned biases.
        table: Rows and columns of the last stage's bias table.

    Attributes:
        channels: Widths of the maps, fine to coarse.
        strides: Image pixels a map pixel, fine to coarse.
        size_multiple: What the sides of a window over a scene should be multiples of.

    Raises:
        ArgumentsError: Values that make no such network.
    """

    strides = (4, 8, 16, 32)
    size_multiple = 32

    def __init__(
        self,
        *,
        in_chans: int = 3,
        dims: Sequence[int] = (32, 64, 144, 192),
        depths: Sequence[int] = (2, 2, 4, 2),
        heads: Sequence[int] = (1, 2, 4, 8),
        windows: Sequence[int] = (11, 9, 9, 7),
        mlp_ratios: Sequence[float] = (4.0, 4.0, 3.0, 3.0),
        layer_scale: float | None = None,
        drop_path_rate: float = 0.0,
        relative_bias: bool = True,
        table: Sequence[int] = GLOBAL_TABLE,
    ) -> None:
        super().__init__()
        _check(in_chans, dims, depths, heads, windows, mlp_ratios, table)
        if not 0.0 <= drop_path_rate < 1.0:
            raise ArgumentsError(f"drop_path_rate is in [0, 1), not {drop_path_rate}")
        self.channels = tuple(dims)
        self.smallest = max(s * (w - 1) + 1 for s, w in zip(self.strides, windows, strict=True))
        self.stem = stem(in_chans, dims[0])
        rates = torch.linspace(0.0, drop_path_rate, sum(depths), device="cpu").tolist()
        self.stages = nn.ModuleList()
        self.downsamplings = nn.ModuleList()
        for i, channels in enumerate(dims):
            first = sum(depths[:i])
            self.stages.append(
                Stage(
                    channels,
                    heads[i],
                    windows[i],
                    int(mlp_ratios[i] * channels),
                    rates[first : first + depths[i]],
                    layer_scale=layer_scale,
                    relative_bias=relative_bias,
                    table=(table[0], table[1]) if i == 3 else None,
                )
            )
            if i < 3:
                self.downsamplings.append(nn.Sequential(*conv_norm(channels, dims[i + 1], 2)))
        self.apply(_initialise)

    def padded_side(self, side: int) -> int:
        """What a segmenter pads a side to.

        The same where the paper's network, decoder included, takes it; else a multiple of 32.
        """
        taken = side >= self.smallest and math.ceil(side / 8) % 4 == 0
        return side if taken else 32 * math.ceil(max(side, self.smallest) / 32)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, in_chans, H, W) -> four maps at strides 4, 8, 16, 32, of ceil(H / stride) rows."""
        height, width = image.shape[-2:]
        x = self.stem(pad_to(image, self._at_least))
        maps = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            stride = self.strides[i]
            maps.append(crop(x, -(-height // stride), -(-width // stride)))
            if i < 3:
                x = self.downsamplings[i](x)
        return maps

    def _at_least(self, side: int) -> int:
        return side if side >= self.smallest else self.padded_side(side)


def stem(in_chans: int, channels: int) -> nn.Sequential:
    """Image to the first map, at stride 4: four 3x3 convolutions with batch norm, GELU between."""
    half = channels // 2
    return nn.Sequential(
        *conv_norm(in_chans, half, 2),
        nn.GELU(),
        *conv_norm(half, half, 1),
        nn.GELU(),
        *conv_norm(half, channels, 2),
        nn.GELU(),
        *conv_norm(channels, channels, 1),
    )


def conv_norm(in_channels: int, out_channels: int, stride: int) -> tuple[nn.Module, nn.Module]:
    """A 3x3 convolution without bias, and batch norm."""
    conv = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
    return conv, BatchNorm2d(out_channels)


def _initialise(module: nn.Module) -> None:
    """Weights of linear layers and convolutions truncated normal, biases zero."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _check(
    in_chans: int,
    dims: Sequence[int],
    depths: Sequence[int],
    heads: Sequence[int],
    windows: Sequence[int],
    mlp_ratios: Sequence[float],
    table: Sequence[int],
) -> None:
    check_counts(
        in_chans=in_chans, dims=dims, depths=depths, heads=heads, windows=windows, table=table
    )
    stages = {"dims": dims, "depths": depths, "heads": heads, "windows": windows}
    for name, values in {**stages, "mlp_ratios": mlp_ratios}.items():
        if len(values) != 4:
            raise ArgumentsError(f"{name}: one value for each of the four stages, not {values!r}")
    if dims[0] % 2:
        raise ArgumentsError(f"the first of dims is even, not {dims[0]}")
    if max(depths) > 1000:
        raise ArgumentsError(f"depths up to 1000, not {list(depths)}")
    if any(d % h or d // h % 4 for d, h in zip(dims, heads, strict=True)):
        raise ArgumentsError(
            f"a head's width, dims over heads, is a multiple of 4; dims are {list(dims)}, heads "
            f"{list(heads)}"
        )
    if any(w % 2 == 0 for w in windows):
        raise ArgumentsError(f"windows are odd, not {list(windows)}")
    if any(not 1 <= r * d <= 2**20 for r, d in zip(mlp_ratios, dims, strict=True)):
        raise ArgumentsError(f"mlp_ratios leave no channel, or too many: {list(mlp_ratios)}")
    if len(table) != 2:
        raise ArgumentsError(f"table has rows and columns, not {list(table)}")
