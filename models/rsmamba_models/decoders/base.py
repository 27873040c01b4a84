"""What all decoders share: arguments that are checked, a classifier, the initialisation."""

from collections.abc import Sequence

from torch import Tensor, nn

from rsmamba_models.checks import check_counts, check_epsilons, check_rates
from rsmamba_models.errors import ArgumentsError


class Decoder(nn.Module):
    """Base of the decoders: ``forward`` takes an encoder's maps and ends in ``classify``.

    Args:
        in_channels: Widths of the encoder's maps, fine to coarse.
        num_classes: Channels of the logits.
        channels: Width of the map that is classified.
        dropout: Probability with which a whole channel of that map is dropped in training.
        eps: Epsilon of the batch norms.

    Raises:
        ArgumentsError: Values that make no decoder.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        channels: int,
        dropout: float,
        eps: float,
    ) -> None:
        super().__init__()
        check_counts(in_channels=in_channels, num_classes=num_classes, channels=channels)
        check_rates(dropout=dropout)
        check_epsilons(batch_norm_eps=eps)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def classify(self, x: Tensor) -> Tensor:
        """(B, channels, h, w) -> logits (B, num_classes, h, w)."""
        out: Tensor = self.classifier(self.dropout(x))
        return out

    def initialise(self) -> None:
        """The initialisation of mmsegmentation's heads; a decoder calls it when it is complete.

        Convolutions: Kaiming normal over fan out, for ReLU. Classifier: normal with a deviation
        of 0.01, no bias.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.classifier.weight, std=0.01)


def check_level(level: int, in_channels: Sequence[int]) -> None:
    """Refuse a level that the encoder does not have.

    Args:
        level: 0 is the finest; negative ones count from the coarsest.
        in_channels: Widths of the encoder's maps.

    Raises:
        ArgumentsError: No such level.
    """
    if not -len(in_channels) <= level < len(in_channels):
        raise ArgumentsError(f"level {level} is none of the encoder's {len(in_channels)} maps")
