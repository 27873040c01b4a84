"""A second date (or sensor) on the grid of the first.

Scenes that share one lattice are paired pixel by pixel, untouched. Others are warped with GDAL in
blocks of a lattice that belongs to the grid, so that what comes out does not depend on how it is
asked for. Validity is warped along with the values as one more band, and only pixels whose whole
neighbourhood is valid stay valid: no nodata leaks into them.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.warp import reproject
from rasterio.warp import transform as transform_points

from rsmamba_cli.errors import InputError
from rsmamba_cli.raster.grid import Floats, Grid
from rsmamba_cli.raster.opening import GDAL_ERRORS
from rsmamba_cli.raster.scene import Scene, Valid

Values = npt.NDArray[np.float32]

_BLOCK = 512
_FULL_SUPPORT = 0.999
# Any projected CRS will do where neither scene has one: both then lie in the same unknown plane.
_SAME_PLANE = CRS.from_epsg(3857)


class Aligned:
    """A scene read on another grid; `align` makes it.

    Attributes:
        grid: the grid it is read on.
        how: "same", "shifted" (whole pixels) or "warped".
        overlap: share of the grid's area inside the scene's outline, (0, 1].
    """

    def __init__(
        self, scene: Scene, grid: Grid, offset: tuple[int, int] | None, resampling: str
    ) -> None:
        self.grid = grid
        self.overlap = overlap_share(grid, scene.grid, offset)
        self._scene = scene
        self._offset = offset
        self.how = "warped"
        if offset is not None:
            self.how = "same" if offset == (0, 0) and scene.grid.shape == grid.shape else "shifted"
            return
        self._resampling = Resampling[resampling]
        self._crs, self._source_crs = _common_crs(grid, scene.grid)
        self._scale = self._source_pixels_per_pixel()
        self._block = max(64, int(_BLOCK / max(1.0, *self._scale)))
        self._blocks: dict[tuple[int, int], tuple[Values, Valid]] = {}

    def read(self, row: int, col: int, height: int, width: int) -> tuple[Values, Valid]:
        """Raw values (bands, height, width) and validity, for a window inside the grid."""
        if self.how == "same":
            return self._scene.read(row, col, height, width)
        values = np.zeros((self._scene.count, height, width), dtype=np.float32)
        valid = np.zeros((height, width), dtype=np.bool_)
        if self._offset is not None:
            self._copy(values, valid, row - self._offset[0], col - self._offset[1])
            return values, valid
        size = self._block
        for i in range(row // size, (row + height - 1) // size + 1):
            for j in range(col // size, (col + width - 1) // size + 1):
                block_values, block_valid = self._warped(i, j)
                top, left = i * size, j * size
                r0, r1 = max(top, row), min(top + size, row + height)
                c0, c1 = max(left, col), min(left + size, col + width)
                here = (slice(r0 - row, r1 - row), slice(c0 - col, c1 - col))
                there = (slice(r0 - top, r1 - top), slice(c0 - left, c1 - left))
                values[:, *here] = block_values[:, *there]
                valid[here] = block_valid[there]
        # Rows are asked for from the top: only blocks that reach below are needed again.
        bottom = row + height
        self._blocks = {k: b for k, b in self._blocks.items() if (k[0] + 1) * size > bottom}
        return values, valid

    def _copy(self, values: Values, valid: Valid, top: int, left: int) -> None:
        """Fill a window whose first pixel is (top, left) of the scene; the rest stays invalid."""
        height, width = valid.shape
        r0, r1 = max(top, 0), min(top + height, self._scene.grid.height)
        c0, c1 = max(left, 0), min(left + width, self._scene.grid.width)
        if r0 < r1 and c0 < c1:
            part, part_valid = self._scene.read(r0, c0, r1 - r0, c1 - c0)
            values[:, r0 - top : r1 - top, c0 - left : c1 - left] = part
            valid[r0 - top : r1 - top, c0 - left : c1 - left] = part_valid

    def _source_pixels_per_pixel(self) -> tuple[float, float]:
        """Rows and columns of the scene that one pixel of the grid spans, in the middle."""
        middle = np.array([self.grid.height, self.grid.width]) / 2
        steps = np.array([[0, 0], [1, 0], [0, 1]])
        at = middle + steps
        rows, cols = self._to_scene(at[:, 0], at[:, 1])
        if not (np.isfinite(rows).all() and np.isfinite(cols).all()):
            return 1.0, 1.0
        down = max(abs(rows[1] - rows[0]), abs(rows[2] - rows[0]))
        across = max(abs(cols[1] - cols[0]), abs(cols[2] - cols[0]))
        return float(down), float(across)

    def _to_scene(self, rows: Floats, cols: Floats) -> tuple[Floats, Floats]:
        """Positions of the grid as positions of the scene; NaN where there is none."""
        x, y = self.grid.pixel_to_world(rows, cols)
        x, y = _moved(self._crs, self._source_crs, x, y)
        finite = np.isfinite(x) & np.isfinite(y)
        out_rows, out_cols = np.full(x.shape, np.nan), np.full(x.shape, np.nan)
        if finite.any():
            out_rows[finite], out_cols[finite] = self._scene.grid.world_to_pixel(
                x[finite], y[finite]
            )
        return out_rows, out_cols

    def _warped(self, i: int, j: int) -> tuple[Values, Valid]:
        """One block of the grid's lattice, cut off at the grid's border."""
        if (i, j) in self._blocks:
            return self._blocks[i, j]
        top, left = i * self._block, j * self._block
        height = min(self._block, self.grid.height - top)
        width = min(self._block, self.grid.width - left)
        out = np.zeros((self._scene.count + 1, height, width), dtype=np.float32)
        window = self._source_window(top, left, height, width)
        if window is not None:
            row, col, tall, wide = window
            values, valid = self._scene.read(row, col, tall, wide)
            source = np.zeros((len(values) + 1, tall, wide), dtype=np.float32)
            np.copyto(source[:-1], values, where=valid)
            source[-1] = valid
            part = self._scene.grid.window(row, col, tall, wide)
            target = self.grid.window(top, left, height, width)
            try:
                reproject(
                    source,
                    out,
                    src_crs=self._source_crs,
                    dst_crs=self._crs,
                    dst_transform=target.transform,
                    resampling=self._resampling,
                    # Left alone, GDAL derives these from each block and neighbours would differ.
                    XSCALE=min(1.0, 1 / self._scale[1]),
                    YSCALE=min(1.0, 1 / self._scale[0]),
                    **_placement(part),
                )
            except GDAL_ERRORS as error:
                raise InputError(
                    f"{self._scene.path}: cannot be warped to the grid of the map ({error})"
                ) from error
        block = (out[:-1], out[-1] >= _FULL_SUPPORT)
        self._blocks[i, j] = block
        return block

    def _source_window(
        self, top: int, left: int, height: int, width: int
    ) -> tuple[int, int, int, int] | None:
        """Row, column, height and width of the part of the scene under a block, or None."""
        lattice = np.meshgrid(
            top + np.linspace(0, height, 17), left + np.linspace(0, width, 17), indexing="ij"
        )
        rows, cols = self._to_scene(lattice[0].ravel(), lattice[1].ravel())
        finite = np.isfinite(rows) & np.isfinite(cols)
        if not finite.any():
            return None
        bounds = []
        for values, scale, length in (
            (rows[finite], self._scale[0], self._scene.grid.height),
            (cols[finite], self._scale[1], self._scene.grid.width),
        ):
            margin = 8 + math.ceil(2 * scale)
            first = max(0, math.floor(values.min()) - margin)
            last = min(length, math.ceil(values.max()) + margin)
            if first >= last:
                return None
            bounds.append((first, last - first))
        (row, tall), (col, wide) = bounds
        return row, col, tall, wide


def align(scene: Scene, grid: Grid, other_path: str, resampling: str = "bilinear") -> Aligned:
    """Bring a scene on to a grid.

    Args:
        scene: the second date or sensor.
        grid: of the first.
        other_path: name of the first, for messages.
        resampling: for values, where warping is needed ("bilinear", "nearest", "cubic").

    Raises:
        InputError: the two have no common ground: nothing overlaps, one has no georeference, or
            sizes of plain images differ.
    """
    if resampling not in Resampling.__members__:
        raise InputError(f"{resampling!r} is not a resampling method of GDAL")
    own = scene.grid
    pair = f"{other_path} ({grid.describe()}) and {scene.path} ({own.describe()})"
    if grid.has_georeference != own.has_georeference:
        bare = scene.path if grid.has_georeference else other_path
        raise InputError(
            f"{pair}: {bare} has no georeference and the other has one, so they cannot be laid "
            "over each other. Give both one, or strip it from both if they match pixel by pixel."
        )
    if not grid.has_georeference and grid.shape != own.shape:
        raise InputError(
            f"{pair}: images without georeference are paired by pixel, which needs equal sizes"
        )
    offset = grid.offset_of(own)
    if offset is None:
        if (grid.world_crs is None) != (own.world_crs is None):
            bare = other_path if grid.world_crs is None else scene.path
            raise InputError(f"{pair}: {bare} has no CRS; assign it first (gdal_edit.py -a_srs)")
        if grid.transform is None:
            raise InputError(
                f"{pair}: {other_path} is placed by control points or RPCs, and nothing can be "
                "warped on to such a grid. Rectify it first with gdalwarp, or of two dates use the "
                "other's grid (--grid t2 or t1)."
            )
    aligned = Aligned(scene, grid, offset, resampling)
    if aligned.overlap <= 0:
        raise InputError(f"{pair} do not overlap: bounds {_bounds(grid)} against {_bounds(own)}")
    return aligned


def overlap_share(grid: Grid, other: Grid, offset: tuple[int, int] | None = None) -> float:
    """Share of a grid's area that lies inside another's outline, 0 to 1.

    Args:
        grid: the grid in question.
        other: the other one.
        offset: where ``other`` begins in ``grid``, where both share a lattice.
    """
    if offset is not None:
        r0, r1 = max(offset[0], 0), min(offset[0] + other.height, grid.height)
        c0, c1 = max(offset[1], 0), min(offset[1] + other.width, grid.width)
        return max(r1 - r0, 0) * max(c1 - c0, 0) / (grid.height * grid.width)
    crs, other_crs = _common_crs(grid, other)
    x, y = _moved(other_crs, crs, *other.pixel_to_world(*other.outline()))
    finite = np.isfinite(x) & np.isfinite(y)
    if finite.sum() < 3:
        return 0.0
    rows, cols = grid.world_to_pixel(x[finite], y[finite])
    outline = shapely.make_valid(shapely.Polygon(np.stack([cols, rows], axis=1)))
    inside = shapely.intersection(outline, shapely.box(0, 0, grid.width, grid.height))
    return min(1.0, float(inside.area) / (grid.height * grid.width))


def _common_crs(grid: Grid, other: Grid) -> tuple[CRS, CRS]:
    return grid.world_crs or _SAME_PLANE, other.world_crs or _SAME_PLANE


def _moved(source: CRS, target: CRS, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    if source == target:
        return x, y
    moved = transform_points(source, target, x, y)
    return np.asarray(moved[0], dtype=np.float64), np.asarray(moved[1], dtype=np.float64)


def _placement(grid: Grid) -> dict[str, Any]:
    """How GDAL is told where a source array lies."""
    if grid.transform is not None:
        return {"src_transform": grid.transform}
    if grid.gcps:
        return {"gcps": grid.control_points()}
    return {"rpcs": grid.rpcs}


def _bounds(grid: Grid) -> str:
    return "(" + ", ".join(f"{value:.7g}" for value in grid.bounds) + ")"
