"""Fully convolutional head: a few convolutions and a classifier on one map.

Long et al., "Fully Convolutional Networks for Semantic Segmentation", arXiv 1411.4038, in the form
of mmsegmentation's FCNHead. On an inner level it is the usual auxiliary head.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from rsmamba_models.checks import check_counts
from rsmamba_models.decoders.base import Decoder
from rsmamba_models.layers import ConvNormAct


class FCNHead(Decoder):
    """3x3 convolutions with batch norm and ReLU, dropout, a 1x1 convolution to the logits.

    Args:
        in_channels: Widths of the encoder's maps, fine to coarse.
        num_classes: Channels of the logits.
        level: The map it reads, 0 the finest; negative ones count from the coarsest.
        channels: Width of the convolutions.
        convs: Their number, at least 1.
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
        level: int = 2,
        channels: int = 256,
        convs: int = 1,
        dropout: float = 0.1,
        batch_norm_eps: float = 1e-5,
    ) -> None:
        super().__init__(in_channels, num_classes, channels, dropout, batch_norm_eps)
        check_counts(convs=convs)
        self.read_only(level)
        self.level = level
        widths = [in_channels[level]] + [channels] * convs
        self.convs = nn.Sequential(
            *(
                ConvNormAct(width, channels, 3, bias=False, eps=batch_norm_eps)
                for width in widths[:-1]
            )
        )
        self.initialise()

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps, fine to coarse -> logits (B, num_classes, h, w) of that level's size."""
        return self.classify(self.convs(maps[self.level]))
