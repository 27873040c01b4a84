"""Class shares and the weights that follow from them."""

from pathlib import Path

import numpy as np
import pytest

from rsmamba_cli.datasets import open_dataset
from rsmamba_cli.training.class_shares import class_weights, inverse_root, measure_shares


def test_shares_are_those_of_all_labelled_pixels(landcover: Path) -> None:
    split = open_dataset("folder", landcover, task="segmentation").split("train")
    labels = np.concatenate([split.read(i).label.ravel() for i in range(len(split))])
    known = labels[labels != 255]
    want = [(known == k).mean() for k in range(3)]
    assert measure_shares(split, 3) == pytest.approx(want)


def test_weights_fall_with_the_root_and_a_pixel_weighs_one_on_average() -> None:
    shares = np.array([0.64, 0.32, 0.04])
    weights = np.array(inverse_root(shares))
    assert weights @ shares == pytest.approx(1)
    assert weights[2] / weights[0] == pytest.approx(4)


def test_a_class_that_does_not_occur_weighs_as_the_rarest() -> None:
    weights = inverse_root(np.array([0.9, 0.1, 0.0]))
    assert weights[2] == weights[1] and np.isfinite(weights).all()
    assert inverse_root(np.zeros(2)) == [1.0, 1.0]


def test_automatic_weights_favour_what_is_rare(buildings: Path) -> None:
    dataset = open_dataset("folder", buildings, task="segmentation")
    background, building = class_weights("auto", dataset.split("train"), dataset)
    assert 0 < background < 1 < building
    assert class_weights(None, dataset.split("train"), dataset) is None
