"""RS-Mamba's decoder on any pyramid encoder (Zhao et al., arXiv 2404.02668, section 3.4)."""

from collections.abc import Sequence

from torch import Tensor

from rsmamba_models.decoders.base import Decoder
from rsmamba_models.layers import ConvNormAct, TopDown


class UNet(Decoder):
    """From coarse to fine: upsample, concatenate with the next finer map, fuse by 1x1; classify.

    The upsampling is to the finer map's size by the nearest neighbour, which for sizes that halve
    is the paper's x2.

    Args:
        in_channels: Widths of the maps, fine to coarse.
        num_classes: Channels of the logits.
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
        dropout: float = 0.1,
        batch_norm_eps: float = 1e-5,
    ) -> None:
        super().__init__(in_channels, num_classes, in_channels[0], dropout, batch_norm_eps)
        self.blocks = TopDown(in_channels, batch_norm_eps)
        self.refine = ConvNormAct(in_channels[0], in_channels[0], 3, bias=False, eps=batch_norm_eps)
        self.initialise()

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, fine to coarse -> logits (B, num_classes, h, w) at the finest map's size."""
        return self.classify(self.refine(self.blocks(maps)))
