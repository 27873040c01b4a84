"""Four maps to one at stride 4: a feature pyramid, then a merge. No activation anywhere."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvGroupNorm(nn.Sequential):
    """Convolution of odd size at stride 1 without bias, then group norm."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=False)
        self.norm = nn.GroupNorm(groups, out_channels)


class FeaturePyramid(nn.Module):
    """FPN (arXiv 1612.03144): lateral 1x1, top-down nearest and add, 3x3."""

    def __init__(self, in_channels: Sequence[int], channels: int, groups: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(ConvGroupNorm(c, channels, 1, groups) for c in in_channels)
        self.smooth = nn.ModuleList(
            ConvGroupNorm(channels, channels, 3, groups) for _ in in_channels
        )
        for layer in (*self.lateral, *self.smooth):
            nn.init.xavier_uniform_(layer.conv.weight)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps fine to coarse -> maps of the same sizes, all ``channels`` wide."""
        laterals = [lateral(x) for lateral, x in zip(self.lateral, maps, strict=True)]
        for i in range(len(laterals) - 1, 0, -1):
            finer = laterals[i - 1]
            laterals[i - 1] = finer + F.interpolate(laterals[i], finer.shape[-2:], mode="nearest")
        return [smooth(x) for smooth, x in zip(self.smooth, laterals, strict=True)]


class Neck(nn.Module):
    """The pyramid, its levels resized to the finest, concatenated and merged by 1x1."""

    def __init__(self, in_channels: Sequence[int], channels: int, groups: int) -> None:
        super().__init__()
        self.pyramid = FeaturePyramid(in_channels, channels, groups)
        self.merge = ConvGroupNorm(channels * len(in_channels), channels, 1, groups)
        nn.init.kaiming_normal_(self.merge.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps fine to coarse -> (B, channels, h, w) at the finest one's size."""
        levels = self.pyramid(maps)
        size = levels[0].shape[-2:]
        resized = [F.interpolate(x, size, mode="bilinear", align_corners=False) for x in levels]
        out: Tensor = self.merge(torch.cat(resized, 1))
        return out
