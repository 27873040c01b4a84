"""Samba: a hierarchical encoder whose token mixer is Mamba, for UPerNet or any other decoder.

Zhu et al., "Samba: Semantic Segmentation of Remotely Sensed Images with State Space Model",
arXiv 2404.01705, as its official code computes it. Four stages; a block is a Mamba layer with 64
states that reads the map once, row by row, then an MLP with a depth-wise convolution. Only the
convolutions let a pixel see what comes after it. Maps are channel-last throughout, so nothing is
permuted; the encoder takes images of any size.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsmamba_models.checks import check_counts, check_epsilons, check_rates
from rsmamba_models.errors import ArgumentsError
from rsmamba_models.layers import (
    CausalConv1d,
    ConvNormAct,
    DepthwiseConv,
    Downsample,
    DropPath,
    Linear,
    SelectiveScan2d,
    linear,
    linear_init_,
)


class Mamba(nn.Module):
    """Mamba's mixer (Gu and Dao, arXiv 2312.00752, section 3.4) over a map, row by row.

    Args:
        channels: Width in and out, C.
        d_state: States per inner channel, N.
        d_conv: Taps of the causal convolution.
        expand: Inner width E over C.
        dt_rank: Rank of the step's projection, R.
    """

    def __init__(
        self, channels: int, d_state: int, d_conv: int, expand: float, dt_rank: int
    ) -> None:
        super().__init__()
        inner = round(expand * channels)
        self.in_proj = Linear(channels, 2 * inner, bias=False)  # rows: input, gate
        self.conv = CausalConv1d(inner, d_conv)
        self.scan = SelectiveScan2d(inner, d_state, dt_rank, order="raster")
        self.out_proj = Linear(inner, channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C); a pixel sees those before it in row-major order."""
        weight_u, weight_z = self.in_proj.weight.chunk(2)
        gate = F.silu(linear(x, weight_z))
        u = self.conv(linear(x, weight_u).flatten(1, 2))
        y = self.scan(F.silu(u).view_as(gate))
        out: Tensor = self.out_proj(y * gate)
        return out


class ConvMlp(nn.Module):
    """PVT v2's MLP (Wang et al., arXiv 2106.13797): a depth-wise 3x3 before the exact GELU.

    Args:
        channels: Width in and out.
        hidden: Width between.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(channels, hidden)
        self.dwconv = DepthwiseConv(hidden, 3)
        self.act = nn.GELU()
        self.fc2 = Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        out: Tensor = self.fc2(self.act(self.dwconv(self.fc1(x))))
        return out


class SambaBlock(nn.Module):
    """Pre-norm residual block: Mamba over the pixels in row-major order, then the MLP.

    Args:
        channels: Width in and out.
        mlp_ratio: Hidden width of the MLP over ``channels``.
        d_state: States per inner channel of the mixer.
        d_conv: Taps of the mixer's convolution.
        expand: Inner width of the mixer over ``channels``.
        dt_rank: Rank of the step's projection.
        drop_path: Stochastic depth of both branches.
        eps: Epsilon of the layer norms.
    """

    def __init__(
        self,
        channels: int,
        mlp_ratio: float,
        d_state: int,
        d_conv: int,
        expand: float,
        dt_rank: int,
        drop_path: float = 0.0,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=eps)
        self.mixer = Mamba(channels, d_state, d_conv, expand, dt_rank)
        self.norm2 = nn.LayerNorm(channels, eps=eps)
        self.mlp = ConvMlp(channels, round(mlp_ratio * channels))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = x + self.drop_path(self.mixer(self.norm1(x)))
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return out


class Stem(nn.Module):
    """Image to tokens at stride 4: three convolutions of which the first halves, then one more.

    Args:
        in_chans: Bands of the image.
        hidden: Width inside.
        channels: Width of the tokens.
        layer_norm_eps: Epsilon of the layer norm.
        batch_norm_eps: Epsilon of the batch norms.
    """

    def __init__(
        self,
        in_chans: int,
        hidden: int,
        channels: int,
        layer_norm_eps: float,
        batch_norm_eps: float,
    ) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            ConvNormAct(in_chans, hidden, 7, bias=False, eps=batch_norm_eps, stride=2),
            ConvNormAct(hidden, hidden, 3, bias=False, eps=batch_norm_eps),
            ConvNormAct(hidden, hidden, 3, bias=False, eps=batch_norm_eps),
        )
        self.down = Downsample(hidden, channels, layer_norm_eps)

    def forward(self, image: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> (B, ceil(H/4), ceil(W/4), channels)."""
        x = self.convs(image.contiguous(memory_format=torch.channels_last))
        out: Tensor = self.down(x.permute(0, 2, 3, 1))
        return out


