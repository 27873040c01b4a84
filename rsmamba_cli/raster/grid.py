"""The grid of a raster: its size and where its pixels lie on Earth.

`Grid` is the only place in the toolkit that does arithmetic on coordinates. A position in pixels is
``(row, col)`` with ``(0, 0)`` at the outer corner of the first pixel, so that its centre is
``(0.5, 0.5)``; a position in the world is ``(x, y)`` in the units of the grid's CRS.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.rpc import RPC
from rasterio.transform import GCPTransformer, RPCTransformer
from rasterio.warp import transform as transform_points

from rsmamba_cli.errors import InputError
from rsmamba_cli.raster.opening import GDAL_ERRORS

Floats = npt.NDArray[np.float64]

WGS84_RADIUS = 6378137.0
WGS84_INVERSE_FLATTENING = 298.257223563
_AREA_NODE_ROWS = 257
_AREA_SEGMENTS = 8


class Gcp(NamedTuple):
    """A ground control point with value equality: pixel (row, col) lies at (x, y, z).

    Names and remarks of control points are left out: a GeoTIFF has no place for them.
    """

    row: float
    col: float
    x: float
    y: float
    z: float


@dataclass(frozen=True)
class Grid:
    """Size and georeference of a raster; two grids are equal when every part is, to the last bit.

    Attributes:
        height: rows, at least 1.
        width: columns, at least 1.
        transform: pixel (col, row) to world (x, y); None when the raster has no geotransform.
        crs: of ``transform``; None when unknown.
        gcps: ground control points, for rasters that are placed by these instead of a transform.
        gcp_crs: the CRS of ``gcps``.
        rpcs: rational polynomial coefficients (longitude and latitude in WGS 84), or None.
    """

    height: int
    width: int
    transform: Affine | None = None
    crs: CRS | None = None
    gcps: tuple[Gcp, ...] = ()
    gcp_crs: CRS | None = None
    rpcs: RPC | None = None

    @classmethod
    def of(cls, dataset: Any) -> "Grid":
        """The grid of an open rasterio dataset."""
        points, gcp_crs = dataset.gcps
        # GDAL answers the identity for a raster without a geotransform. A raster that really has
        # the identity together with a CRS keeps it.
        absent = dataset.transform == Affine.identity() and not dataset.crs
        return cls(
            height=dataset.height,
            width=dataset.width,
            transform=None if absent else Affine(*dataset.transform[:6]),
            crs=dataset.crs or None,
            gcps=tuple(Gcp(p.row, p.col, p.x, p.y, p.z or 0.0) for p in points),
            gcp_crs=gcp_crs or None,
            rpcs=dataset.rpcs,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    @property
    def has_georeference(self) -> bool:
        """Whether the pixels have any place: a transform, control points or RPCs."""
        return self.transform is not None or bool(self.gcps) or self.rpcs is not None

    @property
    def world_crs(self) -> CRS | None:
        """The CRS of `pixel_to_world`, whichever way the grid is placed."""
        if self.transform is not None:
            return self.crs
        if self.gcps:
            return self.gcp_crs
        return CRS.from_epsg(4326) if self.rpcs is not None else None

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(left, bottom, right, top) of the outline in `world_crs` (pixels without a place)."""
        x, y = self.pixel_to_world(*self.outline())
        return float(x.min()), float(y.min()), float(x.max()), float(y.max())

    def outline(self, points_per_side: int = 21) -> tuple[Floats, Floats]:
        """Positions (rows, cols) along the border, clockwise from (0, 0), closed.

        Args:
            points_per_side: how densely a side is sampled; more follow a curved outline better.
        """
        t = np.linspace(0.0, 1.0, points_per_side)
        rows = np.concatenate([0 * t, t, 1 + 0 * t, 1 - t]) * self.height
        cols = np.concatenate([t, 1 + 0 * t, 1 - t, 0 * t]) * self.width
        return rows, cols

    def pixel_to_world(self, rows: npt.ArrayLike, cols: npt.ArrayLike) -> tuple[Floats, Floats]:
        """World coordinates of pixel positions, in `world_crs`.

        Args:
            rows: any shape, in pixels from the top border.
            cols: same shape, in pixels from the left border.

        Returns:
            x and y of that shape. Without a georeference x is the column and y the row.
        """
        r = np.asarray(rows, dtype=np.float64)
        c = np.asarray(cols, dtype=np.float64)
        if self.transform is not None:
            a, b, x0, d, e, y0 = self.transform[:6]
            return a * c + b * r + x0, d * c + e * r + y0
        if self.gcps or self.rpcs is not None:
            with self._transformer() as transformer:
                x, y = transformer.xy(r.ravel(), c.ravel(), offset="ul")
            return np.reshape(x, r.shape), np.reshape(y, r.shape)
        return c.copy(), r.copy()

    def world_to_pixel(self, x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Floats, Floats]:
        """The inverse of `pixel_to_world`: positions (rows, cols), unrounded."""
        xs = np.asarray(x, dtype=np.float64)
        ys = np.asarray(y, dtype=np.float64)
        if self.transform is not None:
            a, b, x0, d, e, y0 = (~self.transform)[:6]
            return d * xs + e * ys + y0, a * xs + b * ys + x0
        if self.gcps or self.rpcs is not None:
            with self._transformer() as transformer:
                rows, cols = transformer.rowcol(xs.ravel(), ys.ravel(), op=lambda value: value)
            return np.reshape(rows, xs.shape), np.reshape(cols, xs.shape)
        return ys.copy(), xs.copy()

    def lonlat(self, rows: npt.ArrayLike, cols: npt.ArrayLike) -> tuple[Floats, Floats] | None:
        """Longitude and latitude of pixel positions in degrees; None without a place on Earth."""
        if self.world_crs is None:
            return None
        return _to_lonlat(self.world_crs, *self.pixel_to_world(rows, cols))

    def _transformer(self) -> Any:
        if self.gcps:
            return GCPTransformer(self.control_points())
        assert self.rpcs is not None
        return RPCTransformer(self.rpcs, RPC_HEIGHT=self.rpcs.height_off)

    def control_points(self) -> list[GroundControlPoint]:
        """The ground control points as rasterio wants them."""
        return [GroundControlPoint(g.row, g.col, g.x, g.y, g.z) for g in self.gcps]

    def window(self, row: int, col: int, height: int, width: int) -> "Grid":
        """The grid of a part of the raster (or of a rectangle reaching beyond it)."""
        moved = None if self.transform is None else _composed(self.transform, col, row, 1, 1)
        rpcs = self.rpcs
        if rpcs is not None:
            rpcs = RPC.from_gdal(rpcs.to_gdal())
            rpcs.line_off -= row
            rpcs.samp_off -= col
        gcps = tuple(g._replace(row=g.row - row, col=g.col - col) for g in self.gcps)
        return replace(self, height=height, width=width, transform=moved, gcps=gcps, rpcs=rpcs)

    def decimated(self, height: int, width: int) -> "Grid":
        """The grid of the same area with fewer (or more) rows and columns."""
        down, right = self.height / height, self.width / width
        moved = None
        if self.transform is not None:
            moved = _composed(self.transform, 0, 0, right, down)
        gcps = tuple(g._replace(row=g.row / down, col=g.col / right) for g in self.gcps)
        return Grid(height, width, moved, self.crs, gcps, self.gcp_crs)

    def offset_of(self, other: "Grid") -> tuple[int, int] | None:
        """Where the first pixel of ``other`` lies in this grid, when both share one lattice.

        Two grids share a lattice when the CRS is the same and every pixel border of one falls on a
        pixel border of the other to a thousandth of a pixel over the whole extent. Grids placed by
        control points or RPCs, and grids without a place, share one only when they are equal.

        Returns:
            (row, col) of the offset in pixels, or None.
        """
        if self.transform is None or other.transform is None:
            same = (self.shape, self.gcps, self.gcp_crs) == (other.shape, other.gcps, other.gcp_crs)
            return (0, 0) if same and _rpc_json(self.rpcs) == _rpc_json(other.rpcs) else None
        if self.crs != other.crs:
            return None
        corner_rows = np.array([0.0, 0.0, other.height, other.height])
        corner_cols = np.array([0.0, other.width, 0.0, other.width])
        rows, cols = self.world_to_pixel(*other.pixel_to_world(corner_rows, corner_cols))
        row, col = round(float(rows[0])), round(float(cols[0]))
        apart = max(np.abs(rows - corner_rows - row).max(), np.abs(cols - corner_cols - col).max())
        return (row, col) if apart <= 1e-3 else None

    def pixel_areas_m2(self, rows: npt.ArrayLike, cols: npt.ArrayLike) -> Floats | None:
        """Area on the ellipsoid of the pixels around the given positions, in square metres.

        The middles of the pixel's four sides go to longitude and latitude and from there to points
        in space; the parallelogram between them is measured. This holds for every CRS (a pixel of
        Web Mercator at 60 degrees north is a quarter of what its units say), for rotated grids and
        for control points alike.

        Returns:
            Areas in the shape of ``rows``, NaN where the projection has no answer; None when the
            grid has no CRS.
        """
        crs = self.world_crs
        if crs is None:
            return None
        r = np.asarray(rows, dtype=np.float64)
        c = np.broadcast_to(np.asarray(cols, dtype=np.float64), r.shape)
        steps = ((0.5, 0.0), (-0.5, 0.0), (0.0, 0.5), (0.0, -0.5))
        positions = np.stack([np.stack([r + dr, c + dc]) for dr, dc in steps])
        x, y = self.pixel_to_world(positions[:, 0], positions[:, 1])
        radius, inverse_flattening = _ellipsoid(crs)
        lonlat = _to_lonlat(crs, x, y)
        if lonlat is None:
            planar = abs((x[0] - x[1]) * (y[2] - y[3]) - (x[2] - x[3]) * (y[0] - y[1]))
            return np.asarray(planar * _unit_in_metres(crs) ** 2)
        lon, lat = np.radians(lonlat[0]), np.radians(lonlat[1])
        e2 = 0.0 if not inverse_flattening else (2 - 1 / inverse_flattening) / inverse_flattening
        # In space, where neither the date line nor the poles are special.
        normal = radius / np.sqrt(1 - e2 * np.sin(lat) ** 2)
        space = np.stack(
            [
                normal * np.cos(lat) * np.cos(lon),
                normal * np.cos(lat) * np.sin(lon),
                normal * (1 - e2) * np.sin(lat),
            ],
            axis=-1,
        )
        across = np.cross(space[0] - space[1], space[2] - space[3])
        return np.asarray(np.linalg.norm(across, axis=-1))

    def pixel_area_m2(self) -> float | None:
        """Area of the pixel in the middle of the grid in square metres; None without a CRS."""
        areas = self.pixel_areas_m2([self.height / 2], [self.width / 2])
        if areas is None or not np.isfinite(areas[0]):
            return None
        return float(areas[0])

    def gsd_m(self) -> float | None:
        """Ground sample distance in metres (side of a square of the pixel's area), or None."""
        area = self.pixel_area_m2()
        return None if area is None else math.sqrt(area)

    def area_table(self) -> "AreaTable | None":
        """Pixel areas over the whole grid, cheap to ask for; None without a CRS."""
        rows = np.unique(np.linspace(0.5, self.height - 0.5, min(self.height, _AREA_NODE_ROWS)))
        borders = np.linspace(0, self.width, min(self.width, _AREA_SEGMENTS) + 1)
        edges = np.unique(borders.astype(np.int64))
        centres = (edges[:-1] + edges[1:]) / 2
        lattice = np.meshgrid(rows, centres, indexing="ij")
        areas = self.pixel_areas_m2(lattice[0], lattice[1])
        if areas is None or not np.isfinite(areas).all():
            return None
        return AreaTable(rows, edges, areas)

    def profile(self) -> dict[str, Any]:
        """The keyword arguments with which rasterio writes a raster on exactly this grid."""
        profile: dict[str, Any] = {"height": self.height, "width": self.width}
        if self.transform is not None:
            profile["transform"] = self.transform
        if self.gcps and self.transform is None:
            profile["gcps"] = self.control_points()
            profile["crs"] = self.gcp_crs
        elif self.crs is not None:
            profile["crs"] = self.crs
        if self.rpcs is not None:
            profile["rpcs"] = self.rpcs
        return profile

    def to_json(self) -> dict[str, Any]:
        """Everything that places the grid, as JSON values (for plans and reports)."""
        crs, gcp_crs = self.crs, self.gcp_crs
        return {
            "height": self.height,
            "width": self.width,
            "transform": None if self.transform is None else list(self.transform[:6]),
            "crs": None if crs is None else crs.to_wkt(),
            "gcps": [list(g) for g in self.gcps],
            "gcp_crs": None if gcp_crs is None else gcp_crs.to_wkt(),
            "rpcs": _rpc_json(self.rpcs),
        }

    def describe(self) -> str:
        """One phrase for messages: size, CRS and resolution."""
        crs = self.world_crs
        name = "no CRS" if crs is None else crs.to_string()
        if len(name) > 60:
            name = name[:57] + "..."
        gsd = self.gsd_m()
        place = "" if gsd is None else f", {gsd:.3g} m a pixel"
        return f"{self.width} x {self.height} pixels, {name}{place}"


