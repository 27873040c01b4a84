"""MMSCopE: Mamba-based multi-scale context extraction, SegMAN's decoder.

Fu et al., arXiv 2412.11890, as its official code computes it. The fused features go through one
scan at stride 32 in three scales at once, which lie beside one another as channels; what it finds
is added to the features of every level. Logits are at the finest of the three strides.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rsmamba_models.checks import check_counts
from rsmamba_models.decoders.base import Decoder
from rsmamba_models.errors import ArgumentsError
from rsmamba_models.layers import ConvNormAct, SelectiveScan2d, crop, pad_to_multiple, resize
from rsmamba_models.segman import Block

_LEVELS = 3


class MMSCopE(Decoder):
    """The decoder of SegMAN over the three coarsest maps of any encoder.

    Finer maps are not read. The sides of the finest of the three are padded by replication to
    multiples of 4 for the scan.

    Args:
        in_channels: Widths of the encoder's maps, fine to coarse; three at least.
        num_classes: Channels of the logits.
        channels: Width of the fused features.
        feat_proj_dim: Width to which every map is projected.
        mlp_ratio: Hidden width of the scan block's MLP over its width of ``3 * channels``.
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
        channels: int = 128,
        feat_proj_dim: int = 192,
        mlp_ratio: float = 4.0,
        dropout: float = 0.1,
        batch_norm_eps: float = 1e-5,
    ) -> None:
        super().__init__(in_channels, num_classes, channels, dropout, batch_norm_eps)
        check_counts(feat_proj_dim=feat_proj_dim)
        if len(in_channels) < _LEVELS:
            raise ArgumentsError(f"MMSCopE reads three maps, the encoder has {len(in_channels)}")
        self.read_only(*range(-_LEVELS, 0))
        width = _LEVELS * channels
        if not 1 <= mlp_ratio * width <= 2**20:
            raise ArgumentsError(f"mlp_ratio leaves no channel, or too many: {mlp_ratio}")

        def convolution(wide: int, out: int, kernel: int = 1, stride: int = 1) -> ConvNormAct:
            padding = 1 if stride > 1 else 0
            return ConvNormAct(wide, out, kernel, False, batch_norm_eps, stride, padding)

        self.project = nn.ModuleList(nn.Linear(c, feat_proj_dim) for c in in_channels[-_LEVELS:])
        self.fuse = convolution(_LEVELS * feat_proj_dim, channels)
        self.short = convolution(channels, channels)
        self.pool = convolution(channels, channels)
        self.halve = convolution(channels, 2 * channels, kernel=3, stride=2)
        self.quarter = convolution(channels, 4 * channels, kernel=5, stride=4)
        self.reduce = nn.ModuleList(convolution(n * channels, channels) for n in (4, 8, 16))
        self.context = convolution(width, feat_proj_dim)
        self.combine = convolution(5 * channels + 3 * feat_proj_dim, channels)
        self.initialise()
        # After that, because it keeps PyTorch's own initialisation.
        scan = SelectiveScan2d(width, 1, math.ceil(width / 16))
        self.block = Block(scan, width, int(mlp_ratio * width))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, fine to coarse -> logits (B, num_classes, h, w) of the third coarsest's size."""
        levels = [
            project(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            for project, x in zip(self.project, maps[-_LEVELS:], strict=True)
        ]
        levels = [resize(x, levels[0]) for x in levels]
        fused = self.fuse(torch.cat(levels[::-1], 1))
        found = self.multi_scale(fused)
        pooled = self.pool(F.adaptive_avg_pool2d(fused, 1)).expand_as(fused)
        context = self.context(found)
        parts = [self.short(fused), pooled, found, *(x + context for x in levels)]
        return self.classify(self.combine(torch.cat(parts, 1)))

    def multi_scale(self, fused: Tensor) -> Tensor:
        """Scan three scales of a map together: (B, channels, h, w) -> (B, 3 channels, h, w)."""
        padded = pad_to_multiple(fused, 4)
        scales = (  # coarse to fine, all at a quarter of the size
            self.quarter(padded),
            F.pixel_unshuffle(self.halve(padded), 2),
            F.pixel_unshuffle(padded, 4),
        )
        reduced = [reduce(x) for reduce, x in zip(self.reduce, scales, strict=True)]
        x = torch.cat(reduced[::-1], 1)
        x = self.block(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return crop(resize(x, padded), fused.shape[-2], fused.shape[-1])
