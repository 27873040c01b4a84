"""Losses on logits (B, K, H, W) against class indices (B, H, W), 255 where unlabelled.

K = 1 is sigmoid against class 1; K >= 2 is softmax. All of them compute in float32 whatever the
precision of the network.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rsmamba_cli.datasets.info import IGNORE

SMOOTH = 1e-5
"""Added above and below the Dice ratio (RS-Mamba, official code)."""


def dice_loss(probability: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """1 - Dice, one ratio over the whole batch (RS-Mamba, official code).

    Args:
        probability: any shape, in [0, 1].
        target: same shape, 0 or 1.
        valid: same shape, bool; other elements count nowhere.
    """
    weight = valid.to(probability.dtype)
    both = (probability * target * weight).sum()
    either = (probability * weight).sum() + (target * weight).sum()
    return 1 - (2 * both + SMOOTH) / (either + SMOOTH)


def binary_cross_entropy(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Mean cross-entropy of a sigmoid over the valid elements; 0 when there are none."""
    weight = valid.to(logits.dtype)
    raw = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return (raw * weight).sum() / weight.sum().clamp(min=1)


class SegmentationLoss:
    """A weighted sum of cross-entropy and Dice, for one output or many.

    With one output: binary cross-entropy and the Dice ratio of the positive class, which with both
    weights 1 is the loss of the official RS-Mamba. With more: categorical cross-entropy and the
    mean of one Dice loss a class that the batch holds.

    Args:
        cross_entropy: weight of the cross-entropy term.
        dice: weight of the Dice term.
        class_weights: a factor a class in the cross-entropy (two for one output), or None.
        label_smoothing: share of the target that is spread over all classes, in [0, 1).
    """

    def __init__(
        self,
        cross_entropy: float = 1.0,
        dice: float = 1.0,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        self.cross_entropy = cross_entropy
        self.dice = dice
        self.class_weights = list(class_weights) if class_weights else None
        self.label_smoothing = label_smoothing

    def __call__(self, logits: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Compute the loss and its parts.

        Args:
            logits: (B, K, H, W), any floating dtype.
            label: (B, H, W), int64 class indices; 255 is left out.

        Returns:
            Scalars "loss" (with gradient), "ce" and "dice" (detached, unweighted).
        """
        logits = logits.float()
        valid = label != IGNORE
        known = torch.where(valid, label, 0)
        entropy, dice = (self._binary if logits.shape[1] == 1 else self._multi)(
            logits, known, valid
        )
        total = self.cross_entropy * entropy + self.dice * dice
        return {"loss": total, "ce": entropy.detach(), "dice": dice.detach()}

    def _binary(self, logits: Tensor, label: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        flat = logits[:, 0]
        target = label.to(flat.dtype)
        soft = target * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
        if self.class_weights is None:
            entropy = binary_cross_entropy(flat, soft, valid)
        else:
            weight = flat.new_tensor(self.class_weights)[label] * valid
            raw = F.binary_cross_entropy_with_logits(flat, soft, reduction="none")
            entropy = (raw * weight).sum() / weight.sum().clamp(min=SMOOTH)
        return entropy, dice_loss(flat.sigmoid(), target, valid)

    def _multi(self, logits: Tensor, label: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        weights = None if self.class_weights is None else logits.new_tensor(self.class_weights)
        if valid.any():
            entropy = F.cross_entropy(
                logits,
                torch.where(valid, label, IGNORE),
                weight=weights,
                ignore_index=IGNORE,
                label_smoothing=self.label_smoothing,
            )
        else:  # the mean over no pixels is NaN
            entropy = logits.sum() * 0.0
        if not self.dice:
            return entropy, torch.zeros_like(entropy)
        probability = logits.softmax(dim=1)
        truth = F.one_hot(label, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
        present = (truth * valid[:, None]).sum(dim=(0, 2, 3)) > 0
        if not present.any():
            return entropy, logits.sum() * 0.0
        parts = [
            dice_loss(probability[:, k], truth[:, k], valid)
            for k in range(logits.shape[1])
            if present[k]
        ]
        return entropy, torch.stack(parts).mean()
