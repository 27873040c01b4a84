"""What changes from step to step: weights, optimiser, schedule and running mean."""

import math
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

from rsmamba_cli.errors import RsmambaError
from rsmamba_cli.training.checkpointing import checkpoint_blocks
from rsmamba_cli.training.data import Batch
from rsmamba_cli.training.ema import Ema
from rsmamba_cli.training.job import Minimised
from rsmamba_cli.training.objective import noise_generator
from rsmamba_cli.training.optimiser import encoder_of, freeze, layers_of, make_optimiser
from rsmamba_cli.training.recipe import RunConfig
from rsmamba_cli.training.schedule import Schedule
from rsmamba_cli.training.state import BAD_BATCH, save_torch
from rsmamba_cli.training.sync_batchnorm import synchronise_batchnorm

_MOST_SKIPPED = 50
"""Steps in a row that fp16 may skip for overflow before training is called broken."""


class Stepper:
    """One process's share of the optimisation.

    Args:
        config: the recipe.
        model: with its first weights, the same in every process; changed in place.
        objective: what is minimised.
        fabric: devices and precision.
        precision: "fp32", "bf16" or "fp16".
        out: folder for a batch that breaks the training.

    Attributes:
        raw: the model without what Fabric wraps around it.
        step: optimiser steps done.
    """

    def __init__(
        self,
        config: RunConfig,
        model: nn.Module,
        objective: Minimised,
        fabric: Any,
        precision: str,
        out: Path,
    ) -> None:
        self.tuning = config.optimiser
        self.seed = config.seed
        self.objective = objective
        self.fabric = fabric
        self.precision = precision
        self.out = out
        if fabric.world_size > 1 and config.model.sync_batchnorm:
            model = synchronise_batchnorm(model, fabric.device.type)
        if config.model.gradient_checkpointing:
            encoder = encoder_of(model, "model.gradient_checkpointing")
            checkpoint_blocks([block for _, block in layers_of(encoder)])
        self.raw = model
        self.frozen = freeze(model, self.tuning.freeze)
        self.model, self.optimiser = fabric.setup(model, make_optimiser(model, self.tuning))
        self.model.mark_forward_method("training_forward")
        self.ema = None if self.tuning.ema is None else Ema(model, self.tuning.ema)
        self.schedule = Schedule(**config.schedule.model_dump())
        self.step = 0
        self.skipped = 0

    def advance(self, loader: Any, progress: float, total: float) -> dict[str, float]:
        """One optimiser step.

        Args:
            loader: an iterator over batches; ``optimiser.accumulate`` of them are taken.
            progress: the share of the training that is done, 0 to 1.
            total: steps of the whole training, if that is what bounds it; else infinity.

        Returns:
            "loss" and its terms, "grad_norm" before clipping, and "lr".

        Raises:
            RsmambaError: the loss or a gradient is not finite; the batch is saved.
        """
        rate = self.tuning.lr * self.schedule.factor(self.step, progress, total)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["lr_factor"]
        self.model.train()
        for module in self.frozen:
            module.eval()
        sums: dict[str, float] = {}
        parts = self.tuning.accumulate
        for part in range(parts):
            batch: Batch = next(loader).to(self.fabric.device)
            with self.fabric.no_backward_sync(self.model, enabled=part + 1 < parts):
                terms = self.objective(self.model, batch, self._noise(part))
                # Several processes must stop at once, which the norm of the gradients sees to.
                if self.fabric.world_size == 1 and not torch.isfinite(terms["loss"]):
                    self._give_up(batch, f"the loss is {terms['loss'].item()}")
                self.fabric.backward(terms["loss"] / parts)
            for name, value in terms.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) / parts
        # Fabric unscales first: clipping scaled gradients would shrink every step of fp16.
        norm = float(
            self.fabric.clip_gradients(
                self.model,
                self.optimiser,
                max_norm=self.tuning.clip_norm or math.inf,
                error_if_nonfinite=False,
            )
        )
        if math.isfinite(norm):
            self.skipped = 0
        else:
            self.skipped += 1
            if self.precision != "fp16" or self.skipped > _MOST_SKIPPED:
                self._give_up(batch, f"the gradient norm is {norm}")
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.raw)
        self.step += 1
        return {**sums, "grad_norm": norm if math.isfinite(norm) else 0.0, "lr": rate}

    def _noise(self, part: int) -> torch.Generator:
        """The generator of the model's own noise for one batch of this step."""
        batch = self.step * self.tuning.accumulate + part
        return noise_generator(self.seed, batch, self.fabric.global_rank, self.fabric.device)

    def check_buffers(self) -> None:
        """Refuse to go on with BatchNorm statistics that one overflow has ruined for good.

        Raises:
            RsmambaError: a buffer is not finite.
        """
        for name, buffer in self.raw.named_buffers():
            if buffer.is_floating_point() and not torch.isfinite(buffer).all():
                raise RsmambaError(
                    f"{name} is not finite after step {self.step}: an activation overflowed. "
                    "Train with loop.precision=bf16 or fp32."
                )

    def _give_up(self, batch: Batch, what: str) -> NoReturn:
        """Save the batch that broke the training.

        Raises:
            RsmambaError: always.
        """
        rank = self.fabric.global_rank
        path = self.out / (BAD_BATCH if rank == 0 else f"{rank}_{BAD_BATCH}")
        save_torch(
            {
                "step": self.step,
                "stems": list(batch.stems),
                "images": [image.cpu() for image in batch.images],
                "label": batch.label.cpu(),
            },
            path,
        )
        raise RsmambaError(
            f"Training stopped at step {self.step}: {what}. The batch is in {path} "
            f"({', '.join(batch.stems[:4])}...). Look for broken tiles; else lower optimiser.lr, "
            "or use loop.precision=fp32. The last saved state is from before."
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on, in tensors and plain values."""
        return {
            "step": self.step,
            "model": self.raw.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "schedule": self.schedule.state_dict(),
            "ema": None if self.ema is None else self.ema.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict``."""
        self.raw.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        self.schedule.load_state_dict(state["schedule"])
        if self.ema is not None:
            self.ema.load_state_dict(**state["ema"])
        self.step = state["step"]
