"""Two modalities through any segmentation network: early fusion, band upon band."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from rsmamba_models.errors import ArgumentsError
from rsmamba_models.registry import create_model


class EarlyFusion(nn.Module):
    """Images of one place, stacked along the bands and segmented as one.

    Args:
        architecture: A segmentation architecture.
        in_chans: Bands of each image, in the order of the arguments of ``forward``.
        num_classes: Channels of the logits; 1 is a sigmoid, 2 or more a softmax.
        **arguments: Further arguments of the architecture.

    Raises:
        ArgumentsError: Values that make no such network.
    """

    task: ClassVar[str] = "multimodal"

    def __init__(
        self, *, architecture: str, in_chans: Any, num_classes: int = 1, **arguments: Any
    ) -> None:
        super().__init__()
        if not isinstance(in_chans, list | tuple) or len(in_chans) != 2:
            raise ArgumentsError(
                f"in_chans of a multimodal {architecture} are the bands of both images, such as "
                f"(4, 1), not {in_chans!r}"
            )
        self.in_chans = tuple(in_chans)
        if not all(isinstance(n, int) and n > 0 for n in self.in_chans):
            raise ArgumentsError(f"in_chans are whole numbers from 1, not {in_chans!r}")
        network: Any = create_model(
            architecture, in_chans=sum(self.in_chans), num_classes=num_classes, **arguments
        )
        self.network = network
        self.architecture = architecture
        self.num_classes = num_classes
        self.size_multiple = int(network.size_multiple)
        self.arguments: dict[str, Any] = {**network.arguments, "in_chans": list(in_chans)}

    @property
    def encoder(self) -> nn.Module:
        """That of the network."""
        encoder: nn.Module = self.network.encoder
        return encoder

    def forward(self, *images: Tensor) -> Tensor:
        """(B, in_chans[i], H, W) of each image -> logits (B, num_classes, H, W)."""
        logits: Tensor = self.network(self._stacked(images))
        return logits

    def training_forward(self, *images: Tensor) -> dict[str, Tensor]:
        """What losses need; see the network's own."""
        outputs: dict[str, Tensor] = self.network.training_forward(self._stacked(images))
        return outputs

    def _stacked(self, images: tuple[Tensor, ...]) -> Tensor:
        bands = tuple(image.shape[1] for image in images)
        if bands != self.in_chans:
            raise ArgumentsError(
                f"{self.architecture} was made for images of {self.in_chans} bands, these have "
                f"{bands}"
            )
        if len({image.shape[-2:] for image in images}) > 1:
            shapes = " and ".join(str(tuple(image.shape)) for image in images)
            raise ArgumentsError(f"the images differ in shape: {shapes}")
        return torch.cat(images, dim=1)
