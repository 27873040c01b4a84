"""A checkpoint's temperature and threshold, fitted on a split that training did not see."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rsmamba_cli.datasets import IGNORE
from rsmamba_cli.datasets.inputs import Bands
from rsmamba_cli.errors import DatasetError, InputError, OutputError
from rsmamba_cli.evaluation.calibration import (
    Criterion,
    Pixels,
    calibration_error,
    fit_temperature,
    fit_threshold,
    reliability,
    tempered,
)
from rsmamba_cli.evaluation.metrics import confusion_of, summarise
from rsmamba_cli.evaluation.protocols import log_of, protocol_of
from rsmamba_cli.evaluation.results import finite
from rsmamba_cli.evaluation.subject import open_subject
from rsmamba_cli.evaluation.whole import run_split
from rsmamba_cli.events import EventHandler, Finished, Progress, Started, Warned, ignore_events
from rsmamba_cli.inference.device import resolve_device
from rsmamba_models import CheckpointMeta
from rsmamba_models.checkpoint import save_checkpoint, stored_dtype

_MOST = 8_000_000
"""Scores (pixels times classes) kept for the fit; more are thinned out, in every tile alike."""


@dataclass(frozen=True)
class CalibrationResult:
    """What a calibration changed.

    Attributes:
        output: the new checkpoint.
        temperature: before and after.
        threshold: before and after; of softmax models it is not used.
        metrics: name -> before and after, on the split of the fit ("f1", "iou", "area_bias" of two
            classes; "nll", "ece").
        pixels: that the fit used.
        notes: what a user should know.
        seconds: of computing.
    """

    output: Path
    temperature: tuple[float, float]
    threshold: tuple[float, float]
    metrics: dict[str, tuple[float, float]]
    pixels: int
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Everything as plain numbers and text; undefined figures are null."""
        return {
            "output": str(self.output),
            "temperature": list(self.temperature),
            "threshold": list(self.threshold),
            "metrics": {name: [finite(v) for v in pair] for name, pair in self.metrics.items()},
            "pixels": self.pixels,
            "notes": self.notes,
            "seconds": round(self.seconds, 3),
        }


def calibrate(
    checkpoint: Path | str,
    output: Path | str,
    dataset: str,
    data: Path | str | None = None,
    split: str = "val",
    criterion: Criterion = "f1",
    *,
    allow_test: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    batch_size: int = 4,
    tile: int | None = None,
    protocol: str | None = None,
    bands: Bands | None = None,
    options: dict[str, object] | None = None,
    roles: Sequence[str] | None = None,
    on_event: EventHandler = ignore_events,
) -> CalibrationResult:
    """Fit the temperature, and of a sigmoid model the threshold, and write a new checkpoint.

    The temperature makes the mean -log p(true class) smallest; it changes no decision between
    classes. The threshold is fitted after it. Weights are copied as they are.

    Args:
        checkpoint: the file to calibrate; not changed.
        output: the new file.
        dataset: a name of the catalogue.
        data: its folder.
        split: what to fit on.
        criterion: of the threshold: "f1", or "area" for a map of the right total area.
        allow_test: allow the test split, whose figures then say nothing any more.
        overwrite: replace ``output``.
        device: "auto", "cpu", "cuda" or "mps".
        batch_size: tiles of 256 x 256 in a batch.
        tile: windows of this side.
        protocol: see `PROTOCOLS`; None for the dataset's own.
        bands: as for `evaluate`.
        options: of the ``demo`` dataset.
        roles: as for `evaluate`.
        on_event: told of every tile.

    Raises:
        InputError: the test split without ``allow_test``.
        OutputError: ``output`` exists or cannot be written.
        CheckpointError, DatasetError: as for `evaluate`.
    """
    started = time.monotonic()
    if split == "test" and not allow_test:
        raise InputError(
            "Fitting on the test split would make its figures worthless. Calibrate on another "
            "split (--split val), or say that you mean it (--allow-test)."
        )
    target = Path(output)
    if target.exists() and not overwrite:
        raise OutputError(f"{target} exists already; use --overwrite to replace it")
    way = protocol_of(dataset, protocol)
    subject = open_subject(checkpoint, dataset, data, bands, options, roles)
    meta, tiles = subject.meta, subject.dataset.split(split)
    for note in subject.notes:
        on_event(Warned(note))
    headers = (tiles.header(index) for index in range(len(tiles)))
    total = sum(header.height * header.width for header in headers)
    step = -(-total * len(meta.classes) // _MOST)
    scores, truths = [], []
    stage = f"calibrate on {split}"
    on_event(Started(stage, len(tiles), "tile"))
    run = run_split(
        subject.model,
        meta,
        resolve_device(device),
        tiles,
        range(len(tiles)),
        batch_size,
        tile,
        way,
    )
    for _, sample, found in run:
        known = np.flatnonzero(sample.label != IGNORE)[::step]
        # Dividing logits by a temperature divides these logarithms, up to a constant a pixel.
        logs = log_of(found.reshape(len(found), -1)[:, known]) * np.float32(meta.temperature)
        scores.append(np.ascontiguousarray(logs.T))
        truths.append(sample.label.ravel()[known])
        on_event(Progress(stage))
    pixels = Pixels(np.concatenate(scores), np.concatenate(truths))
    if not len(pixels.truth):
        raise DatasetError(f"The split {split} has no labelled pixel: there is nothing to fit.")
    notes = [*subject.notes]
    if step > 1:
        notes.append(f"fitted on every {step}th labelled pixel")
    temperature = fit_temperature(pixels)
    threshold = meta.threshold
    if meta.output == "sigmoid":
        try:
            sure = tempered(pixels.scores, temperature)[:, 1].astype(np.float32)
            threshold = fit_threshold(sure, pixels.truth, criterion)
        except ValueError as error:
            notes.append(f"the threshold was left as it is: {error}")
    new = meta.model_copy(
        update={
            "temperature": temperature,
            "threshold": threshold,
            "training": {
                **meta.training,
                "calibration": {"dataset": dataset, "split": split, "threshold_for": criterion},
            },
        }
    )
    try:
        save_checkpoint(target, subject.model, new, stored_dtype(subject.path))
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error}") from error
    before, after = _figures(pixels, meta), _figures(pixels, new)
    on_event(Finished(stage, f"temperature {temperature:.3g}, threshold {threshold:.3g}"))
    return CalibrationResult(
        output=target,
        temperature=(meta.temperature, temperature),
        threshold=(meta.threshold, threshold),
        metrics={name: (before[name], after[name]) for name in before},
        pixels=len(pixels.truth),
        notes=notes,
        seconds=time.monotonic() - started,
    )


def _figures(pixels: Pixels, meta: CheckpointMeta) -> dict[str, float]:
    """What temperature and threshold change."""
    probability = tempered(pixels.scores, meta.temperature).astype(np.float32)
    own = np.take_along_axis(probability, pixels.truth[:, None], axis=1)
    out = {}
    if meta.output == "sigmoid":
        guess = probability[:, 1] >= np.float32(meta.threshold)
        names = [c.name for c in meta.classes]
        found = summarise(confusion_of(pixels.truth, guess, 2, IGNORE), names)
        out = {name: found[name] for name in ("f1", "iou", "area_bias")}
    out["nll"] = float(-log_of(own).mean(dtype=np.float64))
    bins = reliability(probability.T[..., None], pixels.truth[:, None])
    out["ece"] = float(calibration_error(bins))
    return out
