"""Image classification with any pyramid encoder: what encoders are pre-trained on."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from rsmamba_models.checks import check_counts
from rsmamba_models.layers import BatchNorm2d, pad_to_multiple
from rsmamba_models.segmenter import check_bands, create_encoder


class Classifier(nn.Module):
    """Class of a whole image, from the encoder's coarsest map.

    The head is that of SegMAN's pre-training (arXiv 2412.11890, official code): 1x1 convolution,
    batch norm, SiLU, average over the map, linear layer.

    Args:
        architecture: Name under which a checkpoint finds this model again.
        encoder: A name of ``list_encoders``.
        in_chans: Bands of an image.
        num_classes: Classes, a softmax over the logits.
        encoder_arguments: Changes to the encoder's preset.
        hidden: Width of the head.

    Raises:
        ArgumentsError: Values that make no such network.
        UnknownModelError: No such encoder.
    """

    task: ClassVar[str] = "classification"

    def __init__(
        self,
        *,
        architecture: str,
        encoder: str,
        in_chans: int = 3,
        num_classes: int = 1000,
        encoder_arguments: Mapping[str, Any] | None = None,
        hidden: int = 1024,
    ) -> None:
        super().__init__()
        check_counts(in_chans=in_chans, num_classes=num_classes, hidden=hidden)
        self.architecture = architecture
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.arguments: dict[str, Any] = {
            "in_chans": in_chans,
            "num_classes": num_classes,
            "encoder": encoder,
            "encoder_arguments": dict(encoder_arguments or {}),
            "hidden": hidden,
        }
        self.encoder = create_encoder(
            encoder, in_chans=in_chans, **self.arguments["encoder_arguments"]
        )
        self.size_multiple = self.encoder.size_multiple
        self.conv = nn.Conv2d(self.encoder.channels[-1], hidden, 1)
        self.norm = BatchNorm2d(hidden)
        self.classifier = nn.Linear(hidden, num_classes)
        for layer in (self.conv, self.classifier):
            for name, parameter in layer.named_parameters():
                if name == "bias":
                    nn.init.zeros_(parameter)
                else:
                    nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> logits (B, num_classes)."""
        check_bands(self, x)
        if not hasattr(self.encoder, "padded_side"):  # those that have it take any image
            x = pad_to_multiple(x, self.encoder.size_multiple)
        coarsest = self.encoder(x)[-1]
        pooled = F.silu(self.norm(self.conv(coarsest))).mean((2, 3))
        out: Tensor = self.classifier(pooled)
        return out

    def training_forward(self, x: Tensor) -> dict[str, Tensor]:
        """What a loss needs: ``{"logits": (B, num_classes)}``."""
        return {"logits": self(x)}
