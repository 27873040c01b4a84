"""Outlines and objects, on shapes whose figures are known."""

import numpy as np
import pytest
import shapely

from rsmamba_cli.evaluation.boundary import boundary_counts, boundary_width
from rsmamba_cli.evaluation.objects import as_shapes, match_objects, object_counts, objects_of


def square(top: int, left: int, side: int, size: int = 40) -> np.ndarray:
    out = np.zeros((size, size), np.int64)
    out[top : top + side, left : left + side] = 1
    return out


def test_the_boundary_of_a_square_is_a_ring() -> None:
    shared, either = boundary_counts(square(10, 10, 20), square(10, 10, 20), 2, 3)[:, 1]
    assert shared == either == 20**2 - 14**2


def test_a_shift_costs_more_at_the_boundary_than_inside() -> None:
    a, b = square(10, 10, 20), square(10, 12, 20)
    ours = [m == 1 for m in (a, b)]
    rings = [np.array(m) for m in ours]
    for ring, top, left in zip(rings, (10, 10), (10, 12), strict=True):
        ring[top + 3 : top + 17, left + 3 : left + 17] = False
    expected = [(rings[0] & rings[1]).sum(), (rings[0] | rings[1]).sum()]
    shared, either = boundary_counts(a, b, 2, 3)[:, 1]
    assert [shared, either] == expected
    assert shared / either < (ours[0] & ours[1]).sum() / (ours[0] | ours[1]).sum()


def test_the_border_of_the_image_is_an_outline_and_unlabelled_pixels_are_outside() -> None:
    full = np.ones((10, 10), np.int64)
    assert boundary_counts(full, full, 2, 2)[0].tolist() == [0, 100 - 36]
    full[:, 5:] = 255
    assert boundary_counts(full, np.ones((10, 10)), 2, 2)[:, 1].tolist() == [50 - 6, 50 - 6]


def test_the_width_follows_the_diagonal() -> None:
    assert [boundary_width(1, 1), boundary_width(256, 256), boundary_width(5000, 5000)] == [
        1,
        7,
        15,
    ]


def test_regions_become_objects_and_corners_do_not_connect() -> None:
    mask = np.zeros((6, 6), bool)
    mask[0:2, 0:2] = mask[2:4, 2:4] = True
    assert sorted(shapely.area(objects_of(mask)).tolist()) == [4, 4]
    assert len(objects_of(np.zeros((3, 3), bool))) == 0


def test_objects_match_from_half_on_and_only_once() -> None:
    truth = as_shapes([shapely.box(0, 0, 10, 10), shapely.box(20, 0, 30, 10)])
    guess = as_shapes(
        [
            shapely.box(0, 0, 10, 5),  # IoU 0.5
            shapely.box(0, 5, 10, 10),  # IoU 0.5 with the same
            shapely.box(20, 0, 30, 4.9),  # IoU 0.49
            shapely.box(50, 0, 60, 10),
        ]
    )
    found, right = match_objects(truth, guess)
    assert found.tolist() == [True, False]
    assert right.sum() == 1
    assert object_counts(found, right).tolist() == [1, 2, 4]


def test_the_best_pair_is_taken_first() -> None:
    truth = as_shapes([shapely.box(0, 0, 10, 10)])
    guess = as_shapes([shapely.box(0, 0, 10, 6), shapely.box(0, 0, 10, 9)])
    assert match_objects(truth, guess)[1].tolist() == [False, True]


@pytest.mark.parametrize(("ours", "theirs"), [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_match_is_no_error(ours: int, theirs: int) -> None:
    boxes = [shapely.box(0, 0, i + 1, 1) for i in range(3)]
    found, right = match_objects(as_shapes(boxes[:theirs]), as_shapes(boxes[:ours]))
    assert (len(found), len(right), found.any(), right.any()) == (theirs, ours, False, False)
