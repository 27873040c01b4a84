"""What an evaluation found."""

import math
from dataclasses import dataclass, field
from typing import Any

from rsmamba_cli.evaluation.metrics import Counts


@dataclass(frozen=True)
class EvalResult:
    """Figures of a model or a map against the truth.

    Attributes:
        confusion: pixels, rows the truth, columns the prediction.
        class_names: of rows and columns.
        metrics: see `rsmamba_cli.evaluation.metrics.summarise`; shares between 0 and 1, NaN where
            there is nothing to measure.
        notes: how values were understood and what was left out.
        pixels: how many were compared.
        tiles: how many images were compared.
        seconds: of computing.
    """

    confusion: Counts
    class_names: tuple[str, ...]
    metrics: dict[str, float]
    notes: list[str] = field(default_factory=list)
    pixels: int = 0
    tiles: int = 1
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Everything as plain numbers and text; undefined figures are null."""
        return {
            "metrics": {k: v if math.isfinite(v) else None for k, v in self.metrics.items()},
            "classes": list(self.class_names),
            "confusion": self.confusion.tolist(),
            "pixels": self.pixels,
            "tiles": self.tiles,
            "seconds": round(self.seconds, 3),
            "notes": self.notes,
        }
