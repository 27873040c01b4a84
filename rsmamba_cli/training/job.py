"""What a training run works on; the trainer knows no more of its task than this."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from rsmamba_cli.events import EventHandler
from rsmamba_cli.training.assembly import Parts
from rsmamba_cli.training.class_shares import class_weights
from rsmamba_cli.training.data import Batch, BatchStream, TrainSamples
from rsmamba_cli.training.losses import SegmentationLoss
from rsmamba_cli.training.objective import Objective
from rsmamba_cli.training.recipe import TrainConfig
from rsmamba_cli.training.results import TrainResult
from rsmamba_cli.training.run_page import dense_page
from rsmamba_cli.training.validation import Validator
from rsmamba_models import CheckpointMeta


class Minimised(Protocol):
    """What a step minimises."""

    def __call__(self, model: Any, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Scalars: "loss" (with gradient), and its terms, detached."""


class Measure(Protocol):
    """What a validation measures."""

    def measure(self, model: nn.Module, step: int, stage: str) -> dict[str, float]:
        """Figures of a model after a step; ``stage`` is what events call it."""


@dataclass(frozen=True)
class Job:
    """What a training run works on.

    Attributes:
        model: with its first weights.
        stream: the batches of this process.
        workers: reading processes, or "auto".
        objective: what is minimised.
        validator: measures the model now and then; None for none.
        monitor: the figure of the validator that chooses the best checkpoint, higher is better.
        meta: what checkpoints say, but for metrics and progress.
        page: makes the run's report of what has come of it so far; None leaves the one that there
            is.
    """

    model: nn.Module
    stream: BatchStream
    workers: int | str
    objective: Minimised
    validator: Measure | None
    monitor: str
    meta: CheckpointMeta
    page: Callable[[TrainResult], str | None]


def dense_job(
    config: TrainConfig, parts: Parts, fabric: Any, out: Path, on_event: EventHandler
) -> Job:
    """The training of a model that labels pixels.

    Raises:
        DatasetError: the dataset lacks a split.
        InputError: settings that do not fit the dataset.
    """
    data = config.data
    split = parts.dataset.split(data.train_split)
    samples = TrainSamples(split, parts.transforms, data, config.augment, config.seed)
    rank, world = fabric.global_rank, fabric.world_size
    stream = BatchStream(samples, data.batch_size, config.seed, rank, world, data.tiles_per_batch)
    validator = Validator(config, parts, fabric, out, on_event)
    settings = config.loss.model_dump(exclude={"auxiliary"})
    settings["class_weights"] = class_weights(config.loss.class_weights, split, parts.dataset)
    auto = "miou" if len(parts.dataset.classes) > 2 else "f1"
    return Job(
        model=parts.model,
        stream=stream,
        workers=data.workers,
        objective=Objective(SegmentationLoss(**settings), config.loss.auxiliary),
        validator=None if validator.split is None else validator,
        monitor=auto if config.loop.monitor == "auto" else config.loop.monitor,
        meta=parts.meta,
        page=dense_page(config, parts, validator),
    )
