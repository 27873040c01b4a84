"""Boundary IoU: how well outlines agree, whatever the size of what they enclose.

Source: B. Cheng et al., "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation",
CVPR 2021. The inner boundary of a mask is what lies within d pixels of its outline (the image's
border is an outline too); boundary IoU is the IoU of the inner boundaries of truth and prediction.
"""

import math

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn import functional

from rsmamba_cli.datasets import IGNORE
from rsmamba_cli.evaluation.metrics import Counts

_SHARE = 0.02
_MOST = 15


def boundary_width(height: int, width: int) -> int:
    """Pixels that count as boundary: 2 % of the diagonal (the paper's), from 1 to 15."""
    return min(_MOST, max(1, round(_SHARE * math.hypot(height, width))))


def boundary_counts(
    truth: ArrayLike, prediction: ArrayLike, classes: int, width: int | None = None
) -> Counts:
    """Count the pixels that both inner boundaries of each class share, and those of either.

    Args:
        truth: class indices (H, W); 255 does not count and belongs to no class.
        prediction: class indices (H, W).
        classes: number of classes K.
        width: of the boundary in pixels; None for `boundary_width`.

    Returns:
        int64 (2, K): intersection and union.
    """
    true, guess = np.asarray(truth), np.asarray(prediction)
    if width is None:
        width = boundary_width(*true.shape)
    out = np.zeros((2, classes), np.int64)
    known = true != IGNORE
    for index in range(classes):
        a = _inner_boundary((true == index) & known, width)
        b = _inner_boundary((guess == index) & known, width)
        out[:, index] = (a & b).sum(), (a | b).sum()
    return out


def _inner_boundary(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """The pixels of a mask from which a square of ``width`` pixels each way reaches outside."""
    if not mask.any():
        return mask
    outside = torch.from_numpy(~mask).float()[None, None]
    side = 2 * width + 1
    padded = functional.pad(outside, (width,) * 4, value=1.0)
    near = functional.max_pool2d(padded, (side, 1), stride=1)
    near = functional.max_pool2d(near, (1, side), stride=1)
    boundary: NDArray[np.bool_] = mask & (near[0, 0].numpy() > 0)
    return boundary
