"""Reading a map and its truth, raster or outlines, on the map's grid."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.features import rasterize
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_geom
from rasterio.windows import Window
from rasterio.windows import transform as window_transform

from rsmamba_cli.errors import InputError
from rsmamba_cli.evaluation.objects import Shapes

Values = NDArray[np.int64]
Reader = Callable[[Window], tuple[Values, NDArray[np.bool_]]]
"""A window of the prediction's grid -> class values and where they are known, (h, w)."""


@dataclass
class Side:
    """What is known of the prediction or the truth before and after reading it."""

    what: str
    path: Path
    notes: list[str] = field(default_factory=list)
    nodata: float | None = None
    names: dict[int, str] = field(default_factory=dict)
    outlines: bool = False


def open_raster(side: Side) -> Any:
    """Open a raster of one band of whole numbers.

    Raises:
        InputError: it is something else.
    """
    try:
        source = rasterio.open(side.path)
    except RasterioError as error:
        raise InputError(f"The {side.what} {side.path} cannot be read: {error}") from error
    bands = [
        i for i, c in zip(source.indexes, source.colorinterp, strict=True) if c.name != "alpha"
    ]
    if len(bands) != 1:
        count = len(bands)
        source.close()
        raise InputError(f"The {side.what} {side.path} has {count} bands; a class raster has one.")
    return source


def describe(side: Side, source: Any) -> None:
    """Take the declared no-data value and the class names of a raster."""
    side.nodata = source.nodata
    tags = {**source.tags(), **source.tags(1)}
    for key, name in tags.items():
        head, _, number = key.rpartition("_")
        if head.upper() in ("CLASS", "CLASS_NAME") and number.isdigit():
            side.names[int(number)] = name


def raster_reader(side: Side, source: Any) -> Reader:
    """Read windows of a raster as whole numbers and where they are declared valid."""

    def read(window: Window) -> tuple[Values, NDArray[np.bool_]]:
        try:
            array = source.read(1, window=window)
            known = source.read_masks(1, window=window) > 0
        except RasterioError as error:
            raise InputError(f"The {side.what} {side.path} cannot be read: {error}") from error
        if array.dtype.kind == "f":
            known &= ~np.isnan(array)
            array = np.where(known, array, 0)
            if not np.array_equal(array, np.round(array)):
                raise InputError(
                    f"The {side.what} {side.path} holds fractions: it is no class raster. "
                    "Probabilities must be thresholded first."
                )
        return array.astype(np.int64), known

    return read


def truth_reader(side: Side, grid: Any, field_name: str | None, stack: ExitStack) -> Reader:
    """Open the truth as a raster on the prediction's grid, or as outlines.

    Raises:
        InputError: it is neither, or cannot be brought on that grid.
    """
    if not side.path.exists() and not str(side.path).startswith("/vsi"):
        raise InputError(f"The {side.what} {side.path} does not exist.")
    try:
        with rasterio.open(side.path):
            pass
    except RasterioError:
        return vector_reader(side, grid, field_name)
    source = stack.enter_context(open_raster(side))
    describe(side, source)
    placed = [s.crs is not None or s.transform != Affine.identity() for s in (grid, source)]
    same_shape = source.shape == grid.shape
    if not any(placed) or (
        same_shape
        and source.crs == grid.crs
        and source.transform.almost_equals(grid.transform, 1e-9)
    ):
        if not same_shape:
            raise InputError(
                f"{grid.name} has {grid.width} x {grid.height} pixels, the {side.what} {side.path} "
                f"{source.width} x {source.height}, and neither has a georeference."
            )
        return raster_reader(side, source)
    if not all(placed) or source.crs is None or grid.crs is None:
        if same_shape:
            side.notes.append(
                f"only one of {Path(grid.name).name} and the {side.what} has a georeference: "
                "compared pixel by pixel, because their sizes agree"
            )
            return raster_reader(side, source)
        raise InputError(
            f"Only one of {grid.name} and the {side.what} {side.path} has a full georeference, "
            "and their sizes differ: they cannot be laid over each other."
        )
    grid_of = "the prediction's" if side.what == "truth" else "the first map's"
    side.notes.append(f"the {side.what} was warped to {grid_of} grid (nearest neighbour)")
    warped = stack.enter_context(
        WarpedVRT(
            source,
            crs=grid.crs,
            transform=grid.transform,
            width=grid.width,
            height=grid.height,
            resampling=Resampling.nearest,
            add_alpha=source.nodata is None,
        )
    )
    return raster_reader(side, warped)


def vector_reader(side: Side, grid: Any, field_name: str | None) -> Reader:
    """Read outlines and burn them into windows of the grid.

    Raises:
        InputError: they cannot be read, or cannot be brought on the grid.
    """
    shapes, burn = read_shapes(side, grid, field_name)
    if field_name is None:
        burn = np.ones(len(shapes), np.int64)
    elif not np.issubdtype(np.asarray(burn).dtype, np.number):
        raise InputError(f"The attribute {field_name!r} of {side.path} holds no class numbers.")
    side.outlines = True
    tree = shapely.STRtree(shapes)
    side.notes.append(f"{len(shapes)} outlines of {side.path.name} were rasterised (pixel centres)")

    def read(window: Window) -> tuple[Values, NDArray[np.bool_]]:
        shape = (int(window.height), int(window.width))
        place = window_transform(window, grid.transform)
        corners = [place @ c for c in ((0, 0), (shape[1], 0), (shape[1], shape[0]), (0, shape[0]))]
        hits = sorted(tree.query(shapely.Polygon(corners)).tolist())
        burnt = [(shapes[i], int(burn[i])) for i in hits if not shapes[i].is_empty]
        if not burnt:
            return np.zeros(shape, np.int64), np.ones(shape, bool)
        raster = rasterize(burnt, out_shape=shape, transform=place, fill=0, dtype="int32")
        return raster.astype(np.int64), np.ones(shape, bool)

    return read


def read_shapes(side: Side, grid: Any, field_name: str | None) -> tuple[Shapes, NDArray[Any]]:
    """Read geometries in the grid's CRS, and their values of an attribute (none: of length 0).

    Raises:
        InputError: they cannot be read, or there is no such attribute.
    """
    try:
        meta, _, geometry, values = pyogrio.raw.read(
            side.path, columns=[field_name] if field_name else []
        )
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, ValueError) as error:
        raise InputError(
            f"The {side.what} {side.path} cannot be read, neither as a raster nor as outlines: "
            f"{error}"
        ) from error
    if field_name and field_name not in meta["fields"]:
        raise InputError(f"The outlines in {side.path} have no attribute {field_name!r}.")
    shapes = shapely.from_wkb(geometry)
    if meta["crs"] and grid.crs:
        target = rasterio.crs.CRS.from_user_input(meta["crs"])
        if target != grid.crs:
            moved = transform_geom(target, grid.crs, [shapely.geometry.mapping(s) for s in shapes])
            shapes = np.array([shapely.geometry.shape(m) for m in moved])
    elif bool(meta["crs"]) != bool(grid.crs):
        side.notes.append(
            f"only one of {Path(grid.name).name} and {side.path.name} names a CRS: their "
            "coordinates were taken to agree"
        )
    return shapes, values[0] if field_name else np.zeros(0)
