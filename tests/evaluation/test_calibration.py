"""Calibration error against torchmetrics; fits that find what was put in."""

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

from rsmamba_cli.evaluation.calibration import (
    Pixels,
    calibration_error,
    fit_temperature,
    fit_threshold,
    reliability,
    tempered,
)


def drawn(temperature: float, classes: int = 3, count: int = 40_000) -> Pixels:
    """Pixels whose classes are drawn from softmax(scores / temperature)."""
    generator = np.random.default_rng(0)
    scores = generator.normal(0, 3, (count, classes)).astype(np.float32)
    likely = tempered(scores, temperature).cumsum(axis=1)
    truth = (generator.random((count, 1)) > likely).sum(axis=1).clip(0, classes - 1)
    return Pixels(scores, truth)


@pytest.mark.parametrize("classes", [2, 5])
def test_the_calibration_error_is_that_of_torchmetrics(classes: int) -> None:
    generator = np.random.default_rng(1)
    scores = generator.normal(0, 2, (30 * 40, classes))
    probability = tempered(scores, 1.0).T.reshape(classes, 30, 40).astype(np.float32)
    label = generator.integers(0, classes, (30, 40))
    label[:3] = 255
    ours = calibration_error(reliability(probability, label))
    theirs = multiclass_calibration_error(
        torch.from_numpy(probability)[None],
        torch.from_numpy(label)[None],
        classes,
        n_bins=15,
        ignore_index=255,
    )
    assert ours == pytest.approx(float(theirs), abs=1e-5)


def test_all_ignored_has_no_calibration_error() -> None:
    bins = reliability(np.full((2, 4, 4), 0.5, np.float32), np.full((4, 4), 255))
    assert np.isnan(calibration_error(bins))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_of_the_truth_is_found(temperature: float) -> None:
    pixels = drawn(temperature)
    found = fit_temperature(pixels)
    assert found == pytest.approx(temperature, rel=0.03)

    def nll(t: float) -> float:
        return -np.log(
            tempered(pixels.scores, t)[np.arange(len(pixels.truth)), pixels.truth]
        ).mean()

    assert nll(found) <= min(nll(found * 1.02), nll(found / 1.02))


def test_a_model_without_mistakes_stays_within_bounds() -> None:
    truth = np.array([0, 1])
    scores = np.array([[2.0, 0.0], [0.0, 2.0]], np.float32)
    assert fit_temperature(Pixels(scores, truth)) == pytest.approx(0.05)
    assert fit_temperature(Pixels(scores, 1 - truth)) == pytest.approx(20)


def test_the_best_threshold_is_that_of_exhaustive_search() -> None:
    generator = np.random.default_rng(2)
    truth = (generator.random(300) < 0.3).astype(np.int64)
    probability = np.clip(0.3 * truth + generator.random(300) * 0.6, 0, 1).round(2)

    def f1(threshold: float) -> float:
        guess = probability >= threshold
        return 2 * (guess & (truth == 1)).sum() / (guess.sum() + truth.sum())

    found = fit_threshold(probability, truth)
    assert f1(found) == max(f1(t) for t in np.linspace(0, 1, 201))


def test_areas_are_matched() -> None:
    probability = np.linspace(0.01, 0.99, 100)
    truth = np.zeros(100, np.int64)
    truth[:17] = 1
    assert (probability >= fit_threshold(probability, truth, "area")).sum() == 17


@pytest.mark.parametrize("value", [0, 1])
def test_one_class_alone_fits_no_threshold(value: int) -> None:
    with pytest.raises(ValueError, match="both classes"):
        fit_threshold(np.linspace(0, 1, 5), np.full(5, value))
