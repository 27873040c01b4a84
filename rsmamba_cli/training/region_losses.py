"""Losses that are ratios of areas over the whole batch: Dice, Tversky, Lovasz.

``probability``, ``target`` (0 or 1) and ``valid`` (bool) have one shape, any; elements that are not
valid count nowhere.
"""

import torch
from torch import Tensor

SMOOTH = 1e-5
"""Added above and below the ratio (RS-Mamba, official code)."""


def dice_loss(probability: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """1 - Dice, one ratio over the whole batch (RS-Mamba, official code)."""
    weight = valid.to(probability.dtype)
    both = (probability * target * weight).sum()
    either = (probability * weight).sum() + (target * weight).sum()
    return 1 - (2 * both + SMOOTH) / (either + SMOOTH)


def tversky_loss(
    probability: Tensor, target: Tensor, valid: Tensor, alpha: float, beta: float
) -> Tensor:
    """1 - TP / (TP + alpha FP + beta FN) (Salehi et al. 2017); 0.5 and 0.5 is Dice."""
    weight = valid.to(probability.dtype)
    hits = (probability * target * weight).sum()
    alarms = (probability * (1 - target) * weight).sum()
    missed = ((1 - probability) * target * weight).sum()
    return 1 - (hits + SMOOTH) / (hits + alpha * alarms + beta * missed + SMOOTH)


def lovasz_hinge(score: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """The Lovasz extension of the Jaccard loss at the hinge errors (Berman et al. 2018, eq. 12).

    Args:
        score: logits of the positive class instead of probabilities.
        target: 0 or 1.
        valid: other elements count nowhere.
    """
    sign = 2 * target[valid] - 1
    return _lovasz(torch.relu(1 - score[valid] * sign), target[valid])


def lovasz_softmax(probability: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """The Lovasz extension of one class's Jaccard loss at |target - p| (Berman et al. 2018, eq. 9).

    The mean over the classes is the Lovasz-Softmax loss.
    """
    return _lovasz((target[valid] - probability[valid]).abs(), target[valid])


def _lovasz(errors: Tensor, target: Tensor) -> Tensor:
    """sum_i m_i (J(i) - J(i - 1)) over errors m sorted downwards, J(i) the loss of i mistakes."""
    if not len(errors):
        return errors.sum()
    errors, order = errors.sort(descending=True)
    truth = target[order]
    # With the i largest errors wrong: what is left of the intersection, what the union became.
    intersection = truth.sum() - truth.cumsum(0)
    union = truth.sum() + (1 - truth).cumsum(0)
    jaccard = 1 - intersection / union
    steps = torch.diff(jaccard, prepend=jaccard.new_zeros(1))
    return errors @ steps
