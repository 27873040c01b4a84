"""APCNet: context at several scales, weighted for every pixel by its affinity to the cells.

He et al., "Adaptive Pyramid Context Network for Semantic Segmentation", CVPR 2019, as
mmsegmentation's APCHead computes it.
"""

from collections.abc import Sequence
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsmamba_models.checks import check_counts
from rsmamba_models.decoders.base import OneMapArguments, OneMapDecoder
from rsmamba_models.layers import ConvNormAct


class AdaptiveContext(nn.Module):
    """Adaptive context module (the paper's figure 3): one scale.

    Args:
        channels: Width in.
        width: Width out.
        scale: Cells along each side.
        eps: Epsilon of the batch norms.
    """

    def __init__(self, channels: int, width: int, scale: int, eps: float) -> None:
        super().__init__()
        self.scale = scale
        self.reduce = ConvNormAct(channels, width, 1, bias=False, eps=eps)
        self.reduce_pooled = ConvNormAct(channels, width, 1, bias=False, eps=eps)
        self.global_info = ConvNormAct(width, width, 1, bias=False, eps=eps)
        self.affinity = nn.Conv2d(width, scale**2, 1)
        self.residual = ConvNormAct(width, width, 1, bias=False, eps=eps)
        self.fuse = ConvNormAct(width, width, 1, bias=False, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, width, h, w)."""
        cells = self.reduce_pooled(F.adaptive_avg_pool2d(x, self.scale)).flatten(2)
        x = self.reduce(x)
        whole = self.global_info(F.adaptive_avg_pool2d(x, 1))
        affinity = torch.sigmoid(self.affinity(x + whole)).flatten(2)
        context = torch.bmm(cells, affinity).view_as(x)
        out: Tensor = self.fuse(F.relu(self.residual(context) + x))
        return out


class APCNet(OneMapDecoder):
    """APCNet's decoder on one map.

    Args:
        in_channels: Widths of the encoder's maps, fine to coarse.
        num_classes: Channels of the logits.
        pool_scales: Cells along each side, a module a scale.
        **common: As `OneMapDecoder` has them.

    Raises:
        ArgumentsError: Values that make no decoder.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        **common: Unpack[OneMapArguments],
    ) -> None:
        super().__init__(in_channels, num_classes, **common)
        check_counts(pool_scales=pool_scales)
        width, eps = self.channels, self.eps
        self.contexts = nn.ModuleList(
            AdaptiveContext(self.wide, width, scale, eps) for scale in pool_scales
        )
        fused = self.wide + len(pool_scales) * width
        self.bottleneck = ConvNormAct(fused, width, 3, bias=False, eps=eps)
        self.initialise()
        for module in self.contexts.modules():
            if isinstance(module, AdaptiveContext):
                module.affinity.reset_parameters()  # smaller, or the sigmoids start saturated

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, fine to coarse -> logits (B, num_classes, h, w) of that level's size."""
        x = maps[self.level]
        return self.classify(self.bottleneck(torch.cat([x, *(c(x) for c in self.contexts)], 1)))
