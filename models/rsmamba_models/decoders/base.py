"""What all decoders share: arguments that are checked, a classifier, the initialisation."""

from collections.abc import Sequence
from typing import TypedDict

from torch import Tensor, nn

from rsmamba_models.checks import check_counts, check_epsilons, check_rates
from rsmamba_models.errors import ArgumentsError


class Decoder(nn.Module):
    """Base of the decoders: ``forward`` takes an encoder's maps and ends in ``classify``.

    Attributes:
        maps: How many maps the encoder has.
        levels: Those that it reads, 0 the finest; all of them unless ``read_only`` says else.

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
        self.maps = len(in_channels)
        self.levels = tuple(range(self.maps))

    def read_only(self, *levels: int) -> None:
        """Declare the only maps that this decoder reads.

        Args:
            *levels: 0 is the finest; negative ones count from the coarsest.

        Raises:
            ArgumentsError: The encoder has no such map.
        """
        for level in levels:
            if not isinstance(level, int) or not -self.maps <= level < self.maps:
                raise ArgumentsError(f"level {level!r} is none of the encoder's {self.maps} maps")
        self.levels = tuple(sorted({level % self.maps for level in levels}))

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


class OneMapArguments(TypedDict, total=False):
    """What every decoder of one map takes; see `OneMapDecoder`."""

    level: int
    channels: int
    dropout: float
    batch_norm_eps: float


class OneMapDecoder(Decoder):
    """Base of the decoders whose context is that of one map.

    Args:
        in_channels: Widths of the encoder's maps, fine to coarse.
        num_classes: Channels of the logits.
        level: The map it reads; negative ones count from the coarsest.
        channels: Width of all maps inside.
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
        level: int = -1,
        channels: int = 512,
        dropout: float = 0.1,
        batch_norm_eps: float = 1e-5,
    ) -> None:
        super().__init__(in_channels, num_classes, channels, dropout, batch_norm_eps)
        self.read_only(level)
        self.level = level
        self.wide = in_channels[level]
        self.channels = channels
        self.eps = batch_norm_eps
