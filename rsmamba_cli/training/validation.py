"""The validation of a run: whole tiles of a split, measured and some of them painted."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from rsmamba_cli.datasets import Split
from rsmamba_cli.errors import DatasetError
from rsmamba_cli.evaluation.gallery import Gallery
from rsmamba_cli.evaluation.metrics import summarise
from rsmamba_cli.evaluation.results import EvalResult
from rsmamba_cli.evaluation.whole import Tally, decide, run_split
from rsmamba_cli.events import EventHandler, Progress, Started
from rsmamba_cli.report.pictures import write_grid
from rsmamba_cli.training.assembly import Parts
from rsmamba_cli.training.recipe import TrainConfig


@dataclass(frozen=True)
class Validation:
    """What a validation found, after which step."""

    step: int
    result: EvalResult


class Validator:
    """Measures a model on the validation split, its tiles shared among the processes.

    Attributes:
        latest: what the latest call of `measure` found, with pictures of the worst and of some
            random tiles; None before the first.

    Args:
        config: the recipe.
        parts: dataset and description of the model.
        fabric: the processes.
        out: the run's folder; pictures go to ``out/pictures``.
        on_event: told of every tile.

    Raises:
        DatasetError: the dataset has no such split.
    """

    def __init__(
        self, config: TrainConfig, parts: Parts, fabric: Any, out: Path, on_event: EventHandler
    ) -> None:
        name, dataset = config.data.val_split, parts.dataset
        if name is not None and name not in dataset.splits:
            raise DatasetError(
                f"There is no split {name} to validate on, only {', '.join(dataset.splits)}. "
                "Name another as data.val_split, or none to train without validation."
            )
        self.split: Split | None = None if name is None else dataset.split(name)
        self.limit = config.data.val_limit
        self.batch_size = config.data.batch_size
        self.shown = config.loop.pictures
        self.seed = config.seed
        self.latest: Validation | None = None
        self.parts = parts
        self.fabric = fabric
        self.out = out
        self.on_event = on_event

    def measure(self, model: nn.Module, step: int, stage: str) -> dict[str, float]:
        """The metrics of a model, those of `summarise` and "nll".

        Args:
            model: in eval mode afterwards.
            step: named in the picture's file.
            stage: what events call it.
        """
        if self.split is None:
            return {}
        started = time.monotonic()
        meta, classes = self.parts.meta, self.parts.dataset.classes
        count = len(self.split) if self.limit is None else min(self.limit, len(self.split))
        mine = range(self.fabric.global_rank, count, self.fabric.world_size)
        gallery = Gallery(self.shown, count, [c.color for c in classes], self.seed)
        tally = Tally.empty(len(classes))
        self.on_event(Started(stage, len(mine), "tile"))
        device = self.fabric.device
        for index, sample, found in run_split(
            model, meta, device, self.split, mine, self.batch_size
        ):
            wrong = tally.add(sample.label, found, meta)
            gallery.show(index, sample, decide(found, meta), wrong)
            self.on_event(Progress(stage))
        if self.fabric.world_size > 1:
            tally = self._reduce(tally)
            galleries: list[Any] = [None] * self.fabric.world_size
            torch.distributed.all_gather_object(galleries, gallery)
            gallery = gallery.merged(galleries)
        if gallery.random and self.fabric.is_global_zero:
            folder = self.out / "pictures"
            folder.mkdir(exist_ok=True)
            write_grid([s.picture for s in gallery.random], folder / f"step_{step:07d}.png")
        names = tuple(c.name for c in classes)
        metrics = {**summarise(tally.confusion, names), "nll": tally.nll}
        self.latest = Validation(
            step,
            EvalResult(
                confusion=tally.confusion,
                class_names=names,
                metrics=metrics,
                pixels=tally.pixels,
                tiles=count,
                seconds=time.monotonic() - started,
                worst=gallery.worst,
                random=gallery.random,
            ),
        )
        return metrics

    def _reduce(self, tally: Tally) -> Tally:
        """Add up the counts of all processes."""
        numbers = torch.tensor(
            [*tally.confusion.ravel().tolist(), tally.log_likelihood],
            dtype=torch.float64,
            device=self.fabric.device,
        )
        total = self.fabric.all_reduce(numbers, reduce_op="sum").cpu().numpy()
        shape = tally.confusion.shape
        return Tally(total[:-1].round().astype(np.int64).reshape(shape), float(total[-1]))
