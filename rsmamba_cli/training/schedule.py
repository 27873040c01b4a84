"""The learning rate as a function of the step: a warm-up, then one of five courses."""

import math
from dataclasses import dataclass
from typing import Any, Literal

Course = Literal["constant", "plateau", "cosine", "poly", "step"]


@dataclass
class Schedule:
    """A factor for every learning rate of the optimiser.

    During the first ``warmup_steps`` optimiser steps the factor rises linearly from
    ``warmup_start`` to exactly 1 (the official code stops short of it, and counts validation
    batches as steps; this one does neither). This is multiplied by ``course``:

    * ``constant``: 1;
    * ``plateau``: multiplied by ``plateau_factor`` after ``patience`` validations without a better
      score, the count starting again (official RS-Mamba: 0.1 after 12);
    * ``cosine``: half a cosine from 1 to ``floor`` at the end of training;
    * ``poly``: ``(1 - progress) ** power``, not below ``floor``;
    * ``step``: multiplied by ``step_factor`` at each of ``milestones``, shares of the training.

    The course runs from the first step (mmcv), or with ``after_warmup`` from the end of the warm-up
    (mmengine).

    Attributes:
        reduced: the product of the reductions on plateaus so far.
        stale: validations since the best score.
        best: the best score so far, or None.
    """

    course: Course = "cosine"
    warmup_steps: int = 0
    warmup_start: float = 1e-4
    after_warmup: bool = False
    floor: float = 0.0
    power: float = 0.9
    milestones: tuple[float, ...] = (0.6, 0.8)
    step_factor: float = 0.1
    patience: int = 12
    plateau_factor: float = 0.1
    reduced: float = 1.0
    stale: int = 0
    best: float | None = None

    def factor(self, step: int, progress: float, total: float = math.inf) -> float:
        """The factor for the optimiser step number ``step`` (from 0).

        Args:
            step: optimiser steps done before.
            progress: the share of the training that is done, 0 to 1.
            total: optimiser steps of the whole training, if that is what bounds it.
        """
        warm = 1.0
        if step < self.warmup_steps:
            warm = self.warmup_start + (1 - self.warmup_start) * (step + 1) / self.warmup_steps
        skipped = min(self.warmup_steps / total, 1.0) if self.after_warmup else 0.0
        past = (progress - skipped) / (1 - skipped) if skipped < 1 else 0.0
        left = 1 - min(max(past, 0.0), 1.0)
        if self.course == "cosine":
            course = self.floor + (1 - self.floor) * 0.5 * (1 - math.cos(math.pi * left))
        elif self.course == "poly":
            course = max(self.floor, left**self.power)
        elif self.course == "step":
            course = self.step_factor ** sum(past >= m for m in self.milestones)
        else:
            course = self.reduced
        return warm * course

    def validated(self, score: float) -> None:
        """Take note of a validation score (higher is better; NaN is never better)."""
        if self.best is None or score > self.best:
            self.best, self.stale = (score if score == score else self.best), 0
            return
        self.stale += 1
        if self.course == "plateau" and self.stale >= self.patience:
            self.reduced *= self.plateau_factor
            self.stale = 0

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know."""
        return {"reduced": self.reduced, "stale": self.stale, "best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from ``state_dict``."""
        self.reduced, self.stale, self.best = state["reduced"], state["stale"], state["best"]
