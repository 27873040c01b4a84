"""What a training run left behind."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TrainResult:
    """What a training run leaves behind.

    Attributes:
        out: its folder.
        best: the checkpoint with the best validation score; None before the first validation.
        last: the latest checkpoint.
        best_metrics: of ``best`` on the validation split, shares between 0 and 1.
        last_metrics: of the latest validation.
        monitor: the figure that chose ``best``.
        steps: optimiser steps done.
        epochs: passes over the training split done.
        seconds: of training, validation included, over all runs that led here.
        finished: False when ``loop.limit_steps`` ended the run before its length.
        device: what it ran on.
        precision: of the arithmetic.
        peak_memory_bytes: largest size so far: what was allocated on a GPU, else the resident size
            of the process.
    """

    out: Path
    best: Path | None
    last: Path
    best_metrics: dict[str, float]
    last_metrics: dict[str, float]
    monitor: str
    steps: int
    epochs: float
    seconds: float
    finished: bool
    device: str
    precision: str
    peak_memory_bytes: int

    def to_json(self) -> dict[str, Any]:
        """Everything as plain numbers and text; undefined figures are null."""
        content = asdict(self)
        for key in ("out", "best", "last"):
            content[key] = None if content[key] is None else str(content[key])
        for key in ("best_metrics", "last_metrics"):
            content[key] = {k: v if math.isfinite(v) else None for k, v in content[key].items()}
        return content
