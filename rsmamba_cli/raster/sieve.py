"""Small regions of a mask given to what surrounds them."""

import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from affine import Affine
from rasterio.features import rasterize

from rsmamba_cli.raster.grid import Grid
from rsmamba_cli.raster.vectors import region_areas, trace

Mask = npt.NDArray[Any]
_STRIPE = 512
_RECORD = struct.Struct("<qi")


class Sieve:
    """The 4-connected regions of a mask below an area, and the mask without them.

    A region takes the value that most of the pixels along its border hold (nodata and the region
    itself aside; ties to the lowest). What was found is kept on disk, so that memory does not grow
    with the number of regions.
    """

    def __init__(
        self,
        folder: Path,
        read_rows: Callable[[int, int], Mask],
        grid: Grid,
        values: Sequence[int],
        nodata: int,
        min_area: float,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """Find the regions.

        Args:
            folder: an empty folder for what is found.
            read_rows: mask rows ``first <= row < last``, (rows, width).
            grid: of the mask; it has to have a CRS.
            values: classes whose regions are sieved.
            nodata: value of pixels without an answer.
            min_area: regions below this many square metres are small.
            check: called between stripes; may raise to stop the work.
        """
        self._folder = folder
        self._read_rows = read_rows
        self._grid = grid
        areas = grid.area_table()
        for polygons, classes in trace(read_rows, grid.shape, values):
            check()
            geometry = np.array(polygons, dtype=object)
            small = region_areas(geometry, areas) < min_area
            for polygon, value in zip(geometry[small], np.array(classes)[small], strict=True):
                self._keep(polygon, self._surrounding(polygon, int(value), nodata))

    def read_rows(self, first: int, last: int) -> Mask:
        """Rows of the mask without the small regions."""
        rows = self._read_rows(first, last).copy()
        shapes = [
            shape
            for stripe in range(first // _STRIPE, (last - 1) // _STRIPE + 1)
            for shape in self._found(stripe)
        ]
        if shapes:
            # Marked first: a value that is burned may be any, 0 included.
            place = Affine.translation(0, first)
            burned = rasterize(
                ((polygon, value + 1) for polygon, value in shapes),
                out_shape=rows.shape,
                transform=place,
                dtype="int32",
            )
            np.copyto(rows, (burned - 1).astype(rows.dtype), where=burned > 0)
        return rows

    def _surrounding(self, polygon: Any, value: int, nodata: int) -> int:
        left, top, right, bottom = (int(v) for v in polygon.bounds)
        first, last = max(top - 1, 0), min(bottom + 1, self._grid.height)
        start, stop = max(left - 1, 0), min(right + 1, self._grid.width)
        window = self._read_rows(first, last)[:, start:stop]
        inside = np.pad(
            rasterize(
                [(polygon, 1)],
                out_shape=window.shape,
                transform=Affine.translation(start, first),
                dtype="uint8",
            ).astype(bool),
            1,
        )
        beside = inside[:-2, 1:-1] | inside[2:, 1:-1] | inside[1:-1, :-2] | inside[1:-1, 2:]
        around = window[beside & ~inside[1:-1, 1:-1]]
        around = around[around != nodata]
        if not len(around):
            return value
        found, counts = np.unique(around, return_counts=True)
        return int(found[np.argmax(counts)])

    def _keep(self, polygon: Any, value: int) -> None:
        data = shapely.to_wkb(polygon)
        _, top, _, bottom = (int(v) for v in polygon.bounds)
        for stripe in range(top // _STRIPE, (bottom - 1) // _STRIPE + 1):
            with self._path(stripe).open("ab") as file:
                file.write(_RECORD.pack(value, len(data)) + data)

    def _found(self, stripe: int) -> list[tuple[Any, int]]:
        path = self._path(stripe)
        if not path.exists():
            return []
        data, found, place = path.read_bytes(), [], 0
        while place < len(data):
            value, length = _RECORD.unpack_from(data, place)
            place += _RECORD.size
            found.append((shapely.from_wkb(data[place : place + length]), value))
            place += length
        return found

    def _path(self, stripe: int) -> Path:
        return self._folder / f"sieve-{stripe:06d}.bin"
