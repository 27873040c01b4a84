"""What an evaluation found."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsmamba_cli.evaluation.metrics import Counts, Floats

Interval = tuple[float, float]


@dataclass(frozen=True)
class Shown:
    """A tile for the eye: its name, the share of its labelled pixels that are wrong, a picture."""

    stem: str
    wrong: float
    picture: NDArray[np.uint8]


@dataclass(frozen=True)
class EvalResult:
    """Figures of a model or a map against the truth.

    Attributes:
        confusion: pixels, rows the truth, columns the prediction.
        class_names: of rows and columns.
        metrics: see `rsmamba_cli.evaluation.metrics.summarise`; shares between 0 and 1, NaN where
            there is nothing to measure. Of a model also "nll", "ece", "boundary_iou" and, of two
            classes, "object_precision", "object_recall", "object_f1".
        notes: how values were understood and what was left out.
        pixels: how many were compared.
        tiles: how many images were compared.
        seconds: of computing.
        protocol: how a model was run.
        units: how many scenes, tiles, blocks or points the intervals come from.
        intervals: 95 % intervals of the metrics; none for a single unit.
        reliability: pixels, sum of confidences and right ones in 15 bins, (3, 15).
        worst: the tiles with the largest share of wrong pixels.
        random: some others.
    """

    confusion: Counts
    class_names: tuple[str, ...]
    metrics: dict[str, float]
    notes: list[str] = field(default_factory=list)
    pixels: int = 0
    tiles: int = 1
    seconds: float = 0.0
    protocol: str = ""
    units: int = 1
    intervals: dict[str, Interval] = field(default_factory=dict)
    reliability: Floats | None = None
    worst: tuple[Shown, ...] = ()
    random: tuple[Shown, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Everything but pictures as plain numbers and text; undefined figures are null."""
        return {
            "metrics": {name: finite(value) for name, value in self.metrics.items()},
            "intervals": {
                name: [finite(low), finite(high)] for name, (low, high) in self.intervals.items()
            },
            "classes": list(self.class_names),
            "confusion": self.confusion.tolist(),
            "reliability": None if self.reliability is None else self.reliability.tolist(),
            "protocol": self.protocol,
            "pixels": self.pixels,
            "tiles": self.tiles,
            "units": self.units,
            "seconds": round(self.seconds, 3),
            "notes": self.notes,
        }

    def to_csv(self) -> str:
        """A line a metric: name, class (empty for all), value, and the ends of its interval."""
        lines = ["metric,class,value,low,high"]
        for name, value in self.metrics.items():
            metric, _, label = name.partition("/")
            ends = self.intervals.get(name, (math.nan, math.nan))
            cells = ["" if finite(v) is None else f"{v:.6f}" for v in (value, *ends)]
            label = '"' + label.replace('"', '""') + '"' if set(label) & set(',"') else label
            lines.append(",".join((metric, label, *cells)))
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Difference:
    """How much more the second has than the first, of one metric.

    Attributes:
        first: of the first model or map.
        second: of the second.
        low: lower end of the 95 % interval of second - first.
        high: upper end.
        p: two-sided, of the paired bootstrap.
    """

    first: float
    second: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class Comparison:
    """Two models or maps on the same tiles.

    Attributes:
        first: the name of the first.
        second: the name of the second.
        differences: metric -> difference.
        units: scenes, tiles or blocks that were resampled.
        pixels_only: pixels that only the first, and only the second has right.
        pixels_p: McNemar's test of them; pixels depend on each other, so it is too sure.
        objects_only: true objects that only the first, and only the second found; None unless there
            are two classes.
        objects_p: McNemar's test of them.
        notes: what a reader should know.
        seconds: of computing.
    """

    first: str
    second: str
    differences: dict[str, Difference]
    units: int
    pixels_only: tuple[int, int]
    pixels_p: float
    objects_only: tuple[int, int] | None = None
    objects_p: float = math.nan
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Everything as plain numbers and text; undefined figures are null."""
        keys = ("first", "second", "low", "high", "p")
        return {
            "first": self.first,
            "second": self.second,
            "metrics": {
                name: {key: finite(getattr(found, key)) for key in keys}
                for name, found in self.differences.items()
            },
            "units": self.units,
            "pixels_only": list(self.pixels_only),
            "pixels_p": finite(self.pixels_p),
            "objects_only": None if self.objects_only is None else list(self.objects_only),
            "objects_p": finite(self.objects_p),
            "seconds": round(self.seconds, 3),
            "notes": self.notes,
        }

    def to_csv(self) -> str:
        """A line a metric: name, both values, the interval of their difference, p."""
        lines = ["metric,first,second,low,high,p"]
        for name, d in self.differences.items():
            cells = ("" if finite(v) is None else f"{v:.6f}" for v in (d.first, d.second))
            rest = ("" if finite(v) is None else f"{v:.6f}" for v in (d.low, d.high, d.p))
            lines.append(",".join((name.replace(",", ";"), *cells, *rest)))
        return "\n".join(lines) + "\n"


def finite(value: float) -> float | None:
    """A number that JSON can hold, or None."""
    return value if math.isfinite(value) else None
