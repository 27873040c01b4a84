"""Simplified outlines whose shared borders stay shared.

Outlines are cut into chains at the junctions: the corners of the pixel grid at which borders of
three or more regions meet, and those of the map. A chain between two junctions belongs to at most
two regions and is simplified by itself (Douglas and Peucker, 1973), always in the same direction,
so that both regions get the same line, whenever each of them is finished.
"""

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

Ints = npt.NDArray[np.int64]
Geometries = npt.NDArray[Any]


class Junctions:
    """The junctions of the part of a mask that unfinished outlines may still run through.

    Args:
        shape: (height, width) of the mask.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self._height, self._width = shape
        self._above: Ints | None = None
        self._next_row = 0
        # Row-major and column-major numbers of the corners, both sorted.
        self._by_row: Ints = np.empty(0, dtype=np.int64)
        self._by_col: Ints = np.empty(0, dtype=np.int64)

    def add(self, rows: npt.NDArray[Any]) -> None:
        """Take in the next rows of the mask, (rows, width)."""
        inner = rows.astype(np.int64)
        if self._above is None:
            self._above = np.full(self._width, -1, dtype=np.int64)
        parts = [self._above[None], inner]
        at_bottom = self._next_row + len(rows) == self._height
        if at_bottom:
            parts.append(np.full((1, self._width), -1, dtype=np.int64))
        pixels = np.pad(np.concatenate(parts), ((0, 0), (1, 1)), constant_values=-1)
        a, b = pixels[:-1, :-1], pixels[:-1, 1:]
        c, d = pixels[1:, :-1], pixels[1:, 1:]
        borders = (a != b).astype(np.int8) + (b != d) + (d != c) + (c != a)
        meeting = borders >= 3
        # The map keeps its corners.
        for at, corner in ((0, self._next_row == 0), (-1, at_bottom)):
            meeting[at, [0, -1]] |= corner
        row, col = np.nonzero(meeting)
        row += self._next_row
        self._by_row = np.concatenate([self._by_row, row * (self._width + 1) + col])
        self._by_col = np.sort(
            np.concatenate([self._by_col, col * (self._height + 1) + row]), kind="stable"
        )
        self._above = inner[-1]
        self._next_row += len(rows)

    def forget_above(self, row: int) -> None:
        """Let go of the junctions above a row: no outline that reaches there is unfinished."""
        self._by_row = self._by_row[np.searchsorted(self._by_row, row * (self._width + 1)) :]
        self._by_col = self._by_col[self._by_col % (self._height + 1) >= row]

    def along(self, ring: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """A closed outline with the junctions on its sides as further corners.

        Args:
            ring: (n, 2) corners (col, row), the last one equal to the first.

        Returns:
            The corners without the repeated last one, and which of them are junctions.
        """
        start, end = ring[:-1], ring[1:]
        level = start[:, 1] == end[:, 1]
        low, high = np.minimum(start, end), np.maximum(start, end)
        wide, tall = self._width + 1, self._height + 1
        by_row = (low[:, 1] * wide + low[:, 0], high[:, 1] * wide + high[:, 0])
        by_col = (low[:, 0] * tall + low[:, 1], high[:, 0] * tall + high[:, 1])
        parts: list[Ints] = []
        flags: list[npt.NDArray[np.bool_]] = []
        corner = _contains(self._by_row, start[:, 1] * wide + start[:, 0])
        first = np.where(
            level,
            np.searchsorted(self._by_row, by_row[0], "right"),
            np.searchsorted(self._by_col, by_col[0], "right"),
        )
        last = np.where(
            level,
            np.searchsorted(self._by_row, by_row[1], "left"),
            np.searchsorted(self._by_col, by_col[1], "left"),
        )
        done = 0
        for i in np.flatnonzero(last > first).tolist():
            if level[i]:
                cols = self._by_row[first[i] : last[i]] % wide
                between = np.stack([cols, np.full_like(cols, start[i, 1])], axis=1)
            else:
                rows = self._by_col[first[i] : last[i]] % tall
                between = np.stack([np.full_like(rows, start[i, 0]), rows], axis=1)
            if (start[i] > end[i]).any():
                between = between[::-1]
            parts += [start[done : i + 1], between]
            flags += [corner[done : i + 1], np.ones(len(between), dtype=np.bool_)]
            done = i + 1
        parts.append(start[done:])
        flags.append(corner[done:])
        return np.concatenate(parts), np.concatenate(flags)


def simplify_outlines(
    polygons: Iterable[Any], junctions: Junctions, tolerance: float
) -> Geometries:
    """Simplify polygons on the pixel grid; borders that they share with others stay shared.

    Args:
        polygons: in (col, row), corners whole numbers, sides along rows and columns.
        junctions: of the mask, all rows that the polygons reach among them.
        tolerance: no point of an outline moves by more, in pixels.

    Returns:
        As many geometries, valid. A polygon that vanishes at this tolerance is left as it is.
    """
    polygons = list(polygons)
    chains: list[Ints] = []
    reversed_: list[bool] = []
    recipes: list[list[range]] = []
    for polygon in polygons:
        rings = []
        for ring in (polygon.exterior, *polygon.interiors):
            corners, flags = junctions.along(np.asarray(ring.coords)[:, :2].astype(np.int64))
            before = len(chains)
            for chain in _chains(corners, flags):
                turned = _runs_backwards(chain)
                chains.append(chain[::-1] if turned else chain)
                reversed_.append(turned)
            rings.append(range(before, len(chains)))
        recipes.append(rings)
    if not chains:
        return np.array([], dtype=object)
    lines = shapely.simplify(
        np.array([shapely.LineString(chain) for chain in chains], dtype=object),
        tolerance,
        preserve_topology=False,
    )
    short = [shapely.get_coordinates(line) for line in lines]
    short = [line[::-1] if turned else line for line, turned in zip(short, reversed_, strict=True)]
    out = np.empty(len(recipes), dtype=object)
    for i, (polygon, rings) in enumerate(zip(polygons, recipes, strict=True)):
        shell, *holes = (np.concatenate([short[k][:-1] for k in ring]) for ring in rings)
        if len(np.unique(shell, axis=0)) < 3:
            out[i] = polygon
            continue
        made = shapely.Polygon(shell, [hole for hole in holes if len(np.unique(hole, axis=0)) > 2])
        if not made.is_valid:
            made = _areas_of(shapely.make_valid(made))
        out[i] = polygon if made.is_empty or made.area == 0 else made
    return out


def _areas_of(geometry: Any) -> Any:
    """The polygons in a geometry, as one."""
    if geometry.geom_type in ("Polygon", "MultiPolygon"):
        return geometry
    parts = [p for p in shapely.get_parts(geometry) if p.geom_type in ("Polygon", "MultiPolygon")]
    return shapely.union_all(parts)


def _chains(corners: Ints, flags: npt.NDArray[np.bool_]) -> list[Ints]:
    """Cut a ring at its junctions; without any, at its first corner from the top."""
    cuts = np.flatnonzero(flags)
    if not len(cuts):
        start = int(np.lexsort((corners[:, 0], corners[:, 1]))[0])
        ring = np.roll(corners, -start, axis=0)
        return [np.concatenate([ring, ring[:1]])]
    ring = np.roll(corners, -int(cuts[0]), axis=0)
    ends = [*(cuts - cuts[0]).tolist(), len(ring)]
    ring = np.concatenate([ring, ring[:1]])
    return [ring[a : b + 1] for a, b in itertools.pairwise(ends)]


def _runs_backwards(chain: Ints) -> bool:
    """Whether the other direction is the one in which this chain is simplified."""
    first, last = chain[0].tolist(), chain[-1].tolist()
    if first == last:
        first, last = chain[1].tolist(), chain[-2].tolist()
    return bool(first > last)


def _contains(sorted_values: Ints, values: Ints) -> npt.NDArray[np.bool_]:
    place = np.searchsorted(sorted_values, values)
    inside = place < len(sorted_values)
    found = np.zeros(len(values), dtype=np.bool_)
    found[inside] = sorted_values[place[inside]] == values[inside]
    return found
