"""Samples drawn around labelled pixels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsmamba_cli.datasets import IGNORE, Sample
from rsmamba_cli.errors import InputError
from rsmamba_cli.training.balance import BalancedWindows, box_around


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 1 << 30), st.integers(1, 40), st.integers(1, 40), st.integers(1, 50))
def test_a_box_holds_its_pixel_and_stays_inside(seed, height, width, side) -> None:
    rng = np.random.default_rng(seed)
    pixel = int(rng.integers(height)), int(rng.integers(width))
    row, col, tall, wide = box_around(rng, pixel, (height, width), side)
    assert (tall, wide) == (min(side, height), min(side, width))
    assert 0 <= row <= pixel[0] < row + tall <= height
    assert 0 <= col <= pixel[1] < col + wide <= width


def tiles() -> list[Sample]:
    """One of common ground with a rare speck, one hardly labelled, one not at all."""
    labels = [np.zeros((40, 40), np.int64), *(np.full((40, 40), IGNORE) for _ in range(2))]
    labels[0][3, 3] = 1
    labels[1][30, 30] = 2
    return [Sample((np.zeros((1, 40, 40)),), label, str(i)) for i, label in enumerate(labels)]


def test_classes_are_drawn_equally_often_and_unlabelled_parts_never() -> None:
    samples = tiles()
    counts = np.array([np.bincount(s.label.ravel(), minlength=256)[:3] for s in samples])
    windows = BalancedWindows(counts, 1.0)
    drawn = [
        windows.draw(np.random.default_rng(i), samples.__getitem__, 8).label for i in range(300)
    ]
    assert all((label != IGNORE).any() for label in drawn)
    share = np.mean([(label == 2).any() for label in drawn])
    assert 0.25 < share < 0.42
    assert np.mean([(label == 1).any() for label in drawn]) > 0.25
    plain = BalancedWindows(counts, 0.0)
    again = [plain.draw(np.random.default_rng(i), samples.__getitem__, 8) for i in range(50)]
    assert sum(s.stem == "0" for s in again) >= 48


def test_nothing_to_draw_around_is_refused() -> None:
    with pytest.raises(InputError, match="nothing to draw around"):
        BalancedWindows(np.zeros((2, 3), np.int64), 0.5)
