"""The loss of a segmentation: a weighted sum of pixel and region terms.

Logits (B, K, H, W) against class indices (B, H, W), 255 where unlabelled. K = 1 is sigmoid against
class 1; K >= 2 is softmax. Everything is computed in float32 whatever the precision of the network.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from rsmamba_cli.datasets.info import IGNORE
from rsmamba_cli.training.pixel_losses import focal_loss, hardest, log_likelihood, weighted_mean
from rsmamba_cli.training.region_losses import (
    dice_loss,
    lovasz_hinge,
    lovasz_softmax,
    tversky_loss,
)

Region = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Probability, target, valid -> the loss of one class."""


class SegmentationLoss:
    """A weighted sum of losses, for one output or many.

    Region terms (Dice, Tversky, Lovasz) are one ratio over the whole batch: of the positive class
    with one output, else the mean over the classes that the batch holds. Binary cross-entropy plus
    Dice, both with weight 1, is the loss of the official RS-Mamba.

    Args:
        cross_entropy, dice, focal, lovasz, tversky: the terms' weights; 0 leaves a term out.
            ``lovasz`` is the hinge form with one output, Lovasz-Softmax with more.
        class_weights: a factor a class in the pixel terms (two for one output), or None.
        label_smoothing: of the cross-entropy: share of the target spread over all classes, [0, 1).
        avg_non_ignore: pixel terms are means over labelled pixels; otherwise over all pixels, as
            mmsegmentation does by default.
        ohem_threshold: the cross-entropy takes only pixels whose true class is below this
            probability, and at least the ``ohem_min_pixels`` hardest of a batch; None takes all.
        focal_gamma: the exponent of the focal term.
        tversky_alpha, tversky_beta: prices of false alarms and of misses.
    """

    def __init__(
        self,
        cross_entropy: float = 1.0,
        dice: float = 1.0,
        focal: float = 0.0,
        lovasz: float = 0.0,
        tversky: float = 0.0,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
        avg_non_ignore: bool = True,
        ohem_threshold: float | None = None,
        ohem_min_pixels: int = 100_000,
        focal_gamma: float = 2.0,
        tversky_alpha: float = 0.3,
        tversky_beta: float = 0.7,
    ) -> None:
        self.class_weights = list(class_weights) if class_weights else None
        self.label_smoothing = label_smoothing
        self.avg_non_ignore = avg_non_ignore
        self.ohem_threshold = ohem_threshold
        self.ohem_min_pixels = ohem_min_pixels
        self.focal_gamma = focal_gamma
        self.tversky_alpha = tversky_alpha
        self.tversky_beta = tversky_beta
        weights = {
            "ce": cross_entropy,
            "dice": dice,
            "focal": focal,
            "lovasz": lovasz,
            "tversky": tversky,
        }
        self.weights = {name: weight for name, weight in weights.items() if weight > 0}

    def __call__(self, logits: Tensor, label: Tensor) -> dict[str, Tensor]:
        """Compute the loss and its terms.

        Args:
            logits: (B, K, H, W), any floating dtype.
            label: (B, H, W), int64 class indices; 255 is left out.

        Returns:
            Scalars: "loss" (with gradient), and "ce", "dice", "focal", "lovasz", "tversky"
            (detached, unweighted) as far as they have a weight.
        """
        logits = logits.float()
        valid = label != IGNORE
        known = torch.where(valid, label, 0)
        terms = {name: self._term(name, logits, known, valid) for name in self.weights}
        total = torch.stack([self.weights[name] * term for name, term in terms.items()]).sum()
        return {"loss": total, **{name: term.detach() for name, term in terms.items()}}

    def _term(self, name: str, logits: Tensor, label: Tensor, valid: Tensor) -> Tensor:
        if name == "ce":
            return self._cross_entropy(logits, label, valid)
        if name == "focal":
            raw = focal_loss(logits, label, self.focal_gamma)
            return weighted_mean(raw, self._weight(label, valid, logits), self.avg_non_ignore)
        if name == "dice":
            return _over_classes(dice_loss, logits, label, valid)
        if name == "lovasz":
            if logits.shape[1] == 1:
                return lovasz_hinge(logits[:, 0], label.to(logits.dtype), valid)
            return _over_classes(lovasz_softmax, logits, label, valid)

        def tversky(probability: Tensor, target: Tensor, mask: Tensor) -> Tensor:
            return tversky_loss(probability, target, mask, self.tversky_alpha, self.tversky_beta)

        return _over_classes(tversky, logits, label, valid)

    def _weight(self, label: Tensor, valid: Tensor, like: Tensor) -> Tensor:
        """How much each pixel counts, (B, H, W)."""
        if self.class_weights is None:
            return valid.to(like.dtype)
        return like.new_tensor(self.class_weights)[label] * valid

    def _cross_entropy(self, logits: Tensor, label: Tensor, valid: Tensor) -> Tensor:
        if self.ohem_threshold is not None:
            likelihood = log_likelihood(logits, label)
            valid = hardest(likelihood, valid, self.ohem_threshold, self.ohem_min_pixels)
        raw = -log_likelihood(logits, label, self.label_smoothing)
        return weighted_mean(raw, self._weight(label, valid, logits), self.avg_non_ignore)


def _over_classes(region: Region, logits: Tensor, label: Tensor, valid: Tensor) -> Tensor:
    """The positive class's loss with one output, else the mean over classes that occur."""
    if logits.shape[1] == 1:
        return region(logits[:, 0].sigmoid(), label.to(logits.dtype), valid)
    probability = logits.softmax(dim=1)
    truth = F.one_hot(label, logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    present = (truth * valid[:, None]).sum(dim=(0, 2, 3)) > 0
    parts = [
        region(probability[:, k], truth[:, k], valid) for k in range(len(present)) if present[k]
    ]
    return torch.stack(parts).mean() if parts else logits.sum() * 0.0
