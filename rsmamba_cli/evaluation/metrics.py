"""Confusion matrices and what follows from them, with every degenerate case defined.

Counts are pooled over all pixels of a split, as the official RS-Mamba evaluation does: no mean over
images. A figure of a class that occurs neither in the truth nor in the prediction is NaN (there is
nothing to measure) and stays out of means; where only one of the two has the class, the figures
are 0. Kappa is NaN when truth and prediction are one and the same single class.

All figures follow from three numbers a class: hits, pixels in the truth, pixels in the prediction.
These are called the margins, float64 (..., 3, K); leading axes are evaluations of their own, so
that a thousand resampled ones are computed at once.
"""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


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


def margins_of(confusion: Counts) -> Floats:
    """Hits, pixels in the truth and pixels in the prediction of every class, (3, K)."""
    return np.stack([np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)]).astype(
        np.float64
    )


def class_scores(margins: Floats) -> dict[str, Floats]:
    """Precision, recall, F1, IoU and area bias of every class, each float64 (..., K).

    The area bias is the predicted area over the true one, less 1: 0.1 means a tenth too much. It is
    NaN for a class that the truth lacks.
    """
    hits, truth, guess = np.moveaxis(margins, -2, 0)
    seen = (truth + guess) > 0
    bias = ratio(guess - truth, truth)
    return {
        "precision": np.where(seen, np.nan_to_num(ratio(hits, guess)), np.nan),
        "recall": np.where(seen, np.nan_to_num(ratio(hits, truth)), np.nan),
        "f1": ratio(2 * hits, truth + guess),
        "iou": ratio(hits, truth + guess - hits),
        "area_bias": bias,
    }


def overall_accuracy(margins: Floats) -> Floats:
    """The share of pixels that are right; NaN without pixels."""
    return ratio(margins[..., 0, :].sum(-1), margins[..., 1, :].sum(-1))


def cohen_kappa(margins: Floats) -> Floats:
    """Agreement beyond chance, Cohen's kappa; NaN where chance alone explains everything."""
    total = margins[..., 1, :].sum(-1)
    observed = overall_accuracy(margins)
    expected = ratio((margins[..., 1, :] * margins[..., 2, :]).sum(-1), total * total)
    return ratio(observed - expected, 1 - expected)


def summarise_margins(
    margins: Floats, class_names: Sequence[str], means_without: Collection[str] = ()
) -> dict[str, Floats]:
    """As `summarise`, of margins (..., 3, K); every figure has the shape of the leading axes.

    Args:
        margins: see above.
        class_names: K names.
        means_without: names of classes that count as pixels but stay out of means over classes.
    """
    scores = class_scores(margins)
    counted = [name not in means_without for name in class_names]
    out: dict[str, Floats] = {}
    for name, values in scores.items():
        if len(class_names) == 2:
            out[name] = values[..., 1]
        elif name != "area_bias":  # too much of one class is too little of another: no mean
            out[name] = mean_of(values[..., counted])
    out["oa"] = overall_accuracy(margins)
    out["kappa"] = cohen_kappa(margins)
    out["miou"] = mean_of(scores["iou"][..., counted])
    if len(class_names) > 2:
        for name, values in scores.items():
            for index, label in enumerate(class_names):
                out[f"{name}/{label}"] = values[..., index]
    return out


def summarise(
    confusion: Counts, class_names: Sequence[str], means_without: Collection[str] = ()
) -> dict[str, float]:
    """All figures of a confusion matrix under the names that logs and reports use.

    With two classes ``precision``, ``recall``, ``f1``, ``iou`` and ``area_bias`` are those of the
    second, the positive one. With more, the first four are means over the classes that occur, and
    ``f1/NAME``, ``area_bias/NAME`` and so on hold those of each class. ``oa``, ``kappa`` and
    ``miou`` (the mean IoU over all classes that occur, background included) are always there.

    Args:
        confusion: int64 (K, K), rows the truth, K at least 2.
        class_names: K names.
        means_without: names of classes that count as pixels but stay out of means over classes.
    """
    found = summarise_margins(margins_of(confusion), class_names, means_without)
    return {name: float(value) for name, value in found.items()}


def ratio(above: Floats, below: Floats) -> Floats:
    """``above / below``, NaN where ``below`` is 0."""
    above, below = np.broadcast_arrays(np.asarray(above, np.float64), below)
    out: Floats = np.divide(above, below, out=np.full(above.shape, np.nan), where=below != 0)
    return out


def mean_of(values: Floats) -> Floats:
    """The mean over the last axis of what is not NaN; NaN where all is."""
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0.0).sum(-1), known.sum(-1))
