"""A pyramid encoder and a decoder, put together by name."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, cast

import torch.nn.functional as F
from torch import Tensor, nn

from rsmamba_models.decoders.base import Decoder
from rsmamba_models.errors import ArgumentsError
from rsmamba_models.layers import crop, pad_to, pad_to_multiple
from rsmamba_models.registry import get_decoder, get_encoder


class PyramidEncoder(Protocol):
    """What ``Segmenter`` asks of an encoder, which is a module.

    Attributes:
        channels: Widths of the maps, fine to coarse.
        strides: Image pixels a map pixel, fine to coarse.
        size_multiple: What an image's sides must be multiples of. An encoder may have a method
            ``padded_side(side) -> side`` instead, which tells what a segmenter pads a side to; it
            then takes images of any size itself.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    size_multiple: int

    def __call__(self, image: Tensor) -> list[Tensor]:
        """(B, in_chans, H, W) -> maps (B, channels[i], ceil(H / strides[i]), ...)."""


class Segmenter(nn.Module):
    """Semantic segmentation of one image by an encoder and a decoder.

    Args:
        architecture: Name under which a checkpoint finds this model again.
        in_chans: Bands of an image.
        num_classes: Channels of the logits; 1 is a sigmoid, 2 or more a softmax.
        encoder: A name of ``list_encoders``.
        encoder_arguments: Changes to the encoder's preset.
        decoder: A name of ``list_decoders``.
        decoder_arguments: Arguments of the decoder.
        auxiliary: Arguments of a second head, ``decoders.fcn.FCNHead``, for training only; None for
            none.

    Raises:
        ArgumentsError: Values that make no such network.
        UnknownModelError: No such encoder or decoder.
    """

    task: ClassVar[str] = "segmentation"

    def __init__(
        self,
        *,
        architecture: str,
        encoder: str,
        decoder: str,
        in_chans: int = 3,
        num_classes: int = 1,
        encoder_arguments: Mapping[str, Any] | None = None,
        decoder_arguments: Mapping[str, Any] | None = None,
        auxiliary: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("in_chans", in_chans), ("num_classes", num_classes)):
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65536:
                raise ArgumentsError(f"{name} is a whole number from 1, not {value!r}")
        self.architecture = architecture
        self.in_chans = in_chans
        self.num_classes = num_classes
        self.arguments: dict[str, Any] = {
            "in_chans": in_chans,
            "num_classes": num_classes,
            "encoder": encoder,
            "encoder_arguments": dict(encoder_arguments or {}),
            "decoder": decoder,
            "decoder_arguments": dict(decoder_arguments or {}),
            "auxiliary": None if auxiliary is None else dict(auxiliary),
        }
        self.encoder = create_encoder(
            encoder, in_chans=in_chans, **self.arguments["encoder_arguments"]
        )
        self.size_multiple = self.encoder.size_multiple
        self.decoder = create_decoder(
            decoder, self.encoder.channels, num_classes, **self.arguments["decoder_arguments"]
        )
        self.auxiliary: Decoder | None = None
        if auxiliary is not None:
            self.auxiliary = create_decoder(
                "fcn", self.encoder.channels, num_classes, **self.arguments["auxiliary"]
            )

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_chans, H, W) -> logits (B, num_classes, H, W)."""
        maps, size = self.encode(x)
        return to_image(self.decoder(maps), size, x)

    def training_forward(self, x: Tensor) -> dict[str, Tensor]:
        """What losses need.

        Args:
            x: (B, in_chans, H, W).

        Returns:
            ``logits``, and ``auxiliary`` where there is such a head; both (B, num_classes, H, W).
        """
        maps, size = self.encode(x)
        return self.heads(maps, size, x)

    def heads(
        self, maps: Sequence[Tensor], size: tuple[int, int], image: Tensor
    ) -> dict[str, Tensor]:
        """Both heads' logits at the size of the image, from the maps of its padded form."""
        outputs = {"logits": to_image(self.decoder(maps), size, image)}
        if self.auxiliary is not None:
            outputs["auxiliary"] = to_image(self.auxiliary(maps), size, image)
        return outputs

    def encode(self, x: Tensor) -> tuple[list[Tensor], tuple[int, int]]:
        """The encoder's maps of an image of any size, and the size it was padded to."""
        check_bands(self, x)
        padded = pad_for(self.encoder, x)
        return self.encoder(padded), (padded.shape[-2], padded.shape[-1])


def check_bands(model: nn.Module, image: Tensor) -> None:
    """Refuse an image of another number of bands than the model's.

    Raises:
        ArgumentsError: Names both numbers.
    """
    if image.dim() == 4 and image.shape[1] != model.in_chans:
        raise ArgumentsError(
            f"{model.architecture} was made for {model.in_chans} bands, the image has "
            f"{image.shape[1]}"
        )


def pad_for(encoder: PyramidEncoder, image: Tensor) -> Tensor:
    """Pad an image by replication to sides that an encoder takes."""
    padded_side = getattr(encoder, "padded_side", None)
    if padded_side is None:
        return pad_to_multiple(image, encoder.size_multiple)
    return pad_to(image, padded_side)


def create_encoder(name: str, **arguments: Any) -> PyramidEncoder:
    """Build an encoder with fresh weights.

    Args:
        name: A name of ``list_encoders``.
        **arguments: ``in_chans``, and changes to the preset.

    Raises:
        UnknownModelError: No such name.
        ArgumentsError: Arguments that it does not take.
    """
    entry = get_encoder(name)
    module = importlib.import_module(f"rsmamba_models.{entry.module}")
    try:
        return cast(
            PyramidEncoder, getattr(module, entry.class_name)(**{**entry.preset, **arguments})
        )
    except TypeError as error:
        raise ArgumentsError(f"encoder {name} cannot be built so: {error}") from error


def create_decoder(
    name: str, in_channels: Sequence[int], num_classes: int, **arguments: Any
) -> Decoder:
    """Build a decoder with fresh weights.

    Args:
        name: A name of ``list_decoders``.
        in_channels: Widths of the encoder's maps, fine to coarse.
        num_classes: Channels of the logits.
        **arguments: Further arguments of the decoder.

    Raises:
        UnknownModelError: No such name.
        ArgumentsError: Arguments that it does not take.
    """
    entry = get_decoder(name)
    module = importlib.import_module(f"rsmamba_models.{entry.module}")
    try:
        return cast(
            Decoder,
            getattr(module, entry.class_name)(tuple(in_channels), num_classes, **arguments),
        )
    except TypeError as error:
        raise ArgumentsError(f"decoder {name} cannot be built so: {error}") from error


def to_image(logits: Tensor, padded: tuple[int, int], image: Tensor) -> Tensor:
    """Resize logits bilinearly to the padded image and cut what was padded off.

    Args:
        logits: (B, K, h, w).
        padded: Sides of the padded image.
        image: (B, C, H, W), as it came.

    Returns:
        (B, K, H, W).
    """
    if logits.shape[-2:] != padded:
        logits = F.interpolate(logits, size=padded, mode="bilinear", align_corners=False)
    return crop(logits, image.shape[-2], image.shape[-1])
