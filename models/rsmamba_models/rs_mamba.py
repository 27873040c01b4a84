"""RS-Mamba: RSM-SS for segmentation and RSM-CD for change detection.

Zhao et al., "RS-Mamba for Large Remote Sensing Image Dense Prediction", arXiv 2404.02668, as its
official code computes it. A VMamba encoder whose selective scan runs along eight directions (rows,
columns and wrapped diagonals, both ways), a U-shaped decoder, a x4 head. Maps are channel-last
inside the encoder and channel-first elsewhere. Inputs of any size from 1x1: they are padded by
replication to a multiple of 32 and the logits cropped back.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsmamba_models.errors import ArgumentsError
from rsmamba_models.layers import (
    ConvNormAct,
    Downsample,
    DropPath,
    Linear,
    Mlp,
    NarrowConv2d,
    PatchEmbed,
    SelectiveScan2d,
    TopDown,
    by_rows,
    crop,
    linear,
    linear_init_,
    pad_to_multiple,
)


class OmniScan(SelectiveScan2d):
    """Omnidirectional selective scan module (OSSM; the paper's section 3.3).

    Args:
        channels: Width in and out, C.
        d_state: States per channel, N.
        ratio: Inner width over C; the inner width is E.
        dt_rank: Rank of the step's projection, R.
        eps: Epsilon of the layer norm after the scan.
    """

    def __init__(
        self, channels: int, d_state: int, ratio: float, dt_rank: int, eps: float = 1e-5
    ) -> None:
        inner = round(ratio * channels)
        # Made before the scan's parameters: a seed gives the weights that it always gave.
        in_proj = nn.Linear(channels, 2 * inner, bias=False)
        conv = nn.Conv2d(inner, inner, 3, padding=1, groups=inner)
        out_proj = Linear(inner, channels, bias=False)
        super().__init__(inner, d_state, dt_rank, order="omni")
        self.in_proj = in_proj
        self.conv = conv
        self.out_norm = nn.LayerNorm(inner, eps=eps)
        self.out_proj = out_proj

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """(B, H, W, C) -> (B, H, W, C)."""
        weight_x, weight_z = self.in_proj.weight.chunk(2)

        def gated(y: Tensor, x: Tensor) -> Tensor:
            out: Tensor = self.out_proj(self.out_norm(y) * F.silu(linear(x, weight_z)))
            return out

        y = super().forward(self._convolved(linear(x, weight_x)))
        return by_rows(gated, y, x, width=2 * y.shape[-1])

    def _convolved(self, x: Tensor) -> Tensor:
        u = self.conv(x.permute(0, 3, 1, 2))
        u = F.silu(u, inplace=not torch.is_grad_enabled())
        return u.permute(0, 2, 3, 1).contiguous()


class OmniBlock(nn.Module):
    """Pre-norm residual block: omnidirectional scan, then MLP.

    Args:
        channels: Width in and out.
        d_state: States per channel of the scan.
        ssm_ratio: Inner width of the scan over ``channels``.
        dt_rank: Rank of the step's projection.
        mlp_ratio: Hidden width of the MLP over ``channels``.
        drop_path: Stochastic depth of both branches.
        eps: Epsilon of the layer norms.
    """

    def __init__(
        self,
        channels: int,
        d_state: int,
        ssm_ratio: float,
        dt_rank: int,
        mlp_ratio: float,
        drop_path: float = 0.0,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels, eps=eps)
        self.scan = OmniScan(channels, d_state, ssm_ratio, dt_rank, eps)
        self.norm2 = nn.LayerNorm(channels, eps=eps)
        self.mlp = Mlp(channels, round(mlp_ratio * channels))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        x = x + self.drop_path(self.scan(self.norm1(x)))
        return by_rows(self._mixed, x, width=2 * self.mlp.fc1.out_features, out=x)

    def _mixed(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return out


class RSMambaEncoder(nn.Module):
    """Patch embedding and four stages; a stage downsamples first, so its output is a skip.

    Args:
        in_chans: Bands of an image.
        dims: Widths of the four stages, each twice the one before.
        depths: Blocks of the four stages.
        ssm_d_state: States per channel.
        ssm_ratio: Inner width of the scan over the stage's.
        ssm_dt_rank: Rank of the step's projection, or "auto" for a sixteenth of the width.
        mlp_ratio: Hidden width of the MLP over the stage's.
        drop_path_rate: Stochastic depth of the last block; linear from 0 over the blocks.
        layer_norm_eps: Epsilon of every layer norm.

    Raises:
        ArgumentsError: Values that make no such network.
    """

    strides = (4, 8, 16, 32)
    size_multiple = 32

    def __init__(
        self,
        *,
        in_chans: int = 3,
        dims: Sequence[int] = (96, 192, 384, 768),
        depths: Sequence[int] = (2, 2, 9, 2),
        ssm_d_state: int = 16,
        ssm_ratio: float = 2.0,
        ssm_dt_rank: int | str = "auto",
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.1,
        layer_norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        _check(
            in_chans,
            dims,
            depths,
            ssm_d_state,
            ssm_dt_rank,
            drop_path_rate,
            {"ssm_ratio": ssm_ratio, "mlp_ratio": mlp_ratio},
            layer_norm_eps,
        )
        self.channels = tuple(dims)
        self.patch_embed = PatchEmbed(in_chans, dims[0], layer_norm_eps)
        rates = torch.linspace(0.0, drop_path_rate, sum(depths), device="cpu").tolist()
        self.stages = nn.ModuleList()
        for i, (channels, depth) in enumerate(zip(dims, depths, strict=True)):
            rank = math.ceil(channels / 16) if ssm_dt_rank == "auto" else int(ssm_dt_rank)
            stage = nn.Sequential()
            if i > 0:
                stage.append(Downsample(dims[i - 1], channels, layer_norm_eps))
            for _ in range(depth):
                stage.append(
                    OmniBlock(
                        channels,
                        ssm_d_state,
                        ssm_ratio,
                        rank,
                        mlp_ratio,
                        rates.pop(0),
                        layer_norm_eps,
                    )
                )
            self.stages.append(stage)
        self.apply(linear_init_)

    def forward(self, image: Tensor) -> list[Tensor]:
        """(B, in_chans, H, W) -> four channel-first maps at strides 4, 8, 16, 32."""
        x = self.patch_embed(image)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x.permute(0, 3, 1, 2))
        return maps


class Decoder(nn.Module):
    """From coarse to fine: upsample by nearest x2, concatenate with the skip, fuse by 1x1."""

    def __init__(self, dims: Sequence[int], eps: float) -> None:
        super().__init__()
        self.blocks = TopDown(dims, eps)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Four maps, fine to coarse -> (B, dims[0], H/4, W/4)."""
        out: Tensor = self.blocks(maps)
        return out


class Head(nn.Module):
    """Two rounds of 3x3 convolution and bilinear x2 (corners aligned), then 7x7 to the logits."""

    def __init__(self, channels: int, num_classes: int, eps: float) -> None:
        super().__init__()
        upsample = nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=True)
        self.upsample_x4 = nn.Sequential(
            ConvNormAct(channels, channels // 2, 3, bias=True, eps=eps),
            upsample,
            ConvNormAct(channels // 2, 8, 3, bias=True, eps=eps),
            upsample,
        )
        self.out = NarrowConv2d(8, num_classes, 7)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H/4, W/4) -> (B, num_classes, H, W)."""
        out: Tensor = self.out(self.upsample_x4(x))
        return out


class RSMamba(nn.Module):
    """What both networks share; use ``RSMambaSegmenter`` or ``RSMambaChangeDetector``.

    Args:
        architecture: Name under which a checkpoint finds this class again.
        in_chans: Bands of an image.
        num_classes: Channels of the logits; 1 is a sigmoid, 2 or more a softmax.
        dims: Widths of the four stages, each twice the one before.
        depths: Blocks of the four stages.
        ssm_d_state: States per channel.
        ssm_ratio: Inner width of the scan over the stage's.
        ssm_dt_rank: Rank of the step's projection, or "auto" for a sixteenth of the width.
        mlp_ratio: Hidden width of the MLP over the stage's.
        drop_path_rate: Stochastic depth of the last block; linear from 0 over the blocks.
        layer_norm_eps: Epsilon of every layer norm.
        batch_norm_eps: Epsilon of every batch norm.

    Raises:
        ArgumentsError: Values that make no such network.
    """

    task: ClassVar[str]
    size_multiple = 32

    def __init__(
        self,
        *,
        architecture: str,
        in_chans: int = 3,
        num_classes: int = 1,
        dims: Sequence[int] = (96, 192, 384, 768),
        depths: Sequence[int] = (2, 2, 9, 2),
        ssm_d_state: int = 16,
        ssm_ratio: float = 2.0,
        ssm_dt_rank: int | str = "auto",
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.1,
        layer_norm_eps: float = 1e-5,
        batch_norm_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.arguments: dict[str, Any] = {
            "in_chans": in_chans,
            "num_classes": num_classes,
            "dims": list(dims),
            "depths": list(depths),
            "ssm_d_state": ssm_d_state,
            "ssm_ratio": ssm_ratio,
            "ssm_dt_rank": ssm_dt_rank,
            "mlp_ratio": mlp_ratio,
            "drop_path_rate": drop_path_rate,
            "layer_norm_eps": layer_norm_eps,
            "batch_norm_eps": batch_norm_eps,
        }
        _check_whole("num_classes", num_classes)
        _check_eps("batch_norm_eps", batch_norm_eps)
        self.encoder = RSMambaEncoder(
            **{
                k: v
                for k, v in self.arguments.items()
                if k not in ("num_classes", "batch_norm_eps")
            }
        )
        self.decoder = Decoder(dims, batch_norm_eps)
        self.head = Head(dims[0], num_classes, batch_norm_eps)

    def training_forward(self, *images: Tensor) -> dict[str, Tensor]:
        """What a loss needs: ``{"logits": (B, num_classes, H, W)}``."""
        return {"logits": self(*images)}

    def _check_bands(self, image: Tensor) -> None:
        if image.dim() == 4 and image.shape[1] != self.in_chans:
            raise ArgumentsError(
                f"{self.architecture} was made for {self.in_chans} bands, "
                f"the image has {image.shape[1]}"
            )


class RSMambaSegmenter(RSMamba):
    """RSM-SS: semantic segmentation of one image."""

    task = "segmentation"

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> logits (B, num_classes, H, W)."""
        self._check_bands(x)
        maps = self.encoder(pad_to_multiple(x, self.size_multiple))
        return crop(self.head(self.decoder(maps)), x.shape[-2], x.shape[-1])


class RSMambaChangeDetector(RSMamba):
    """RSM-CD: what changed from the first image to the second.

    Both dates go through the same encoder; at every scale a 1x1 convolution fuses
    ``[date 1, date 2]``. The result is not symmetric in the dates.
    """

    task = "change"

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.fuse = nn.ModuleList(
            ConvNormAct(2 * c, c, 1, bias=False, eps=self.arguments["batch_norm_eps"])
            for c in self.arguments["dims"]
        )

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        """Two of (B, in_chans, H, W), same size -> logits (B, num_classes, H, W)."""
        self._check_bands(x1)
        if x1.shape != x2.shape:
            raise ArgumentsError(
                f"the two dates differ in shape: {tuple(x1.shape)} and {tuple(x2.shape)}"
            )
        both = self.encoder(pad_to_multiple(torch.cat([x1, x2]), self.size_multiple))
        maps = [fuse(torch.cat(m.chunk(2), 1)) for fuse, m in zip(self.fuse, both, strict=True)]
        return crop(self.head(self.decoder(maps)), x1.shape[-2], x1.shape[-1])


def _check(
    in_chans: int,
    dims: Sequence[int],
    depths: Sequence[int],
    states: int,
    rank: int | str,
    drop_path: float,
    ratios: dict[str, float],
    eps: float,
) -> None:
    for name, values in (
        ("in_chans", [in_chans]),
        ("ssm_d_state", [states]),
        ("dims", dims),
        ("depths", depths),
    ):
        for value in values:
            _check_whole(name, value)
    if len(dims) != 4 or len(depths) != 4 or max(depths) > 1000:
        raise ArgumentsError(f"four stages are needed, not dims {dims} and depths {depths}")
    if any(b != 2 * a for a, b in itertools.pairwise(dims)) or dims[0] % 2:
        raise ArgumentsError(f"dims must start even and double from stage to stage, not {dims}")
    if rank != "auto" and (not isinstance(rank, int) or rank < 1):
        raise ArgumentsError(f"ssm_dt_rank is 'auto' or a whole number from 1, not {rank!r}")
    if not 0.0 <= drop_path < 1.0:
        raise ArgumentsError(f"drop_path_rate is in [0, 1), not {drop_path}")
    _check_eps("layer_norm_eps", eps)
    for name, ratio in ratios.items():
        if not 1.0 / dims[0] <= ratio <= 64:
            raise ArgumentsError(f"{name} is positive and at most 64, not {ratio}")


def _check_whole(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65536:
        raise ArgumentsError(f"{name}: whole numbers from 1 to 65536 are wanted, not {value!r}")


def _check_eps(name: str, value: float) -> None:
    if not 0.0 < value < 1.0:
        raise ArgumentsError(f"{name} is in (0, 1), not {value}")
