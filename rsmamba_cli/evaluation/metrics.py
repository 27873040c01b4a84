"""Confusion matrices and what follows from them, with every degenerate case defined.

Counts are pooled over all pixels of a split, as the official RS-Mamba evaluation does: no mean over
images. A figure of a class that occurs neither in the truth nor in the prediction is NaN (there is
nothing to measure) and stays out of means; where only one of the two has the class, the figures
are 0. Kappa is NaN when truth and prediction are one and the same single class.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Counts = NDArray[np.int64]


def empty_confusion(classes: int) -> Counts:
    """A matrix of zeros; rows are the truth, columns the prediction."""
    return np.zeros((classes, classes), np.int64)


def confusion_of(truth: ArrayLike, prediction: ArrayLike, classes: int, ignore: int) -> Counts:
    """Count pixels by true and predicted class.

    Args:
        truth: class indices, any shape; pixels with the value ``ignore`` do not count.
        prediction: class indices of the same shape.
        classes: number of classes K.
        ignore: the index of pixels without truth.

    Returns:
        int64 (K, K), rows the truth.

    Raises:
        ValueError: an index that counts is not below K.
    """
    true = np.asarray(truth).ravel()
    keep = true != ignore
    true = true[keep].astype(np.int64)
    guess = np.asarray(prediction).ravel()[keep].astype(np.int64)
    for name, values in (("truth", true), ("prediction", guess)):
        if values.size and not 0 <= values.min() <= values.max() < classes:
            raise ValueError(f"the {name} holds class {values.max()}, but there are {classes}")
    flat = np.bincount(true * classes + guess, minlength=classes * classes)
    return flat.reshape(classes, classes).astype(np.int64)


def class_scores(confusion: Counts) -> dict[str, NDArray[np.float64]]:
    """Precision, recall, F1 and IoU of every class, each float64 (K,)."""
    hits = np.diag(confusion).astype(np.float64)
    truth = confusion.sum(axis=1).astype(np.float64)
    guess = confusion.sum(axis=0).astype(np.float64)
    seen = (truth + guess) > 0

    def ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
        out = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
        return np.where(seen, out, np.nan)

    return {
        "precision": ratio(hits, guess),
        "recall": ratio(hits, truth),
        "f1": ratio(2 * hits, truth + guess),
        "iou": ratio(hits, truth + guess - hits),
    }


def overall_accuracy(confusion: Counts) -> float:
    """The share of pixels that are right; NaN without pixels."""
    total = int(confusion.sum())
    return float(np.trace(confusion)) / total if total else float("nan")


def cohen_kappa(confusion: Counts) -> float:
    """Agreement beyond chance, Cohen's kappa; NaN where chance alone explains everything."""
    total = float(confusion.sum())
    if not total:
        return float("nan")
    observed = float(np.trace(confusion)) / total
    expected = float((confusion.sum(axis=0) / total) @ (confusion.sum(axis=1) / total))
    return (observed - expected) / (1 - expected) if expected < 1 else float("nan")


def summarise(confusion: Counts, class_names: Sequence[str]) -> dict[str, float]:
    """All figures of a confusion matrix under the names that logs and reports use.

    With two classes ``precision``, ``recall``, ``f1`` and ``iou`` are those of the second, the
    positive one. With more they are means over the classes that occur, and ``f1/NAME``,
    ``iou/NAME``, ``precision/NAME``, ``recall/NAME`` hold those of each class. ``oa``, ``kappa``
    and ``miou`` (the mean IoU over all classes that occur, background included) are always there.

    Args:
        confusion: int64 (K, K), rows the truth, K at least 2.
        class_names: K names.
    """
    scores = class_scores(confusion)
    out: dict[str, float] = {}
    for name, values in scores.items():
        out[name] = float(values[1]) if len(values) == 2 else _mean(values)
    out["oa"] = overall_accuracy(confusion)
    out["kappa"] = cohen_kappa(confusion)
    out["miou"] = _mean(scores["iou"])
    if len(class_names) > 2:
        for name, values in scores.items():
            for label, value in zip(class_names, values, strict=True):
                out[f"{name}/{label}"] = float(value)
    return out


def _mean(values: NDArray[np.float64]) -> float:
    """The mean over classes that occur; NaN when none does."""
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if kept.size else float("nan")
