"""Images of any size through networks that want a multiple."""

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor

from rsmamba_models.errors import ArgumentsError


def pad_to_multiple(x: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column until both sides are multiples.

    Args:
        x: ``(B, C, H, W)``, H and W at least 1.
        multiple: The side's divisor.

    Raises:
        ArgumentsError: Not four axes, or an empty side.
    """
    return pad_to(x, lambda side: side + -side % multiple)


def pad_to(x: Tensor, wanted: Callable[[int], int]) -> Tensor:
    """Repeat the last row and column until both sides are as wanted.

    Args:
        x: ``(B, C, H, W)``, H and W at least 1.
        wanted: From a side to the padded one, which is no smaller.

    Raises:
        ArgumentsError: Not four axes, or an empty side.
    """
    if x.dim() != 4 or x.shape[-1] == 0 or x.shape[-2] == 0:
        raise ArgumentsError(f"a model takes images (B, C, H, W), not of shape {tuple(x.shape)}")
    height, width = x.shape[-2:]
    bottom, right = wanted(height) - height, wanted(width) - width
    return F.pad(x, (0, right, 0, bottom), mode="replicate") if bottom or right else x


def crop(x: Tensor, height: int, width: int) -> Tensor:
    """The top left part of ``(B, C, H, W)``: what ``pad_to_multiple`` had been given."""
    return x[..., :height, :width]


def resize(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear, corners not aligned, to the height and width of another map.

    Args:
        x: ``(B, C, h, w)``.
        like: ``(..., H, W)``; only its size counts.
    """
    size = like.shape[-2:]
    if x.shape[-2:] == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)
