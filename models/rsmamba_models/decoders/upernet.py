"""UPerNet: pyramid pooling on the coarsest map, a feature pyramid, all levels fused.

Xiao et al., "Unified Perceptual Parsing for Scene Understanding", arXiv 1807.10221, figure 4, as
mmsegmentation's UPerHead computes it (bilinear resizing, corners not aligned).
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsmamba_models.checks import check_counts
from rsmamba_models.decoders.base import Decoder
from rsmamba_models.layers import ConvNormAct, resize


class PyramidPooling(nn.Module):
    """Pyramid pooling module (Zhao et al., arXiv 1612.01105): averages over grids of cells.

    Args:
        in_channels: Width in.
        channels: Width out, and of each pooled branch.
        scales: Cells along each side, one branch a scale.
        eps: Epsilon of the batch norms.
    """

    def __init__(self, in_channels: int, channels: int, scales: Sequence[int], eps: float) -> None:
        super().__init__()
        self.scales = tuple(scales)
        self.branches = nn.ModuleList(
            ConvNormAct(in_channels, channels, 1, bias=False, eps=eps) for _ in scales
        )
        fused = in_channels + len(scales) * channels
        self.bottleneck = ConvNormAct(fused, channels, 3, bias=False, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, h, w) -> (B, channels, h, w)."""
        pooled = [
            resize(branch(F.adaptive_avg_pool2d(x, scale)), x)
            for scale, branch in zip(self.scales, self.branches, strict=True)
        ]
        out: Tensor = self.bottleneck(torch.cat([x, *pooled], 1))
        return out


class UPerNet(Decoder):
    """UPerNet's decoder over any number of maps.

    Args:
        in_channels: Widths of the encoder's maps, fine to coarse.
        num_classes: Channels of the logits.
        channels: Width of all maps inside.
        pool_scales: Cells along each side in the pyramid pooling.
        dropout: Probability of dropping a channel before the classifier, in training.
        batch_norm_eps: Epsilon of every batch norm.

    Raises:
        ArgumentsError: Values that make no decoder.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        channels: int = 512,
        pool_scales: Sequence[int] = (1, 2, 3, 6),
        dropout: float = 0.1,
        batch_norm_eps: float = 1e-5,
    ) -> None:
        super().__init__(in_channels, num_classes, channels, dropout, batch_norm_eps)
        check_counts(pool_scales=pool_scales)

        def convolution(width: int, kernel: int) -> ConvNormAct:
            return ConvNormAct(width, channels, kernel, bias=False, eps=batch_norm_eps)

        *fine, coarsest = in_channels
        self.pyramid_pooling = PyramidPooling(coarsest, channels, pool_scales, batch_norm_eps)
        self.lateral = nn.ModuleList(convolution(c, 1) for c in fine)
        self.smooth = nn.ModuleList(convolution(channels, 3) for _ in fine)
        self.fuse = convolution(len(in_channels) * channels, 3)
        self.initialise()

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, fine to coarse -> logits (B, num_classes, h, w) of the finest map's size."""
        x = self.pyramid_pooling(maps[-1])
        levels = [x]
        steps = list(zip(self.lateral, self.smooth, maps[:-1], strict=True))
        for lateral, smooth, skip in reversed(steps):  # top-down
            x = lateral(skip) + resize(x, skip)
            levels.insert(0, smooth(x))
        return self.classify(self.fuse(torch.cat([resize(x, levels[0]) for x in levels], 1)))