class SambaEncoder(nn.Module):
    """The Samba backbone: maps at strides 4, 8, 16, 32 (for four stages), each layer-normed.

    A stage halves the previous stage's *normed* map.

    Args:
        in_chans: Bands of the image.
        dims: Widths of the stages.
        depths: Blocks of the stages.
        mlp_ratios: Hidden widths of the MLPs over the stages'.
        stem_channels: Width inside the stem.
        d_state: States per inner channel of the mixers.
        d_conv: Taps of the mixers' convolutions.
        expand: Inner widths of the mixers over the stages'.
        dt_rank: Rank of the steps' projections, or "auto" for a sixteenth of the width.
        drop_path_rate: Stochastic depth of the last block; linear from 0 over the blocks.
        layer_norm_eps: Epsilon of every layer norm.
        batch_norm_eps: Epsilon of every batch norm.
        initialisation: "mamba" keeps the initialisation of Mamba's steps, which are then between
            1e-3 and 1e-1; "official" overwrites it as the official code does: steps near 0.7, so
            that a state forgets within a token or two.

    Raises:
        ArgumentsError: Values that make no such encoder.
    """

    size_multiple = 1

    def __init__(
        self,
        in_chans: int = 3,
        dims: Sequence[int] = (64, 128, 320, 448),
        depths: Sequence[int] = (3, 4, 6, 3),
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        stem_channels: int = 32,
        d_state: int = 64,
        d_conv: int = 4,
        expand: float = 2,
        dt_rank: int | Literal["auto"] = "auto",
        drop_path_rate: float = 0.0,
        layer_norm_eps: float = 1e-5,
        batch_norm_eps: float = 1e-5,
        initialisation: Literal["mamba", "official"] = "mamba",
    ) -> None:
        super().__init__()
        check_counts(in_chans=in_chans, dims=dims, depths=depths, stem_channels=stem_channels)
        check_counts(d_state=d_state, d_conv=d_conv)
        check_counts(dt_rank=1 if dt_rank == "auto" else dt_rank)
        check_rates(drop_path_rate=drop_path_rate)
        check_epsilons(layer_norm_eps=layer_norm_eps, batch_norm_eps=batch_norm_eps)
        _check_ratios(dims, depths, mlp_ratios, expand)
        if initialisation not in ("mamba", "official"):
            raise ArgumentsError(f"initialisation is 'mamba' or 'official', not {initialisation!r}")
        self.channels = tuple(dims)
        self.strides = tuple(4 * 2**i for i in range(len(dims)))
        self.embeds = nn.ModuleList(
            [Stem(in_chans, stem_channels, dims[0], layer_norm_eps, batch_norm_eps)]
        )
        self.stages = nn.ModuleList()
        self.norms = nn.ModuleList(nn.LayerNorm(c, eps=layer_norm_eps) for c in dims)
        rates = torch.linspace(0.0, drop_path_rate, sum(depths), device="cpu").tolist()
        for i, (channels, depth, ratio) in enumerate(zip(dims, depths, mlp_ratios, strict=True)):
            if i > 0:
                self.embeds.append(Downsample(dims[i - 1], channels, layer_norm_eps))
            rank = math.ceil(channels / 16) if dt_rank == "auto" else dt_rank
            self.stages.append(
                nn.Sequential(
                    *(
                        SambaBlock(
                            *(channels, ratio, d_state, d_conv, expand, rank),
                            drop_path=rates.pop(0),
                            eps=layer_norm_eps,
                        )
                        for _ in range(depth)
                    )
                )
            )
        self.apply(partial(_initialise, keep_steps=initialisation == "mamba"))

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, in_chans, H, W) -> maps (B, dims[i], ceil(H / strides[i]), ...), fine to coarse."""
        x, maps = image, []
        for embed, blocks, norm in zip(self.embeds, self.stages, self.norms, strict=True):
            x = norm(blocks(embed(x)))
            maps.append(x.permute(0, 3, 1, 2))
        return maps


def _initialise(module: nn.Module, keep_steps: bool) -> None:
    """The official initialisation of one module; it may leave Mamba's steps as they are."""
    linear_init_(module)
    if isinstance(module, SelectiveScan2d):
        nn.init.trunc_normal_(module.x_proj, std=0.02)
        if not keep_steps:
            nn.init.trunc_normal_(module.dt_proj, std=0.02)
            nn.init.zeros_(module.dt_bias)
    if isinstance(module, nn.Conv2d):
        outputs = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
        nn.init.normal_(module.weight, std=math.sqrt(2.0 * module.groups / outputs))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _check_ratios(
    dims: Sequence[int], depths: Sequence[int], mlp_ratios: Sequence[float], expand: float
) -> None:
    if not len(dims) == len(depths) == len(mlp_ratios):
        raise ArgumentsError(
            "dims, depths and mlp_ratios are one value a stage, "
            f"not {list(dims)}, {list(depths)} and {list(mlp_ratios)}"
        )
    for name, ratio in (("expand", expand), *(("mlp_ratios", r) for r in mlp_ratios)):
        if not isinstance(ratio, int | float) or not 1.0 / min(dims) <= ratio <= 64:
            raise ArgumentsError(f"{name} is positive and at most 64, not {ratio!r}")
