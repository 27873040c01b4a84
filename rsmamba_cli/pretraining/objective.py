"""What a pre-training step minimises: cross-entropy of mixed images against mixed classes."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rsmamba_cli.pretraining.config import ImageChangePart
from rsmamba_cli.training.data import Batch


def mix_batch(
    images: Tensor, rng: np.random.Generator, options: ImageChangePart
) -> tuple[Tensor, float]:
    """Blend (mixup) or paste (CutMix) the images of a batch with those of the reversed batch.

    Args:
        images: (B, C, H, W).
        rng: draws one share a batch.
        options: ``mixup``, ``cutmix``, ``cutmix_probability``.

    Returns:
        The mixed images, and the share of the first of each pair.
    """
    both = options.mixup > 0 and options.cutmix > 0
    cut = rng.random() < options.cutmix_probability if both else options.cutmix > 0
    alpha = options.cutmix if cut else options.mixup
    if not alpha:
        return images, 1.0
    share = float(rng.beta(alpha, alpha))
    if not cut:
        return share * images + (1 - share) * images.flip(0), share
    height, width = images.shape[2:]
    half = np.sqrt(1 - share) * np.array([height, width]) / 2
    centre = rng.uniform(0, [height, width])
    top, left = (int(v) for v in (centre - half).round().clip(0))
    bottom, right = (int(v) for v in (centre + half).round().clip(max=[height, width]))
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = images.flip(0)[:, :, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)


class ClassObjective:
    """Cross-entropy with smoothed labels of images that are mixed in pairs."""

    def __init__(self, options: ImageChangePart, label_smoothing: float) -> None:
        self.options = options
        self.label_smoothing = label_smoothing

    def __call__(self, model: Any, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """The "loss" of ``batch.label`` (B,); the generator says how the batch is mixed."""
        rng = np.random.default_rng(generator.initial_seed())
        images, share = mix_batch(batch.images[0], rng, self.options)
        logits = model.training_forward(images)["logits"].float()
        loss = share * self._loss(logits, batch.label)
        if share < 1:
            loss = loss + (1 - share) * self._loss(logits, batch.label.flip(0))
        return {"loss": loss}

    def _loss(self, logits: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(logits, label, label_smoothing=self.label_smoothing)
