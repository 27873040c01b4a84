"""Objects instead of pixels: how many buildings were found, and how many of those found are some.

A predicted object is right when its IoU with a true one is at least 0.5; each object counts once
(the pairs of largest IoU first), as in the SpaceNet building challenges.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from rsmamba_cli.raster.vectors import trace

LEAST_IOU = 0.5

Shapes = NDArray[Any]
"""Shapely polygons, (N,)."""


def objects_of(mask: NDArray[np.bool_]) -> Shapes:
    """The 4-connected regions of a mask (H, W) as polygons in (column, row)."""
    found: list[Any] = []
    values = mask.astype(np.uint8)
    for polygons, _ in trace(lambda first, last: values[first:last], mask.shape, (1,)):
        found += polygons
    return as_shapes(found)


def as_shapes(polygons: Sequence[Any]) -> Shapes:
    """An array of polygons, repaired where they cross themselves; empty ones are left out."""
    shapes = np.empty(len(polygons), object)
    shapes[:] = polygons
    invalid = ~shapely.is_valid(shapes)
    shapes[invalid] = shapely.make_valid(shapes[invalid])
    kept: Shapes = shapes[shapely.area(shapes) > 0]
    return kept


def match_objects(
    truth: Shapes, prediction: Shapes, least: float = LEAST_IOU
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Pair true and predicted objects.

    Args:
        truth: polygons (N,).
        prediction: polygons (M,), in the same coordinates.
        least: IoU from which two may be one object.

    Returns:
        Which true objects were found, bool (N,), and which predicted ones are right, bool (M,).
    """
    found, right = np.zeros(len(truth), bool), np.zeros(len(prediction), bool)
    if not len(truth) or not len(prediction):
        return found, right
    ours, theirs = shapely.STRtree(truth).query(prediction, predicate="intersects")
    shared = shapely.area(shapely.intersection(prediction[ours], truth[theirs]))
    either = shapely.area(prediction[ours]) + shapely.area(truth[theirs]) - shared
    iou = shared / either
    for pair in np.argsort(-iou, kind="stable"):
        if iou[pair] < least:
            break
        if not (right[ours[pair]] or found[theirs[pair]]):
            right[ours[pair]] = found[theirs[pair]] = True
    return found, right


def object_counts(found: NDArray[np.bool_], right: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Matched, true and predicted objects, int64 (3,)."""
    return np.array([found.sum(), len(found), len(right)], np.int64)
