"""Augmentation: the label moves with the image, and everything follows from the seed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rsmamba_cli.datasets import Sample
from rsmamba_cli.datasets.files import Box
from rsmamba_cli.training.augment import augment
from rsmamba_cli.training.crops import (
    cut,
    dominated,
    fit,
    grid_boxes,
    pad,
    random_box,
    random_part,
    resize,
    sample_rng,
    zoomed_crop,
)
from rsmamba_cli.training.recipe import AugmentPart

GEOMETRY = AugmentPart(flip=0.75, transpose=0.5, swap_dates=0.5)
COLORS = AugmentPart(brightness=0.5, contrast=0.3, band_shift=0.2, noise=0.1)


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
    options = AugmentPart(flip=0, transpose=0)
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
    options = AugmentPart(flip=0, transpose=0, brightness=1, contrast=0.5, noise=0.1)
    (changed,), same = augment(sample_rng(0, 0, 0), (image,), label, options)
    assert changed.shape == image.shape and changed.dtype == np.float32
    assert not np.allclose(changed, image)
    assert np.array_equal(same, label)


def test_the_two_dates_change_colour_apart() -> None:
    image, label = numbered()
    options = AugmentPart(flip=0, transpose=0, brightness=1)
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
    (image,), small = resize((numbered(9)[0],), label, 32, 32)
    assert image.shape == (3, 32, 32) and set(np.unique(small)) <= {0, 7, 255}


def test_resizing_keeps_image_and_label_in_place() -> None:
    label = np.zeros((8, 8), np.int64)
    label[:4] = 1
    image = label[None].astype(np.float32)
    (large,), grown = resize((image,), label, 32, 32)
    assert np.array_equal(grown[:16], np.ones((16, 32)))
    assert np.abs(large[0] - grown).mean() < 0.05


ZOOM = AugmentPart(scale=(0.5, 2.0))


def test_zoom_draws_within_its_range() -> None:
    sides = {zoomed_crop(np.random.default_rng(i), 100, (300, 300), ZOOM) for i in range(300)}
    assert min(sides) >= 50 and max(sides) <= 200 and len(sides) > 50


def test_a_uniform_zoom_has_its_mean_in_the_middle() -> None:
    zoom = AugmentPart(scale=(0.5, 2.0), scale_law="uniform")
    factors = [
        1000 / zoomed_crop(np.random.default_rng(i), 1000, (1, 1), zoom) for i in range(2000)
    ]
    assert min(factors) >= 0.499 and max(factors) <= 2.01
    assert np.mean(factors) == pytest.approx(1.25, abs=0.03)


@pytest.mark.parametrize(
    ("size", "factor"),
    [((1024, 1024), 0.5), ((512, 683), 1.0), ((400, 3200), 0.64)],
    ids=["loveda", "short side", "long side"],
)
def test_the_base_size_is_what_tiles_are_thought_resized_to(
    size: tuple[int, int], factor: float
) -> None:
    options = AugmentPart(base_size=(2048, 512))
    side = zoomed_crop(np.random.default_rng(0), 512, size, options)
    assert side == round(512 / factor)


def test_a_part_smaller_than_its_crop_is_scaled_and_then_padded() -> None:
    image, label = numbered(8)
    (small,), planes = fit((image,), label, side=16, crop=8)
    assert small.shape == (3, 8, 8) and planes.shape == (8, 8)
    assert (planes[4:] == 255).all() and (planes[:, 4:] == 255).all()
    assert planes[:4, :4].tolist() == label[1::2, 1::2].tolist()


def stripes(size: int = 64) -> Sample:
    """Class 1 in the left eighth, class 0 elsewhere, a column without label."""
    label = np.zeros((size, size), np.int64)
    label[:, : size // 8] = 1
    label[:, -1] = 255
    image = np.broadcast_to(label.astype(np.uint8), (3, size, size))
    return Sample((image,), label, "stripes")


def read_stripes(box: Box | None) -> Sample:
    return stripes() if box is None else cut(stripes(), box)


def test_crops_of_one_class_are_drawn_again() -> None:
    def shares(most: float) -> list[float]:
        parts = [
            random_part(np.random.default_rng(i), read_stripes, (64, 64), 16, most)
            for i in range(60)
        ]
        return [float((p.label[p.label != 255] == 1).mean()) for p in parts]

    plain, chosen = shares(1.0), shares(0.75)
    good = [0.25 < share < 0.75 for share in chosen]
    assert np.mean(good) > 2 * np.mean([0.25 < share < 0.75 for share in plain])
    assert not all(good)  # after ten tries the last one is taken


def test_dominance_counts_labelled_pixels_only() -> None:
    label = np.array([[0, 0, 0, 1], [255, 255, 255, 255]])
    assert dominated(label, 0.75) and not dominated(label, 0.76)
    assert dominated(np.zeros((2, 2), np.int64), 1.0)
    assert dominated(np.full((2, 2), 255), 0.75)


def test_saturation_moves_the_bands_apart_and_keeps_their_mean() -> None:
    image = np.random.default_rng(0).normal(size=(5, 8, 8)).astype(np.float32)
    options = AugmentPart(flip=0, transpose=0, saturation=0.9)
    (changed,), _ = augment(sample_rng(0, 0, 1), (image,), numbered(8)[1], options)
    assert np.allclose(changed.mean(axis=0), image.mean(axis=0), atol=1e-6)
    ratio = (changed - changed.mean(axis=0)) / (image - image.mean(axis=0))
    assert np.allclose(ratio, ratio[0, 0, 0], rtol=1e-3) and abs(ratio[0, 0, 0] - 1) > 0.05


def test_horizontal_flips_keep_rows_in_place() -> None:
    image, label = numbered(3)
    options = AugmentPart(flip=0.5, flip_axes="horizontal", transpose=0)
    seen = {augment(sample_rng(0, 0, i), (image,), label, options)[1].tobytes() for i in range(40)}
    assert seen == {label.tobytes(), np.ascontiguousarray(label[:, ::-1]).tobytes()}
