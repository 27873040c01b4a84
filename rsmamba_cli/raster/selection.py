"""An area of interest: which pixels of a grid are asked for."""

import os
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.features import rasterize
from rasterio.warp import transform as transform_points

from rsmamba_cli.errors import InputError
from rsmamba_cli.raster.grid import Grid, as_bounds
from rsmamba_cli.raster.opening import GDAL_ERRORS

Bools = npt.NDArray[np.bool_]
_PIECES = 64


class Selection:
    """The pixels whose centre lies inside every given area.

    Attributes:
        note: a decision taken on the user's behalf, or "".
    """

    def __init__(
        self,
        grid: Grid,
        aoi: str | os.PathLike[str] | None = None,
        bbox: tuple[float, float, float, float] | None = None,
        bbox_crs: str | None = None,
    ) -> None:
        """Bring the areas into pixel coordinates of the grid.

        Args:
            grid: of the run.
            aoi: polygons in any vector format and CRS.
            bbox: (x0, y0, x1, y1).
            bbox_crs: its CRS; None for the grid's (pixels, for a grid without a place).

        Raises:
            InputError: unreadable, empty, without a common CRS, or beside the scene.
        """
        self.note = ""
        self._layers: list[tuple[shapely.STRtree, npt.NDArray[Any]]] = []
        whole = shapely.box(0, 0, grid.width, grid.height)
        areas = []
        if bbox is not None:
            areas.append(("--bbox", *_box(bbox, bbox_crs)))
        if aoi is not None:
            areas.append((f"{os.fspath(aoi)}", *_polygons(aoi)))
        for name, shapes, crs in areas:
            if crs is None and name != "--bbox":
                self.note = f"{name} has no CRS; its coordinates are taken as the scene's"
            pixels = to_pixels(name, shapes, crs, grid)
            inside = pixels[shapely.intersects(pixels, whole)]
            if not len(inside):
                raise InputError(
                    f"{name}: does not touch the scene ({grid.describe()}, bounds "
                    f"{', '.join(f'{v:.6g}' for v in grid.bounds)})"
                )
            self._layers.append((shapely.STRtree(inside), inside))

    def touches(self, row: int, col: int, height: int, width: int) -> bool:
        """Whether any selected pixel may lie in a window."""
        window = shapely.box(col, row, col + width, row + height)
        return all(len(tree.query(window, predicate="intersects")) for tree, _ in self._layers)

    def read(self, row: int, col: int, height: int, width: int) -> Bools:
        """True for selected pixels, (height, width)."""
        selected = np.ones((height, width), dtype=np.bool_)
        window = shapely.box(col, row, col + width, row + height)
        for tree, shapes in self._layers:
            # Sorted, because the tree answers in an order of its own.
            near = np.sort(tree.query(window, predicate="intersects"))
            if not len(near):
                return np.zeros((height, width), dtype=np.bool_)
            burnt = rasterize(
                [(shape, 1) for shape in shapes[near]],
                out_shape=(height, width),
                transform=Affine.translation(col, row),
                dtype="uint8",
            )
            selected &= burnt != 0
        return selected


def _box(
    bbox: tuple[float, float, float, float], crs: str | None
) -> tuple[npt.NDArray[Any], CRS | None]:
    bounds = as_bounds(bbox)
    try:
        return np.array([shapely.box(*bounds)]), None if crs is None else CRS.from_user_input(crs)
    except CRSError as error:
        raise InputError(f"the CRS of --bbox, {crs!r}, is not known: {error}") from error


def _polygons(path: str | os.PathLike[str]) -> tuple[npt.NDArray[Any], CRS | None]:
    """The polygons of a vector file and their CRS."""
    import pyogrio
    from pyogrio.errors import DataLayerError, DataSourceError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            meta, _, geometry, _ = pyogrio.raw.read(path, columns=[], force_2d=True)
    except (DataSourceError, DataLayerError, ValueError, OSError) as error:
        raise InputError(
            f"{path}: not a vector file that can be read ({error}). Give polygons as GeoPackage, "
            "GeoJSON, FlatGeobuf or Shapefile."
        ) from error
    shapes = shapely.from_wkb([g for g in geometry if g is not None])
    areal = np.isin(shapely.get_type_id(shapes), (3, 6)) & ~shapely.is_empty(shapes)
    if not areal.any():
        raise InputError(f"{path}: holds no polygons")
    try:
        crs = CRS.from_user_input(meta["crs"]) if meta["crs"] else None
    except CRSError as error:
        raise InputError(f"{path}: its CRS is not understood ({error})") from error
    return shapely.make_valid(shapes[areal]), crs


def to_pixels(name: str, shapes: npt.NDArray[Any], crs: CRS | None, grid: Grid) -> npt.NDArray[Any]:
    """Bring geometries to (col, row) of a grid; those that have no place there become empty.

    Args:
        name: of their file, for messages.
        shapes: (n,) geometries in ``crs``.
        crs: None for the grid's.
        grid: where to.

    Returns:
        (n,) valid geometries.

    Raises:
        InputError: the two have no common CRS.
    """
    target = grid.world_crs
    if crs is not None and target is None:
        raise InputError(
            f"{name}: has a CRS ({crs.to_string()}) but the scene has none, so the two cannot be "
            "laid over each other"
        )
    if crs is not None and crs != target:
        # Straight lines bend between projections: long sides get more corners.
        bounds = shapely.bounds(shapes)
        longest = float(np.max(bounds[:, 2:] - bounds[:, :2]))
        shapes = shapely.segmentize(shapes, max(longest / _PIECES, 1e-12))

    def convert(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        x, y = points[:, 0], points[:, 1]
        if crs is not None and crs != target:
            x, y = (np.asarray(v) for v in transform_points(crs, target, x, y))
        rows, cols = grid.world_to_pixel(x, y)
        return np.stack([cols, rows], axis=1)

    try:
        pixels = shapely.transform(shapes, convert)
    except GDAL_ERRORS as error:
        raise InputError(f"{name}: cannot be brought to the scene's CRS ({error})") from error
    finite = np.isfinite(shapely.bounds(pixels)).all(axis=1)
    pixels[~finite] = shapely.Polygon()
    return np.asarray(shapely.make_valid(pixels))
