"""Losses that are sums over pixels: cross-entropy, its hardest pixels only, focal.

Logits are float32 (B, K, H, W), labels int64 (B, H, W) within the classes (unlabelled pixels hold
any class), and ``weight`` (B, H, W) says how much each pixel counts, 0 where unlabelled. K = 1 is
the sigmoid of class 1, K >= 2 a softmax.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_TINY = 1e-5


def log_likelihood(logits: Tensor, label: Tensor, smoothing: float = 0.0) -> Tensor:
    """Log p of the true class, (B, H, W).

    Args:
        logits: (B, K, H, W).
        label: (B, H, W).
        smoothing: share of the target that is spread over all classes, in [0, 1).
    """
    if logits.shape[1] == 1:
        soft = label.to(logits.dtype) * (1 - smoothing) + 0.5 * smoothing
        return -F.binary_cross_entropy_with_logits(logits[:, 0], soft, reduction="none")
    return -F.cross_entropy(logits, label, reduction="none", label_smoothing=smoothing)


def weighted_mean(values: Tensor, weight: Tensor, avg_non_ignore: bool) -> Tensor:
    """The sum of ``values * weight`` over the sum of the weights, or over the number of all pixels.

    Args:
        values: (B, H, W).
        weight: same shape, >= 0; what has weight 0 counts nowhere, whatever its value.
        avg_non_ignore: divide by the weights; otherwise by the number of pixels, unlabelled ones
            included, as mmsegmentation does by default (they dilute the loss).
    """
    total = torch.where(weight > 0, values * weight, 0.0).sum()
    return total / (weight.sum().clamp(min=_TINY) if avg_non_ignore else weight.numel())


def hardest(likelihood: Tensor, valid: Tensor, threshold: float, least: int) -> Tensor:
    """Choose the pixels of online hard example mining, bool (B, H, W).

    Those whose true class has a probability below ``threshold``, and in any case the ``least``
    hardest of the batch (Shrivastava et al. 2016; the pixel form is mmsegmentation's).

    Args:
        likelihood: log p of the true class, (B, H, W).
        valid: bool (B, H, W); others are never chosen.
        threshold: a probability.
        least: a number of pixels; all when the batch has fewer.
    """
    with torch.no_grad():
        probability = likelihood.exp()
        known = probability[valid]
        if not len(known):
            return valid
        last = known.kthvalue(min(least, len(known))).values
        return valid & ((probability < threshold) | (probability <= last))


def focal_loss(logits: Tensor, label: Tensor, gamma: float) -> Tensor:
    """-(1 - p)^gamma log p of the true class, (B, H, W) (Lin et al. 2017, equation 4)."""
    likelihood = log_likelihood(logits, label)
    return -((1 - likelihood.exp()) ** gamma) * likelihood