@dataclass(frozen=True)
class AreaTable:
    """Pixel areas on a coarse lattice of a grid, interpolated over rows.

    Attributes:
        rows: (n,) rows of the lattice, in pixels.
        edges: (m + 1,) column borders of the segments that share one area a row.
        areas: (n, m) in square metres.
    """

    rows: Floats
    edges: npt.NDArray[np.int64]
    areas: Floats

    def at(self, rows: npt.ArrayLike) -> Floats:
        """Areas (len(rows), m) at the given row positions."""
        r = np.asarray(rows, dtype=np.float64)
        return np.stack([np.interp(r, self.rows, column) for column in self.areas.T], axis=1)

    def sum_where(
        self, selected: npt.NDArray[np.bool_], first_row: int, first_col: int = 0
    ) -> float:
        """Total area of the True pixels of a part of the grid.

        Args:
            selected: (h, w).
            first_row: the grid's row of ``selected[0]``.
            first_col: the grid's column of ``selected[:, 0]``.
        """
        borders = np.clip(self.edges - first_col, 0, selected.shape[1])
        inside = borders[1:] > borders[:-1]
        # As numbers: sums of booleans take three times as long.
        ones = selected.view(np.uint8)
        counts = np.add.reduceat(ones, borders[:-1][inside], axis=1, dtype=np.uint32)
        areas = self.at(first_row + 0.5 + np.arange(selected.shape[0]))[:, inside]
        return float((counts * areas).sum())

    def at_points(self, rows: Floats, cols: Floats) -> Floats:
        """Areas of the pixels around single positions."""
        segment = np.clip(np.searchsorted(self.edges, cols, "right") - 1, 0, len(self.edges) - 2)
        return self.at(rows)[np.arange(len(segment)), segment]


