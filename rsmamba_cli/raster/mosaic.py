"""Many sheets as one seamless scene.

The sheets share a CRS and a lattice of pixels; the scene is the rectangle around all of them, and
what no sheet covers has no data. A sheet is opened when it is read, and a few stay open.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from rsmamba_cli.errors import InputError
from rsmamba_cli.raster.grid import Grid
from rsmamba_cli.raster.scene import Scene, Valid, Values
from rsmamba_cli.raster.stack import Stack

_KEPT_OPEN = 64


@dataclass(frozen=True)
class Sheet:
    """One sheet and its place.

    Attributes:
        path: the name it is opened by.
        grid: its own.
        row: its first row in the mosaic.
        col: its first column in the mosaic.
        identity: what tells a changed sheet from the same one.
    """

    path: str
    grid: Grid
    row: int
    col: int
    identity: Any

    @property
    def box(self) -> tuple[int, int, int, int]:
        """(first row, first column, one past the last row, one past the last column)."""
        return self.row, self.col, self.row + self.grid.height, self.col + self.grid.width


class Mosaic:
    """Sheets read as one scene; the interface is that of `Scene`.

    Where sheets overlap, the first of them that holds a valid pixel is read.
    """

    def __init__(self, paths: Sequence[str], open_sheet: Callable[[str], Scene]) -> None:
        """Look at every sheet once.

        Args:
            paths: sheets, at least one.
            open_sheet: opens one with the bands and validity rules of the run.

        Raises:
            InputError: a sheet cannot be opened, or does not fit the first.
        """
        self._open_sheet = open_sheet
        self._open: OrderedDict[str, Scene] = OrderedDict()
        placed = []
        with open_sheet(paths[0]) as first:
            self.bands, self.band_names = first.bands, first.band_names
            self.count, self.dtype, self.nodata = first.count, first.dtype, first.nodata
            self.note, self.block_shape = first.note, first.block_shape
            self.stored_bands = first.stored_bands
            origin = first.grid
        if origin.transform is None:
            raise InputError(
                f"{paths[0]}: the sheets of a mosaic need a geotransform each; this one is placed "
                "by control points, RPCs or nothing. Rectify it first with gdalwarp."
            )
        for path in paths:
            with open_sheet(path) as scene:
                offset = origin.offset_of(scene.grid)
                if offset is None:
                    raise InputError(
                        f"{path} ({scene.grid.describe()}): is not on the pixel lattice of "
                        f"{paths[0]} ({origin.describe()}); warp it there first "
                        "(gdalwarp -t_srs ... -tr ... -tap)"
                    )
                if (scene.count, scene.dtype) != (self.count, self.dtype):
                    raise InputError(
                        f"{path}: has {scene.count} bands of {scene.dtype}, {paths[0]} has "
                        f"{self.count} of {self.dtype}; the sheets of a mosaic are alike"
                    )
                identity = scene.identity()
                placed.append((path, scene.grid, offset, identity["files"]))
                self._rules = {k: identity[k] for k in ("bands", "dtype", "nodata", "nodata_rule")}
        top = min(row for _, _, (row, _), _ in placed)
        left = min(col for _, _, (_, col), _ in placed)
        self.sheets = tuple(
            Sheet(path, grid, row - top, col - left, identity)
            for path, grid, (row, col), identity in placed
        )
        boxes = np.array([sheet.box for sheet in self.sheets], dtype=np.int64)
        self._boxes = boxes
        height, width = int(boxes[:, 2].max()), int(boxes[:, 3].max())
        self.grid = origin.window(top, left, height, width)
        self.path = f"mosaic of {len(self.sheets)} sheets, {paths[0]} first"

    @property
    def has_georeference(self) -> bool:
        """Always: sheets without a place make no mosaic."""
        return True

    def touching(self, row: int, col: int, height: int, width: int) -> list[Sheet]:
        """The sheets that a window reaches into, in their order."""
        boxes = self._boxes
        hit = (boxes[:, 0] < row + height) & (boxes[:, 2] > row)
        hit &= (boxes[:, 1] < col + width) & (boxes[:, 3] > col)
        return [self.sheets[i] for i in np.flatnonzero(hit).tolist()]

    def touches(self, row: int, col: int, height: int, width: int) -> bool:
        """Whether a window reaches into any sheet."""
        return bool(self.touching(row, col, height, width))

    def read_native(self, row: int, col: int, height: int, width: int) -> tuple[Values, Valid]:
        """Values as stored and their validity; see `Scene.read_native`."""
        values = np.zeros((self.count, height, width), dtype=self.dtype)
        valid = np.zeros((height, width), dtype=np.bool_)
        for sheet in self.touching(row, col, height, width):
            top, left, bottom, right = sheet.box
            r0, r1 = max(top, row), min(bottom, row + height)
            c0, c1 = max(left, col), min(right, col + width)
            here = (slice(r0 - row, r1 - row), slice(c0 - col, c1 - col))
            if valid[here].all():
                continue
            with self._opened(sheet) as scene:
                part, known = scene.read_native(r0 - top, c0 - left, r1 - r0, c1 - c0)
            known &= ~valid[here]
            np.copyto(values[:, *here], part, where=known)
            valid[here] |= known
        return values, valid

    def read(
        self, row: int, col: int, height: int, width: int
    ) -> tuple[npt.NDArray[np.float32], Valid]:
        """Raw values in float32 and their validity; see `read_native`."""
        values, valid = self.read_native(row, col, height, width)
        return values.astype(np.float32), valid

    @contextmanager
    def _opened(self, sheet: Sheet) -> Iterator[Scene]:
        if sheet.path not in self._open:
            self._open[sheet.path] = self._open_sheet(sheet.path)
            if len(self._open) > _KEPT_OPEN:
                self._open.popitem(last=False)[1].close()
        self._open.move_to_end(sheet.path)
        yield self._open[sheet.path]

    def cache_bytes(self, rows: int, cols: int | None = None) -> int:
        """GDAL cache for reading ``rows`` rows of ``cols`` columns; see `Scene.cache_bytes`."""
        block_rows, block_cols = self.block_shape
        height = (-(-rows // block_rows) + 1) * block_rows
        width = (-(-(self.grid.width if cols is None else cols) // block_cols) + 1) * block_cols
        return int(height * width * self.stored_bands * self.dtype.itemsize)

    def identity(self) -> dict[str, Any]:
        """What a resumed run compares."""
        return {
            "grid": self.grid.to_json(),
            **self._rules,
            "sheets": [[sheet.row, sheet.col, sheet.identity] for sheet in self.sheets],
        }

    def close(self) -> None:
        """Close the files."""
        while self._open:
            self._open.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


AnyScene = Scene | Mosaic | Stack
