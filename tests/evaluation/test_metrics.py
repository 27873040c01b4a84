"""Metrics against scikit-learn, and the cases that have no answer."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from rsmamba_cli.evaluation.metrics import class_scores, confusion_of, margins_of, summarise

maps = st.integers(2, 5).flatmap(
    lambda k: st.tuples(
        st.just(k),
        st.lists(
            st.tuples(st.sampled_from([*range(k), 255]), st.integers(0, k - 1)),
            min_size=1,
            max_size=60,
        ),
    )
)


@settings(deadline=None, max_examples=60)
@given(maps)
def test_every_figure_agrees_with_scikit_learn(case: tuple[int, list[tuple[int, int]]]) -> None:
    classes, pairs = case
    truth, guess = np.array(pairs).T
    confusion = confusion_of(truth, guess, classes, 255)
    keep = truth != 255
    if not keep.any():
        assert confusion.sum() == 0
        return
    t, g = truth[keep], guess[keep]
    labels = list(range(classes))
    assert np.array_equal(confusion, sk.confusion_matrix(t, g, labels=labels))
    ours = class_scores(margins_of(confusion))
    seen = np.isin(labels, t) | np.isin(labels, g)
    how = {"labels": labels, "average": None, "zero_division": 0}
    for name, function in (
        ("precision", sk.precision_score),
        ("recall", sk.recall_score),
        ("f1", sk.f1_score),
        ("iou", sk.jaccard_score),
    ):
        assert np.allclose(ours[name][seen], function(t, g, **how)[seen]), name
        assert np.isnan(ours[name][~seen]).all()
    summary = summarise(confusion, [str(k) for k in labels])
    assert summary["oa"] == pytest.approx(sk.accuracy_score(t, g))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kappa = sk.cohen_kappa_score(t, g, labels=labels)
    assert summary["kappa"] == pytest.approx(kappa, nan_ok=True)


def test_two_classes_report_the_positive_one() -> None:
    confusion = confusion_of([0, 0, 1, 1, 1], [0, 1, 1, 1, 0], 2, 255)
    summary = summarise(confusion, ("background", "building"))
    assert summary["precision"] == pytest.approx(2 / 3)
    assert summary["iou"] == pytest.approx(2 / 4)
    assert summary["miou"] == pytest.approx((1 / 3 + 2 / 4) / 2)
    assert "f1/building" not in summary


def test_more_classes_report_means_and_each_class() -> None:
    summary = summarise(confusion_of([0, 1, 2], [0, 1, 1], 4, 255), "abcd")
    assert summary["f1/a"] == 1
    assert summary["f1/c"] == 0
    assert math.isnan(summary["f1/d"])
    assert summary["f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_nothing_found_and_nothing_there_is_undefined_not_perfect() -> None:
    summary = summarise(confusion_of([0, 0], [0, 0], 2, 255), "ab")
    assert math.isnan(summary["f1"]) and math.isnan(summary["kappa"]) and summary["oa"] == 1


def test_all_ignored_has_no_figures() -> None:
    summary = summarise(confusion_of([255, 255], [0, 1], 2, 255), "ab")
    assert all(math.isnan(value) for value in summary.values())


def test_a_class_beyond_the_last_is_refused() -> None:
    with pytest.raises(ValueError, match="prediction holds class 2"):
        confusion_of([0, 1], [0, 2], 2, 255)