def window_starts(length: int, tile: int, stride: int) -> tuple[int, ...]:
    """First pixels of the windows that cover ``length`` pixels; the last is shifted inwards.

    Args:
        length: pixels to cover, at least 1.
        tile: window size, at least 1.
        stride: distance of neighbouring windows, 1 to ``tile``.

    Returns:
        Strictly increasing starts; ``(0,)`` when one window is enough.
    """
    if length < 1 or not 1 <= stride <= tile:
        raise InputError(
            f"windows of {tile} pixels every {stride} cannot cover {length} pixels: the length "
            "must be 1 or more and the stride between 1 and the window size"
        )
    if length <= tile:
        return (0,)
    last = length - tile
    return (*range(0, last, stride), last)


def _rpc_json(rpcs: RPC | None) -> dict[str, str] | None:
    return None if rpcs is None else {k: str(v) for k, v in sorted(rpcs.to_gdal().items())}


def _composed(transform: Affine, col: float, row: float, right: float, down: float) -> Affine:
    """The transform of pixels scaled by (right, down) whose first one begins at (col, row)."""
    a, b, x0, d, e, y0 = transform[:6]
    x, y = a * col + b * row + x0, d * col + e * row + y0
    return Affine(a * right, b * down, x, d * right, e * down, y)


def _ellipsoid(crs: CRS) -> tuple[float, float]:
    """Semi-major axis in metres and inverse flattening (0 for a sphere) of a CRS."""
    found = re.search(r'SPHEROID\["[^"]*",\s*([-0-9.eE+]+),\s*([-0-9.eE+]+)', crs.to_wkt())
    if found is None:
        return WGS84_RADIUS, WGS84_INVERSE_FLATTENING
    return float(found.group(1)), float(found.group(2))


