"""What is counted of every tile. All of it adds up, so that sums are exact and can be resampled."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rsmamba_cli.errors import InputError
from rsmamba_cli.evaluation.boundary import boundary_counts
from rsmamba_cli.evaluation.calibration import BINS, calibration_error, reliability
from rsmamba_cli.evaluation.metrics import (
    Counts,
    Floats,
    empty_confusion,
    margins_of,
    mean_of,
    ratio,
    summarise_margins,
)
from rsmamba_cli.evaluation.objects import match_objects, object_counts, objects_of
from rsmamba_cli.evaluation.whole import Floats as Probability
from rsmamba_cli.evaluation.whole import Tally, decide
from rsmamba_models import CheckpointMeta


@dataclass
class Ledger:
    """Counts of tiles, a row a tile.

    A row holds margins (3 K), boundaries (2 K), reliability (3 x 15), -log likelihood, and matched,
    true and predicted objects (two classes only).

    Attributes:
        names: of the classes.
        means_without: classes that stay out of means.
        confusion: of all tiles.
        stems: of the tiles.
        rows: float64 (V,) of each tile.
        found: for each tile, which of its true objects were found.
    """

    names: tuple[str, ...]
    means_without: Collection[str] = ()
    confusion: Counts = field(init=False)
    stems: list[str] = field(default_factory=list)
    rows: list[Floats] = field(default_factory=list)
    found: list[NDArray[np.bool_]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.confusion = empty_confusion(len(self.names))

    def add(
        self, stem: str, label: NDArray[np.int64], probability: Probability, meta: CheckpointMeta
    ) -> None:
        """Count a tile: class indices (H, W), 255 unlabelled, against probabilities (K, H, W)."""
        classes = len(self.names)
        tally = Tally.empty(classes)
        tally.add(label, probability, meta)
        guess = decide(probability, meta)
        found, objects = np.zeros(0, bool), np.zeros(3, np.int64)
        if classes == 2:
            known = label < classes
            found, right = match_objects(objects_of(label == 1), objects_of((guess == 1) & known))
            objects = object_counts(found, right)
        parts = (
            margins_of(tally.confusion),
            boundary_counts(label, guess, classes),
            reliability(probability, label),
            [tally.log_likelihood],
            objects,
        )
        self.rows.append(np.concatenate([np.ravel(part) for part in parts]).astype(np.float64))
        self.confusion += tally.confusion
        self.stems.append(stem)
        self.found.append(found)

    def figures(self, counts: Floats) -> dict[str, Floats]:
        """Make every figure of sums of rows, (..., V)."""
        classes = len(self.names)
        margins, edges, bins, surprise, objects = np.split(
            counts, np.cumsum([3 * classes, 2 * classes, 3 * BINS, 1]), axis=-1
        )
        margins = margins.reshape(*counts.shape[:-1], 3, classes)
        out = summarise_margins(margins, self.names, self.means_without)
        out["nll"] = ratio(surprise[..., 0], margins[..., 1, :].sum(-1))
        out["ece"] = calibration_error(bins.reshape(*counts.shape[:-1], 3, BINS))
        shared, either = edges[..., :classes], edges[..., classes:]
        boundary = ratio(shared, either)
        if classes == 2:
            out["boundary_iou"] = boundary[..., 1]
            out |= object_figures(objects)
        else:
            counted = [name not in self.means_without for name in self.names]
            out["boundary_iou"] = mean_of(boundary[..., counted])
            out |= {f"boundary_iou/{n}": boundary[..., k] for k, n in enumerate(self.names)}
        return out

    def total(self) -> dict[str, float]:
        """The figures of all tiles."""
        found = self.figures(np.sum(self.rows, axis=0))
        return {name: float(value) for name, value in found.items()}

    def units(self, scenes: str | None = None) -> Floats:
        """Sums of rows, (U, V): a row a tile, or a row a scene.

        Args:
            scenes: a regular expression; tiles in whose names it finds the same are one scene (the
                first group, where it has one). None makes every tile one.

        Raises:
            InputError: it is none, or fits no part of a name.
        """
        table = np.stack(self.rows)
        if scenes is None:
            return table
        _, place = np.unique(scene_names(self.stems, scenes), return_inverse=True)
        out = np.zeros((place.max() + 1, table.shape[1]))
        np.add.at(out, place, table)
        return out

    def reliability(self) -> Floats:
        """The bins of all tiles, (3, 15)."""
        first = 5 * len(self.names)
        total: Floats = np.sum(self.rows, axis=0)[first : first + 3 * BINS].reshape(3, BINS)
        return total

    def errors_of_last(self) -> float:
        """The share of wrong pixels among the labelled ones of the last tile; 0 without labels."""
        hits, truth, _ = self.rows[-1][: 3 * len(self.names)].reshape(3, -1).sum(axis=1)
        return float(1 - hits / truth) if truth else 0.0


def object_figures(objects: Floats) -> dict[str, Floats]:
    """Precision, recall and F1 of matched, true and predicted objects, (..., 3)."""
    matched, true, predicted = np.moveaxis(objects, -1, 0)
    return {
        "object_precision": ratio(matched, predicted),
        "object_recall": ratio(matched, true),
        "object_f1": ratio(2 * matched, true + predicted),
    }


def merged(ledgers: Sequence[Ledger], order: Sequence[int]) -> Ledger:
    """One ledger of several, its tiles sorted by ``order`` (a number for each, in turn)."""
    out = Ledger(ledgers[0].names, ledgers[0].means_without)
    out.confusion = np.sum([part.confusion for part in ledgers], axis=0)
    places = np.argsort(order, kind="stable")
    for name in ("stems", "rows", "found"):
        listed = [item for part in ledgers for item in getattr(part, name)]
        setattr(out, name, [listed[place] for place in places])
    return out


def scene_names(stems: Sequence[str], pattern: str) -> list[str]:
    """What a regular expression finds in every name: its first group, or all of it.

    Raises:
        InputError: it is none, or finds nothing in a name.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"--scenes {pattern!r} is no regular expression: {error}") from error
    out = []
    for stem in stems:
        match = compiled.search(stem)
        if match is None:
            raise InputError(f"--scenes {pattern!r} finds nothing in the tile name {stem!r}.")
        out.append(match[1] if compiled.groups else match[0])
    return out
