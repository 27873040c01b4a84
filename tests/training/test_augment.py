"""Augmentation: the label moves with the image, and everything follows from the seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsmamba_cli.training.augment import (
    AugmentOptions,
    augment,
    grid_boxes,
    pad,
    random_box,
    resize,
    sample_rng,
    zoomed_crop,
)

GEOMETRY = AugmentOptions(flip=0.75, transpose=0.5, swap_dates=0.5)
COLORS = AugmentOptions(brightness=0.5, contrast=0.3, band_shift=0.2, noise=0.1)


def numbered(size: int = 5, bands: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """An image whose first band is the label: any move can be read off it."""
    label = np.arange(size * size, dtype=np.int64).reshape(size, size)
    return np.stack([label] * bands).astype(np.float32), label


@settings(deadline=None)
@given(st.integers(0, 10_000))
def test_images_and_label_move_together(seed: int) -> None:
    image, label = numbered()
    (a, b), moved = augment(sample_rng(seed, 0, 0), (image, image + 100), label, GEOMETRY)
    low = a if a.min() == 0 else b
    assert np.array_equal(low[0], moved)
    assert np.array_equal(np.abs(a - b), np.full_like(a, 100))


def test_all_eight_symmetries_occur_equally_often() -> None:
    image, label = numbered(3)
    seen: dict[bytes, int] = {}
    for i in range(1600):
        _, moved = augment(sample_rng(0, 0, i), (image,), label, GEOMETRY)
        seen[moved.tobytes()] = seen.get(moved.tobytes(), 0) + 1
    assert len(seen) == 8
    assert min(seen.values()) > 140


def test_dates_are_exchanged_half_the_time() -> None:
    image, label = numbered(2)
    options = AugmentOptions(flip=0, transpose=0)
    swapped = sum(
        augment(sample_rng(0, 0, i), (image, image + 100), label, options)[0][0].min() == 100
        for i in range(400)
    )
    assert 160 < swapped < 240


def test_the_seed_decides_and_every_part_of_it_matters() -> None:
    image, label = numbered()
    draw = [
        augment(sample_rng(*key), (image,), label, COLORS)[0][0]
        for key in (
            (1, 2, 3),
            (1, 2, 3),
            (0, 2, 3),
            (1, 0, 3),
            (1, 2, 0),
        )
    ]
    assert np.array_equal(draw[0], draw[1])
    assert not any(np.array_equal(draw[0], other) for other in draw[2:])


@pytest.mark.parametrize("bands", [1, 3, 13])
def test_colours_change_in_any_number_of_bands_and_the_label_does_not(bands: int) -> None:
    image, label = numbered(bands=bands)
    options = AugmentOptions(flip=0, transpose=0, brightness=1, contrast=0.5, noise=0.1)
    (changed,), same = augment(sample_rng(0, 0, 0), (image,), label, options)
    assert changed.shape == image.shape and changed.dtype == np.float32
    assert not np.allclose(changed, image)
    assert np.array_equal(same, label)


def test_the_two_dates_change_colour_apart() -> None:
    image, label = numbered()
    options = AugmentOptions(flip=0, transpose=0, brightness=1)
    (a, b), _ = augment(sample_rng(0, 0, 0), (image, image), label, options)
    assert not np.allclose(a, b)


@settings(deadline=None)
@given(st.integers(1, 80), st.integers(1, 80), st.integers(1, 64), st.integers(0, 99))
def test_random_boxes_lie_inside(height: int, width: int, side: int, seed: int) -> None:
    row, column, tall, wide = random_box(np.random.default_rng(seed), height, width, side)
    assert 0 <= row <= row + tall <= height and 0 <= column <= column + wide <= width
    assert (tall, wide) == (min(side, height), min(side, width))


@settings(deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(8, 40))
def test_grid_boxes_leave_nothing_out(height: int, width: int, side: int) -> None:
    seen = np.zeros((height, width), bool)
    boxes = grid_boxes(height, width, side)
    for row, column, tall, wide in boxes:
        seen[row : row + tall, column : column + wide] = True
    assert seen.all() and len(set(boxes)) == len(boxes)


def test_padding_repeats_the_image_and_has_no_label() -> None:
    image, label = numbered(3)
    (wide,), more = pad((image,), label, 5)
    assert wide.shape == (3, 5, 5) and (wide[0, :3, 4] == image[0, :, 2]).all()
    assert (more[3:] == 255).all() and np.array_equal(more[:3, :3], label)


def test_resizing_never_invents_a_class() -> None:
    rng = np.random.default_rng(0)
    label = rng.choice([0, 7, 255], (9, 9)).astype(np.int64)
    (image,), small = resize((numbered(9)[0],), label, 32)
    assert image.shape == (3, 32, 32) and set(np.unique(small)) <= {0, 7, 255}


def test_resizing_keeps_image_and_label_in_place() -> None:
    label = np.zeros((8, 8), np.int64)
    label[:4] = 1
    image = label[None].astype(np.float32)
    (large,), grown = resize((image,), label, 32)
    assert np.array_equal(grown[:16], np.ones((16, 32)))
    assert np.abs(large[0] - grown).mean() < 0.05


def test_zoom_draws_within_its_range() -> None:
    sides = {zoomed_crop(np.random.default_rng(i), 100, (0.5, 2.0)) for i in range(300)}
    assert min(sides) >= 50 and max(sides) <= 200 and len(sides) > 50