def _to_lonlat(crs: CRS, x: Floats, y: Floats) -> tuple[Floats, Floats] | None:
    """Longitude and latitude in degrees, or None for a CRS that is not tied to the Earth."""
    if crs.is_geographic:
        factor = math.degrees(crs.units_factor[1])
        return x * factor, y * factor
    try:
        lon, lat = transform_points(crs, CRS.from_epsg(4326), x.ravel(), y.ravel())
    except GDAL_ERRORS:
        return None
    lonlat = np.array([lon, lat], dtype=np.float64).reshape(2, *x.shape)
    lonlat[~np.isfinite(lonlat)] = np.nan
    return lonlat[0], lonlat[1]


def _unit_in_metres(crs: CRS) -> float:
    try:
        return float(crs.linear_units_factor[1])
    except GDAL_ERRORS:
        return 1.0


def as_bounds(values: Sequence[float]) -> tuple[float, float, float, float]:
    """Four numbers as (left, bottom, right, top), whichever way round each pair was given.

    Raises:
        InputError: not four finite numbers, or an empty rectangle.
    """
    if len(values) != 4 or not all(math.isfinite(v) for v in values):
        raise InputError(f"a bounding box needs four numbers X0,Y0,X1,Y1; got {list(values)}")
    x0, y0, x1, y1 = values
    if x0 == x1 or y0 == y1:
        raise InputError(f"the bounding box {list(values)} is empty: it has no width or height")
    return min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)
