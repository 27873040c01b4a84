"""What one step minimises: the loss of the model's logits, of its auxiliary head, and its own."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rsmamba_cli.training.data import Batch
from rsmamba_cli.training.losses import SegmentationLoss

_NOISE = 0xD1FF
"""Keeps the noise of models that draw some apart from the samples' generators."""


class Objective:
    """The sum that is minimised.

    Args:
        loss: of logits against labels.
        auxiliary: weight of the same loss at the auxiliary head, where the model has one
            (Samba and Seg-LSTM: 0.4).
    """

    def __init__(self, loss: SegmentationLoss, auxiliary: float) -> None:
        self.loss = loss
        self.auxiliary = auxiliary

    def __call__(self, model: Any, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Run the model on a batch.

        Args:
            model: its ``training_forward`` returns "logits", perhaps "auxiliary" logits, and
                perhaps "loss_terms": scalars by name that are added as they are. A model with
                ``needs_target`` is given the labels and the generator, too.
            batch: on the model's device.
            generator: of the model's own noise.

        Returns:
            Scalars: "loss" (with gradient), and its terms, detached and unweighted; "aux" is the
            whole loss at the auxiliary head.
        """
        target = (
            {"target": batch.label, "generator": generator}
            if getattr(model, "needs_target", False)
            else {}
        )
        outputs = model.training_forward(*batch.images, **target)
        terms = self.loss(outputs["logits"], batch.label)
        total = terms["loss"]
        if self.auxiliary and "auxiliary" in outputs:
            aside = self.loss(outputs["auxiliary"], batch.label)["loss"]
            total = total + self.auxiliary * aside
            terms["aux"] = aside.detach()
        for name, term in outputs.get("loss_terms", {}).items():
            total = total + term
            terms[name] = term.detach()
        return {**terms, "loss": total}


def noise_generator(seed: int, batch: int, rank: int, device: torch.device) -> torch.Generator:
    """The generator of what a model draws for one batch, the same however a run got there.

    Args:
        seed: of the run.
        batch: number of the batch since the start.
        rank: of this process.
        device: where it draws.
    """
    words = np.random.SeedSequence((seed, batch, rank, _NOISE)).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(words[0] >> np.uint64(1)))
