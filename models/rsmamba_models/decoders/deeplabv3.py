"""DeepLabV3 and DeepLabV3+: atrous spatial pyramid pooling, and with a finer map beside it.

Chen et al., "Rethinking Atrous Convolution for Semantic Image Segmentation", arXiv 1706.05587, and
"Encoder-Decoder with Atrous Separable Convolution for Semantic Image Segmentation", arXiv
1802.02611, as mmsegmentation's ASPPHead and DepthwiseSeparableASPPHead compute them.
"""

from collections.abc import Sequence
from typing import Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsmamba_models.checks import check_counts
from rsmamba_models.decoders.base import OneMapArguments, OneMapDecoder
from rsmamba_models.layers import ConvNormAct, resize


def separable(
    in_channels: int, out_channels: int, dilation: int = 1, eps: float = 1e-5
) -> nn.Sequential:
    """Depth-wise 3x3 convolution, then a point-wise one, each with batch norm and ReLU.

    Args:
        in_channels: Width in.
        out_channels: Width out.
        dilation: Distance of neighbouring taps of the first.
        eps: Epsilon of the batch norms.
    """
    return nn.Sequential(
        ConvNormAct(
            in_channels,
            in_channels,
            3,
            bias=False,
            eps=eps,
            dilation=dilation,
            groups=in_channels,
        ),
        ConvNormAct(in_channels, out_channels, 1, bias=False, eps=eps),
    )


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: dilated convolutions and the map's mean, side by side.

    Args:
        channels: Width in.
        width: Width out, and of each branch.
        dilations: A branch each; 1 is a 1x1 convolution, others are 3x3.
        depthwise: Whether the 3x3 convolutions are depth-wise separable.
        eps: Epsilon of the batch norms.
    """

    def __init__(
        self, channels: int, width: int, dilations: Sequence[int], depthwise: bool, eps: float
    ) -> None:
        super().__init__()
        self.image_pool = ConvNormAct(channels, width, 1, bias=False, eps=eps)
        self.branches = nn.ModuleList()
        for dilation in dilations:
            if dilation == 1:
                branch: nn.Module = ConvNormAct(channels, width, 1, bias=False, eps=eps)
            elif depthwise:
                branch = separable(channels, width, dilation, eps)
            else:
                branch = ConvNormAct(channels, width, 3, bias=False, eps=eps, dilation=dilation)
            self.branches.append(branch)
        fused = (1 + len(dilations)) * width
        self.bottleneck = ConvNormAct(fused, width, 3, bias=False, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, width, h, w)."""
        whole = self.image_pool(F.adaptive_avg_pool2d(x, 1)).expand(-1, -1, *x.shape[-2:])
        out: Tensor = self.bottleneck(torch.cat([whole, *(b(x) for b in self.branches)], 1))
        return out


class DeepLabV3(OneMapDecoder):
    """DeepLabV3's decoder: atrous spatial pyramid pooling on one map.

    Args:
        in_channels: Widths of the encoder's maps, fine to coarse.
        num_classes: Channels of the logits.
        dilations: Of the branches, in pixels of that map.
        **common: As `OneMapDecoder` has them.

    Raises:
        ArgumentsError: Values that make no decoder.
    """

    depthwise = False

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        dilations: Sequence[int] = (1, 12, 24, 36),
        **common: Unpack[OneMapArguments],
    ) -> None:
        super().__init__(in_channels, num_classes, **common)
        check_counts(dilations=dilations)
        self.aspp = ASPP(self.wide, self.channels, dilations, self.depthwise, self.eps)
        self.initialise()

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, fine to coarse -> logits (B, num_classes, h, w) of that level's size."""
        return self.classify(self.aspp(maps[self.level]))


class DeepLabV3Plus(DeepLabV3):
    """DeepLabV3+'s decoder: separable pooling on a coarse map, refined beside a finer one.

    Args:
        in_channels: Widths of the encoder's maps, fine to coarse.
        num_classes: Channels of the logits.
        low_level: The finer map.
        low_channels: What it is reduced to.
        dilations: Of the branches, in pixels of the coarse map.
        **common: As `OneMapDecoder` has them; ``level`` is the coarse map.

    Raises:
        ArgumentsError: Values that make no decoder.
    """

    depthwise = True

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        *,
        low_level: int = 0,
        low_channels: int = 48,
        dilations: Sequence[int] = (1, 12, 24, 36),
        **common: Unpack[OneMapArguments],
    ) -> None:
        super().__init__(in_channels, num_classes, dilations=dilations, **common)
        check_counts(low_channels=low_channels)
        self.read_only(self.level, low_level)
        self.low_level = low_level
        width, eps = self.channels, self.eps
        self.reduce = ConvNormAct(in_channels[low_level], low_channels, 1, bias=False, eps=eps)
        self.refine = nn.Sequential(
            separable(width + low_channels, width, eps=eps), separable(width, width, eps=eps)
        )
        self.initialise()

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, fine to coarse -> logits (B, num_classes, h, w) of the finer map's size."""
        low = self.reduce(maps[self.low_level])
        x = resize(self.aspp(maps[self.level]), low)
        return self.classify(self.refine(torch.cat([x, low], 1)))
