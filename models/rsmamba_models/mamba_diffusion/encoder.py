"""Two VMamba encoders side by side, fused in every stage."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rsmamba_models.errors import ArgumentsError
from rsmamba_models.layers import Downsample, PatchEmbed, linear_init_
from rsmamba_models.mamba_diffusion.blocks import ScanSize, VSSBlock
from rsmamba_models.mamba_diffusion.fusion import CrossScan, FusionBlock, SplitScan


class Stage(nn.Module):
    """Each modality's own blocks, then DCF, then DS-S4, then what goes out and what goes on."""

    def __init__(
        self,
        size: ScanSize,
        rates: Sequence[float],
        dcf_rates: Sequence[float],
        dss4_rates: Sequence[float],
        out_channels: int | None,
    ) -> None:
        super().__init__()
        self.optical = nn.Sequential(*(VSSBlock(size, rate) for rate in rates))
        self.sar = nn.Sequential(*(VSSBlock(size, rate) for rate in rates))
        self.dcf = nn.ModuleList(FusionBlock(CrossScan, size, rate) for rate in dcf_rates)
        self.dss4 = nn.ModuleList(FusionBlock(SplitScan, size, rate) for rate in dss4_rates)
        self.norm_optical = nn.LayerNorm(size.channels, eps=size.eps)
        self.norm_sar = nn.LayerNorm(size.channels, eps=size.eps)
        if out_channels is None:
            self.down_optical: nn.Module = nn.Identity()
            self.down_sar: nn.Module = nn.Identity()
        else:
            self.down_optical = Downsample(size.channels, out_channels, size.eps)
            self.down_sar = Downsample(size.channels, out_channels, size.eps)

    def forward(self, optical: Tensor, sar: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Two of (B, H, W, d) -> the fused map (B, d, H, W) and the next stage's inputs."""
        optical, sar = self.optical(optical), self.sar(sar)
        fused, fused_sar = optical, sar
        for block in (*self.dcf, *self.dss4):
            fused, fused_sar = block(fused, fused_sar)
        optical, sar = optical + fused, sar + fused_sar
        out = self.norm_optical(optical) + self.norm_sar(sar)
        return out.permute(0, 3, 1, 2), self.down_optical(optical), self.down_sar(sar)


class FusionEncoder(nn.Module):
    """Optical and SAR image to four fused maps.

    Args:
        in_chans: Bands of the optical and of the SAR image.
        num_classes: Outputs of the official code's classifier, which nothing uses: its parameters
            are kept, frozen, because checkpoints hold them.
        dims: Widths of the four stages, each twice the one before.
        depths: Blocks of each modality's own, per stage.
        dcf_depths: DCF blocks per stage.
        dss4_depths: DS-S4 blocks per stage.
        ssm_d_state: States per channel.
        ssm_ratio: Inner width of the scans over the stage's.
        ssm_dt_rank: Rank of the step's projection, or "auto" for a sixteenth of the width.
        ssm_conv: Side of the depthwise convolutions.
        ssm_conv_bias: Whether they have a bias.
        mlp_ratio: Hidden width of the MLPs over the stage's.
        drop_path_rate: Stochastic depth of the last block of ``depths``; linear from 0. The fusion
            blocks take the same rates from the start.
        eps: Epsilon of the layer norms.

    Attributes:
        channels: Widths of the maps.
        strides: 4, 8, 16, 32 (odd sides are rounded up).
        size_multiple: 1.
    """

    strides = (4, 8, 16, 32)
    size_multiple = 1

    def __init__(
        self,
        in_chans: Sequence[int],
        num_classes: int,
        dims: Sequence[int],
        depths: Sequence[int],
        dcf_depths: Sequence[int],
        dss4_depths: Sequence[int],
        *,
        ssm_d_state: int = 1,
        ssm_ratio: float = 2.0,
        ssm_dt_rank: int | str = "auto",
        ssm_conv: int = 3,
        ssm_conv_bias: bool = False,
        mlp_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.in_chans = tuple(in_chans)
        self.channels = tuple(dims)
        self.embed_optical = PatchEmbed(in_chans[0], dims[0], eps)
        self.embed_sar = PatchEmbed(in_chans[1], dims[0], eps)
        rates = torch.linspace(0.0, drop_path_rate, sum(depths), device="cpu").tolist()
        self.stages = nn.ModuleList()
        for i, channels in enumerate(dims):
            size = ScanSize(
                channels=channels,
                inner=round(ssm_ratio * channels),
                d_state=ssm_d_state,
                dt_rank=math.ceil(channels / 16) if ssm_dt_rank == "auto" else int(ssm_dt_rank),
                kernel=ssm_conv,
                conv_bias=ssm_conv_bias,
                hidden=round(mlp_ratio * channels),
                eps=eps,
            )
            self.stages.append(
                Stage(
                    size,
                    _share(rates, depths, i),
                    _share(rates, dcf_depths, i),
                    _share(rates, dss4_depths, i),
                    out_channels=dims[i + 1] if i + 1 < len(dims) else None,
                )
            )
        self.classifier = nn.Sequential(nn.LayerNorm(dims[-1]), nn.Linear(dims[-1], num_classes))
        self.apply(linear_init_)
        self.classifier.requires_grad_(False)

    def forward(self, x: Tensor, x2: Tensor | None = None) -> list[Tensor]:
        """Encode.

        Args:
            x: Optical images (B, in_chans[0], H, W), or both stacked along the bands.
            x2: SAR images (B, in_chans[1], H, W), or None where ``x`` has both.

        Returns:
            Four maps (B, channels[i], ceil(H / strides[i]), ceil(W / strides[i])).

        Raises:
            ArgumentsError: Images of another number of bands, or of two sizes.
        """
        optical, sar = self._images(x, x2)
        optical, sar = self.embed_optical(optical), self.embed_sar(sar)
        maps = []
        for stage in self.stages:
            out, optical, sar = stage(optical, sar)
            maps.append(out)
        return maps

    def _images(self, x: Tensor, x2: Tensor | None) -> tuple[Tensor, Tensor]:
        optical, sar = self.in_chans
        given = [tuple(image.shape) for image in (x, x2) if image is not None]
        if x2 is None and x.dim() == 4 and x.shape[1] == optical + sar:
            x, x2 = x[:, :optical], x[:, optical:]
        if (
            x2 is None
            or x.dim() != 4
            or x2.dim() != 4
            or (x.shape[1], x2.shape[1]) != (optical, sar)
            or x.shape[0] != x2.shape[0]
            or x.shape[2:] != x2.shape[2:]
            or 0 in x.shape
        ):
            raise ArgumentsError(
                f"an optical image (B, {optical}, H, W) and a SAR image (B, {sar}, H, W) of the "
                f"same size are wanted, or both stacked, not {' and '.join(map(str, given))}"
            )
        return x, x2


def _share(rates: Sequence[float], counts: Sequence[int], stage: int) -> list[float]:
    """Stage ``stage``'s part of the rates; past their end the last one goes on."""
    first = sum(counts[:stage])
    return [rates[min(i, len(rates) - 1)] for i in range(first, first + counts[stage])]
