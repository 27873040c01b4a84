"""Polygons of the classes in a finished mask.

The mask is turned into polygons stripe by stripe. A polygon that touches the lower border of its
stripe stays open until the stripe in which nothing continues it any more; its pieces are then
united, so that no polygon ends at a border and memory follows the polygons that are still open.
Everything up to the file is in pixel coordinates, where corners are whole numbers and unions exact.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from affine import Affine
from rasterio.features import shapes as trace_shapes

from rsmamba_cli.raster.grid import AreaTable, Floats, Grid
from rsmamba_cli.raster.simplify import Junctions, simplify_outlines
from rsmamba_cli.raster.vector_files import Features, check_vector_path, write_features

__all__ = ["VectorClass", "check_vector_path", "write_polygons"]

_STRIPE = 1024
Geometries = npt.NDArray[Any]
Span = tuple[float, float]


@dataclass(frozen=True)
class VectorClass:
    """A class that becomes polygons: its mask value and name."""

    value: int
    name: str


@dataclass
class _Open:
    """A polygon that may go on below: its pieces, and where they touch the border."""

    value: int
    pieces: list[Any] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    top: int = 0


def write_polygons(
    path: Path,
    read_rows: Callable[[int, int], npt.NDArray[Any]],
    grid: Grid,
    classes: Sequence[VectorClass],
    min_area: float = 0.0,
    simplify: float = 0.0,
    tags: Mapping[str, str] | None = None,
    check: Callable[[], None] = lambda: None,
) -> int:
    """Write the polygons of a mask.

    Args:
        path: .gpkg, .geojson, .fgb or .parquet; has to be free.
        read_rows: mask rows ``first <= row < last``, (rows, width).
        grid: of the mask. Coordinates are in its CRS (in WGS 84 for GeoJSON, as RFC 7946 says);
            without a CRS they are what the transform says, or pixels.
        classes: which values become polygons; background and nodata are left out.
        min_area: polygons smaller than this many square metres are left out.
        simplify: Douglas-Peucker tolerance in pixels; borders that two polygons share stay shared.
        tags: metadata of the layer, where the format has a place for it.
        check: called between stripes; may raise to stop the work.

    Returns:
        How many polygons were written. Each has ``class`` (value), ``name`` and ``area_m2`` (on the
        ellipsoid, of the unsimplified polygon; null without a CRS).

    Raises:
        OutputError: the file could not be written.
    """
    names = {c.value: c.name for c in classes}
    areas = grid.area_table()
    junctions = Junctions(grid.shape) if simplify > 0 else None
    count = 0

    def batches() -> Iterator[Features]:
        nonlocal count
        for polygons, values in trace(read_rows, grid.shape, tuple(names), junctions=junctions):
            check()
            value = np.array(values, dtype=np.int64)
            geometry: Geometries = np.array(polygons, dtype=object)
            area = region_areas(geometry, areas)
            large = ~(area < min_area)
            geometry, value, area = geometry[large], value[large], area[large]
            if junctions is not None:
                geometry = simplify_outlines(geometry, junctions, simplify)
            count += len(geometry)
            name = np.array([names[v] for v in value.tolist()], dtype=object)
            attributes = {"class": value, "name": name, "area_m2": area}
            yield Features(_to_world(geometry, grid), attributes)

    write_features(path, batches(), grid.world_crs, dict(tags or {}))
    return count


def region_areas(geometry: Geometries, areas: AreaTable | None) -> Floats:
    """Square metres on the ellipsoid of polygons in (col, row); NaN without a CRS."""
    if areas is None or not len(geometry):
        return np.full(len(geometry), math.nan)
    centre = shapely.get_coordinates(shapely.centroid(geometry))
    return np.asarray(shapely.area(geometry) * areas.at_points(centre[:, 1], centre[:, 0]))


def trace(
    read_rows: Callable[[int, int], npt.NDArray[Any]],
    shape: tuple[int, int],
    values: Sequence[int],
    stripe: int = _STRIPE,
    junctions: Junctions | None = None,
) -> Iterator[tuple[list[Any], list[int]]]:
    """Outline the 4-connected regions of a mask, stripe by stripe.

    Args:
        read_rows: mask rows ``first <= row < last``.
        shape: (height, width) of the mask.
        values: mask values that become polygons.
        stripe: rows that are traced at a time; the result does not depend on it.
        junctions: filled with those of the rows that open regions reach.

    Yields:
        (polygons, values) of regions that are complete: shapely polygons in (col, row), holes
        kept, without corners on straight lines; a region is one polygon.
    """
    height = shape[0]
    pending: list[_Open] = []
    for first in range(0, height, stripe):
        last = min(first + stripe, height)
        mask = read_rows(first, last)
        wanted = np.isin(mask, list(values))
        found = [
            (int(value), shapely.geometry.shape(geometry))
            for geometry, value in trace_shapes(
                mask.astype(np.int32, copy=False),
                mask=wanted,
                connectivity=4,
                transform=Affine.translation(0, first),
            )
        ]
        pieces = [_Open(value, [polygon], _spans(polygon, last), first) for value, polygon in found]
        closed, pending = _join(pending, pieces, first, last == height)
        if junctions is not None:
            junctions.add(mask)
        polygons = [_united(region.pieces) for region in closed]
        yield polygons, [region.value for region in closed]
        if junctions is not None:
            junctions.forget_above(min((region.top for region in pending), default=last))


def _join(
    above: list[_Open], pieces: list[_Open], row: int, at_bottom: bool
) -> tuple[list[_Open], list[_Open]]:
    """Connect open regions with the pieces of the next stripe.

    Args:
        above: open regions; their spans lie on ``row``.
        pieces: regions of the stripe that begins at ``row``; their spans lie on its lower border.
        row: the border between.
        at_bottom: whether the stripe is the last.

    Returns:
        Regions that are complete, and those that touch the stripe's lower border.
    """
    parts = [*above, *pieces]
    parent = list(range(len(parts)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    upper = sorted((*span, i) for i, region in enumerate(above) for span in region.spans)
    lower = sorted(
        (*span, len(above) + j)
        for j, piece in enumerate(pieces)
        for span in _spans(piece.pieces[0], row)
    )
    u = 0
    for begin, end, i in lower:
        # Spans on one side never overlap each other: both lists are swept once.
        while u < len(upper) and upper[u][1] <= begin:
            u += 1
        k = u
        while k < len(upper) and upper[k][0] < end:
            if parts[upper[k][2]].value == parts[i].value:
                # The lowest index leads, so that the order of the output is that of the mask.
                a, b = sorted((root(upper[k][2]), root(i)))
                parent[b] = a
            k += 1
    regions: dict[int, _Open] = {}
    for i, part in enumerate(parts):
        region = regions.setdefault(root(i), _Open(part.value, top=part.top))
        region.top = min(region.top, part.top)
        region.pieces += part.pieces
        # Spans of the regions above lay on the border that was just joined.
        if i >= len(above):
            region.spans += part.spans
    closed = [r for r in regions.values() if at_bottom or not r.spans]
    still_open = [] if at_bottom else [r for r in regions.values() if r.spans]
    return closed, still_open


def _spans(polygon: Any, row: int) -> list[Span]:
    """Where a polygon's outline runs along a row border, as (first column, last column)."""
    points = shapely.get_coordinates(polygon.exterior)
    on = points[:, 1] == row
    both = on[:-1] & on[1:]
    ends = np.stack([points[:-1, 0][both], points[1:, 0][both]], axis=1)
    return [(float(min(a, b)), float(max(a, b))) for a, b in ends]


def _united(pieces: list[Any]) -> Any:
    """One polygon of pieces that share borders, without corners on straight lines."""
    polygon = pieces[0] if len(pieces) == 1 else shapely.union_all(pieces)
    if not shapely.is_valid(polygon):
        polygon = shapely.make_valid(polygon)
    return shapely.simplify(polygon, 0, preserve_topology=True)


def _to_world(geometry: Geometries, grid: Grid) -> Geometries:
    """Polygons from (col, row) to world coordinates."""

    def convert(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.stack(grid.pixel_to_world(points[:, 1], points[:, 0]), axis=1)

    return np.asarray(shapely.transform(geometry, convert))
