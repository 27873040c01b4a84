"""Are 80 % right of what a model says with 80 %? Measuring that, and mending it.

Sources: C. Guo et al., "On Calibration of Modern Neural Networks", ICML 2017 (expected calibration
error, equation 3; temperature scaling, section 4.2).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rsmamba_cli.datasets import IGNORE
from rsmamba_cli.evaluation.metrics import Floats as Doubles
from rsmamba_cli.evaluation.metrics import ratio

Floats = NDArray[np.float32]
Criterion = Literal["f1", "area"]

BINS = 15
SMALLEST = 1e-7
"""Probabilities below this count as this in logarithms."""

_COLDEST, _HOTTEST = 0.05, 20.0
_HALVINGS = 50


def reliability(probability: Floats, label: NDArray[np.int64]) -> Doubles:
    """Sort labelled pixels by how sure the model is of its likeliest class.

    Args:
        probability: (K, H, W).
        label: class indices (H, W); 255 does not count.

    Returns:
        float64 (3, 15): pixels, the sum of their confidences, and how many are right, in bins of
        equal width.
    """
    known = label != IGNORE
    confidence = probability.max(axis=0)[known].astype(np.float64)
    right = probability.argmax(axis=0)[known] == label[known]
    # Bins are open below and closed above, as in the paper.
    place = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    columns = (np.ones_like(confidence), confidence, right.astype(np.float64))
    return np.stack([np.bincount(place, weights, BINS) for weights in columns])


def calibration_error(bins: Doubles) -> Doubles:
    """The expected calibration error of bins (..., 3, 15): 0 is perfect; NaN without pixels."""
    count, confidence, right = np.moveaxis(bins, -2, 0)
    return ratio(np.abs(right - confidence).sum(-1), count.sum(-1))


@dataclass(frozen=True)
class Pixels:
    """Labelled pixels of a split, for fitting.

    Attributes:
        scores: log probabilities (N, K) at temperature 1, up to a constant a pixel.
        truth: class indices (N,).
        share: of all labelled pixels that are here.
    """

    scores: Floats
    truth: NDArray[np.int64]
    share: float = 1.0


def fit_temperature(pixels: Pixels) -> float:
    """The temperature T that makes the mean of -log softmax(scores / T)[truth] smallest.

    The mean is convex in 1 / T, and its slope there is mean(E_p[score] - score of the truth): its
    root is found by bisection. A model that makes no mistake wants to be infinitely cold; the
    answer stays between 0.05 and 20.
    """
    scores = pixels.scores.astype(np.float64)
    own = np.take_along_axis(scores, pixels.truth[:, None], axis=1)[:, 0].mean()

    def slope(beta: float) -> float:
        return float((tempered(scores, 1 / beta) * scores).sum(axis=1).mean() - own)

    low, high = 1 / _HOTTEST, 1 / _COLDEST
    if slope(low) >= 0:
        return 1 / low
    if slope(high) <= 0:
        return 1 / high
    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return float(1 / (low * high) ** 0.5)


def tempered(scores: NDArray[np.floating], temperature: float) -> Doubles:
    """softmax(scores / temperature) over the last axis."""
    scaled = scores.astype(np.float64) / temperature
    power = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
    out: Doubles = power / power.sum(axis=-1, keepdims=True)
    return out


def fit_threshold(
    probability: NDArray[np.floating], truth: NDArray[np.int64], criterion: Criterion = "f1"
) -> float:
    """The threshold of a two-class model that serves best.

    Args:
        probability: of the positive class (N,).
        truth: 0 or 1 (N,).
        criterion: "f1", the largest F1 of the positive class (and with it the largest IoU); "area",
            as many positive pixels as there are.

    Returns:
        In the middle between two probabilities that occur, strictly between 0 and 1.

    Raises:
        ValueError: there is no positive pixel, or nothing else.
    """
    positives = int(truth.sum())
    if not 0 < positives < len(truth):
        raise ValueError("a threshold needs pixels of both classes")
    order = np.argsort(-probability, kind="stable")
    ranked = probability[order].astype(np.float64)
    hits = np.cumsum(truth[order])
    chosen = np.arange(1, len(truth) + 1)
    # Only where the probability changes can a threshold stand.
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    if criterion == "f1":
        best = ends[np.argmax(2 * hits[ends] / (chosen[ends] + positives))]
    else:
        best = ends[np.argmin(np.abs(chosen[ends] - positives))]
    below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
    return float(np.clip((ranked[best] + below) / 2, 1e-6, 1 - 1e-6))
