"""Opening everything in a dataset once, to find what is wrong before a training run does."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rsmamba_cli.datasets.info import IGNORE
from rsmamba_cli.datasets.inputs import DatasetInput
from rsmamba_cli.datasets.moments import Moments
from rsmamba_cli.datasets.splits import Dataset, FolderSplit, Split, open_dataset
from rsmamba_cli.errors import DatasetError
from rsmamba_cli.events import EventHandler, Finished, Progress, Started, ignore_events


@dataclass(frozen=True)
class SplitReport:
    """What one split holds.

    Attributes:
        tiles: number of samples.
        official: the published number, or None.
        sizes: "width x height" -> number of tiles.
        class_pixels: class name -> pixels.
        ignored_pixels: pixels without a label or without image data.
        values: value in the label files -> pixels, as they are on disk.
        problems: what is wrong, a line a tile.
        bands: image -> band -> mean and standard deviation, over the pixels with data.
    """

    tiles: int
    official: int | None
    sizes: dict[str, int]
    class_pixels: dict[str, int]
    ignored_pixels: int
    values: dict[int, int]
    problems: list[str]
    bands: dict[str, dict[str, tuple[float, float]]]


@dataclass(frozen=True)
class DatasetReport:
    """What a dataset holds and what is wrong with it.

    Attributes:
        name: the catalogue's name.
        root: its folder, or "" for a dataset without files.
        task: "segmentation", "change" or "multimodal".
        inputs: what the images of a sample are.
        splits: a report a split.
        notes: how the labels were understood, and differences from the official counts.
    """

    name: str
    root: str
    task: str
    inputs: tuple[DatasetInput, ...]
    splits: dict[str, SplitReport]
    notes: list[str] = field(default_factory=list)

    @property
    def problems(self) -> list[str]:
        """All problems of all splits."""
        return [f"{name}: {line}" for name, s in self.splits.items() for line in s.problems]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Everything as plain numbers and text."""
        return {**asdict(self), "problems": self.problems, "ok": self.ok}


def check_dataset(
    name: str,
    root: Path | str | None = None,
    on_event: EventHandler = ignore_events,
    **how: Any,
) -> DatasetReport:
    """Count, pair, open and measure everything in a dataset.

    Args:
        name: an entry of the catalogue.
        root: its folder, as for `open_dataset`.
        on_event: told of every tile.
        how: further keyword arguments of `open_dataset`.

    Raises:
        DatasetError: it cannot be opened at all (missing, other layout, labels not understood).
    """
    dataset = open_dataset(name, root, on_event=on_event, **how)
    reports = {s: _check_split(dataset.split(s), on_event) for s in dataset.splits}
    notes = list(dataset.notes)
    for split, report in reports.items():
        if report.official not in (None, report.tiles):
            notes.append(f"{split}: {report.tiles} tiles; the official split has {report.official}")
    notes += _far_from_official(dataset, reports)
    strange = {v for report in reports.values() for v in report.values} - {0, 1, 255}
    if dataset.info.binary_any and strange:
        shown = ", ".join(str(v) for v in sorted(strange)[:8])
        notes.append(f"labels also hold {shown}: like every value but 0 they count as positive")
    place = "" if dataset.root is None else str(dataset.root)
    return DatasetReport(name, place, dataset.task, dataset.inputs, reports, notes=notes)


def _check_split(split: Split, on_event: EventHandler) -> SplitReport:
    """Read every tile of a split."""
    stage = f"check {split.name}"
    on_event(Started(stage, len(split), "tile"))
    names = [c.name for c in split.dataset.classes]
    sizes: Counter[str] = Counter()
    pixels = np.zeros(256, np.int64)
    values: Counter[int] = Counter()
    problems = []
    moments: list[Moments] | None = None
    for index in range(len(split)):
        try:
            sample = split[index]
        except DatasetError as error:
            problems.append(str(error))
        else:
            height, width = sample.label.shape
            sizes[f"{width} x {height}"] += 1
            valid = np.ones((height, width), bool) if sample.valid is None else sample.valid
            found_here = [Moments.of(image, valid) for image in sample.images]
            pairs = zip(moments or found_here, found_here, strict=True)
            moments = [a + b for a, b in pairs] if moments else found_here
            pixels += np.bincount(sample.label.ravel(), minlength=256)
            if isinstance(split, FolderSplit):
                raw = split.dataset.coding.read(split.tiles[index].label)
                found, counts = np.unique(raw, return_counts=True)
                values.update({int(v): int(n) for v, n in zip(found, counts, strict=True)})
        on_event(Progress(stage))
    if pixels.sum() and not pixels[1 : len(names)].any():
        problems.append(f"no pixel of any class but {names[0]}: nothing can be learnt or measured")
    on_event(Finished(stage, f"{len(split)} tiles, {len(problems)} problems"))
    return SplitReport(
        tiles=len(split),
        official=split.dataset.info.splits.get(split.name),
        sizes=dict(sizes),
        class_pixels={n: int(p) for n, p in zip(names, pixels, strict=False)},
        ignored_pixels=int(pixels[IGNORE]),
        values=dict(sorted(values.items())),
        problems=problems,
        bands=_named(split.dataset.inputs, moments or []),
    )


def _named(
    inputs: Sequence[DatasetInput], moments: Sequence[Moments]
) -> dict[str, dict[str, tuple[float, float]]]:
    """Mean and deviation by image and band."""
    named = {}
    for image, measured in zip(inputs, moments, strict=False):
        pairs = zip(*(v.tolist() for v in measured.mean_and_std()), strict=True)
        named[image.name] = dict(zip(image.bands, pairs, strict=True))
    return named


def _far_from_official(dataset: Dataset, reports: Mapping[str, SplitReport]) -> list[str]:
    """Bands of the training split whose statistics are not the published ones."""
    info = dataset.info
    if not info.mean or "train" not in reports:
        return []
    known = dict(
        zip((*info.bands, *info.sar_bands), zip(info.mean, info.std, strict=True), strict=True)
    )
    notes = []
    for bands in reports["train"].bands.values():
        for band, (mean, std) in bands.items():
            if band not in known:
                continue
            wanted, spread = known[band]
            if abs(mean - wanted) > spread or not 0.5 < std / spread < 2:
                notes.append(
                    f"train: {band} has mean {mean:.4g} and deviation {std:.4g}; published are "
                    f"{wanted:.4g} and {spread:.4g}: other units, or bands in another order?"
                )
    return notes
