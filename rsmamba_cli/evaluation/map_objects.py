"""Objects of a map matched with those of its truth."""

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.windows import Window

from rsmamba_cli.evaluation.map_sides import Reader, Side, read_shapes
from rsmamba_cli.evaluation.objects import Shapes, as_shapes, match_objects
from rsmamba_cli.raster.vectors import trace


def map_objects(
    own: Reader,
    other: Reader,
    inside: Reader | None,
    truth: Side,
    source: Any,
    positive: int | None,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which true objects of a class were found, and which of the predicted ones are right.

    Regions of rasters are 4-connected. Outlines stay what they are: neighbours that touch are two.
    Objects whose centroid lies outside the area do not count.

    Args:
        own: the prediction.
        other: the truth on its grid.
        inside: the area, or None.
        truth: where outlines are read from.
        source: the prediction's raster.
        positive: the class; None for whatever is not 0.
    """
    predicted = _regions(own, source, positive)
    true = _outlines(truth, source) if truth.outlines else _regions(other, source, positive)
    if inside is not None:
        predicted, true = (_within(shapes, inside, source) for shapes in (predicted, true))
    return match_objects(true, predicted)


def _regions(read: Reader, source: Any, positive: int | None) -> Shapes:
    """Regions of a class as polygons in (column, row)."""

    def rows(first: int, last: int) -> NDArray[np.uint8]:
        values, known = read(Window(0, first, source.width, last - first))
        chosen = values != 0 if positive is None else values == positive
        return np.asarray(chosen & known, np.uint8)

    found: list[Any] = []
    for polygons, _ in trace(rows, source.shape, (1,)):
        found += polygons
    return as_shapes(found)


def _outlines(side: Side, source: Any) -> Shapes:
    """Outlines in (column, row) of the grid, those that lie on it."""
    shapes, _ = read_shapes(side, source, None)
    inverse = ~source.transform

    def to_pixels(points: NDArray[np.float64]) -> NDArray[np.float64]:
        columns = inverse.a * points[:, 0] + inverse.b * points[:, 1] + inverse.c
        rows = inverse.d * points[:, 0] + inverse.e * points[:, 1] + inverse.f
        return np.stack([columns, rows], axis=1)

    moved = as_shapes(list(shapely.transform(shapes, to_pixels)))
    kept: Shapes = moved[shapely.intersects(moved, shapely.box(0, 0, source.width, source.height))]
    return kept


def _within(shapes: Shapes, inside: Reader, source: Any) -> Shapes:
    """Those whose centroid is a pixel of the area."""
    points = shapely.get_coordinates(shapely.centroid(shapes))
    columns = np.clip(points[:, 0].astype(np.int64), 0, source.width - 1)
    rows = np.clip(points[:, 1].astype(np.int64), 0, source.height - 1)
    kept = np.zeros(len(shapes), bool)
    for row in np.unique(rows):
        here = rows == row
        kept[here] = inside(Window(0, int(row), source.width, 1))[0][0, columns[here]] > 0
    chosen: Shapes = shapes[kept]
    return chosen
