"""The labels of one scene, read by windows: a raster looked up, or features burnt on the fly."""

import warnings
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyogrio
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyogrio.errors import DataLayerError, DataSourceError
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.features import rasterize
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from rsmamba_cli.datasets.info import IGNORE
from rsmamba_cli.datasets.scenes.description import ScenePart, ScenesFile
from rsmamba_cli.errors import DatasetError, InputError
from rsmamba_cli.raster.grid import Grid
from rsmamba_cli.raster.opening import open_dataset
from rsmamba_cli.raster.selection import Selection, to_pixels

Labels = NDArray[np.int64]


class _Reader(Protocol):
    def read(self, row: int, col: int, height: int, width: int) -> Labels:
        """Class indices, 255 where unknown, for a window inside the scene."""
        ...


class Truth:
    """Class indices of a scene.

    Args:
        described: what labels mean.
        scene: which files.
        grid: of the scene's image.

    Raises:
        DatasetError: the label file cannot be read, laid over the scene, or understood.
    """

    def __init__(self, described: ScenesFile, scene: ScenePart, grid: Grid) -> None:
        self.grid = grid
        self.border = described.ignore_border
        try:
            self.labels: _Reader = _RasterLabels(scene.label, described.indices(), grid)
        except InputError:
            self.labels = _VectorLabels(described, scene, grid)
        try:
            self.area = None if scene.area is None else Selection(grid, scene.area)
        except InputError as error:
            raise DatasetError(f"The area of complete labels of {scene.image}: {error}") from error

    def read(self, row: int, col: int, height: int, width: int) -> Labels:
        """Class indices (height, width), int64; 255 where not labelled.

        What is read of a window is what is read of the whole scene there.

        Raises:
            DatasetError: the file is damaged, or holds a value that is no class.
        """
        top, left = max(row - self.border, 0), max(col - self.border, 0)
        bottom = min(row + height + self.border, self.grid.height)
        right = min(col + width + self.border, self.grid.width)
        window = (top, left, bottom - top, right - left)
        label = self.labels.read(*window)
        if self.area is not None:
            label[~self.area.read(*window)] = IGNORE
        if self.border:
            label[near_borders(label, self.border)] = IGNORE
        return label[row - top : row - top + height, col - left : col - left + width]


def near_borders(label: Labels, distance: int) -> NDArray[np.bool_]:
    """Pixels with another class within so many rows and columns; unlabelled ones do not count."""
    known = label != IGNORE
    least = _over_window(np.where(known, label, IGNORE), distance, np.minimum)
    most = _over_window(np.where(known, label, -1), distance, np.maximum)
    near: NDArray[np.bool_] = (least != most) & (most >= 0)
    return near


def _over_window(values: Labels, distance: int, extreme: np.ufunc) -> Labels:
    """The least or largest value of the square around each pixel, cut off at the border."""
    for axis in (0, 1):
        out = values.copy()
        for step in range(1, min(distance, values.shape[axis] - 1) + 1):
            near, far = [slice(None)] * 2, [slice(None)] * 2
            near[axis], far[axis] = slice(None, -step), slice(step, None)
            one, other = tuple(near), tuple(far)
            out[one] = extreme(out[one], values[other])
            out[other] = extreme(out[other], values[one])
        values = out
    return values


class _RasterLabels:
    """A raster of class numbers on any grid; what it does not cover is not labelled."""

    def __init__(self, path: Path, indices: dict[str, int], grid: Grid) -> None:
        self.path = path
        self.dataset = open_dataset(path)
        numbers = {int(k): v for k, v in indices.items() if k.lstrip("-").isdigit()}
        self.values = np.array(sorted(numbers), np.int64)
        self.indices = np.array([numbers[v] for v in sorted(numbers)], np.int64)
        own = Grid.of(self.dataset)
        self.offset = grid.offset_of(own)
        self.source: Any = self.dataset
        if self.offset is None:
            if not (grid.transform and own.transform and grid.crs and own.crs):
                raise DatasetError(
                    f"The labels {path} ({own.describe()}) cannot be laid over their scene "
                    f"({grid.describe()}): give both a CRS, or labels of exactly its size."
                )
            self.source = WarpedVRT(
                self.dataset,
                crs=grid.crs,
                transform=grid.transform,
                height=grid.height,
                width=grid.width,
                resampling=Resampling.nearest,
                add_alpha=self.dataset.nodata is None,
            )

    def read(self, row: int, col: int, height: int, width: int) -> Labels:
        """Class indices of a window."""
        top, left = (
            (row, col) if self.offset is None else (row - self.offset[0], col - self.offset[1])
        )
        first, last = max(top, 0), min(top + height, self.source.height)
        west, east = max(left, 0), min(left + width, self.source.width)
        label = np.full((height, width), IGNORE, np.int64)
        if first >= last or west >= east:
            return label
        window = Window(west, first, east - west, last - first)
        try:
            raw = self.source.read(1, window=window)
            known = self.source.read_masks(1, window=window) > 0
        except RasterioError as error:
            raise DatasetError(f"{self.path} cannot be read around row {row}: {error}") from error
        place = np.searchsorted(self.values, raw).clip(0, len(self.values) - 1)
        found = self.values[place] == raw
        if (strange := known & ~found & (raw != IGNORE)).any():
            shown = ", ".join(str(v) for v in np.unique(raw[strange])[:8])
            raise DatasetError(
                f"{self.path} holds the values {shown}, which are no class. Add them to classes or "
                'codes ("ignore" leaves a value out).'
            )
        part = np.where(known & found, self.indices[place], IGNORE)
        label[first - top : last - top, west - left : east - left] = part
        return label


class _VectorLabels:
    """Features burnt into windows; later classes lie over earlier ones."""

    def __init__(self, described: ScenesFile, scene: ScenePart, grid: Grid) -> None:
        shapes, found, crs = _features(scene, described.field)
        if described.field is None:
            burn = np.ones(len(shapes), np.int64)
        else:
            indices = described.indices()
            if strange := sorted(set(found) - set(indices)):
                raise DatasetError(
                    f"{scene.label}: {described.field} holds {', '.join(strange[:8])}, which are "
                    'no class. Add them to classes or codes ("ignore" leaves a value out).'
                )
            burn = np.array([indices[value] for value in found], np.int64)
        try:
            pixels = to_pixels(str(scene.label), shapes, crs, grid)
        except InputError as error:
            raise DatasetError(str(error)) from error
        thin = ~np.isin(shapely.get_type_id(pixels), (3, 6))
        if described.line_width is not None and thin.any():
            gsd = grid.gsd_m()
            if gsd is None:
                raise DatasetError(
                    f"line_width is in metres, but {scene.image} has no CRS to tell a pixel's size."
                )
            pixels[thin] = shapely.buffer(pixels[thin], described.line_width / 2 / gsd)
        order = np.argsort(burn, kind="stable")
        self.shapes, self.burn = pixels[order], burn[order]
        self.tree = shapely.STRtree(self.shapes)
        self.all_touched = described.all_touched

    def read(self, row: int, col: int, height: int, width: int) -> Labels:
        """Class indices of a window; where there is no feature, the first class."""
        window = shapely.box(col - 1, row - 1, col + width + 1, row + height + 1)
        # Sorted, because the tree answers in an order of its own.
        near = np.sort(self.tree.query(window, predicate="intersects"))
        if not len(near):
            return np.zeros((height, width), np.int64)
        burnt = rasterize(
            zip(self.shapes[near], self.burn[near].tolist(), strict=True),
            out_shape=(height, width),
            transform=Affine.translation(col, row),
            all_touched=self.all_touched,
            dtype="uint8",
        )
        return np.asarray(burnt, np.int64)


def _features(scene: ScenePart, field: str | None) -> tuple[NDArray[Any], list[str], CRS | None]:
    """Geometries, the attribute as text, and the CRS.

    Raises:
        DatasetError: neither a raster nor a vector file, or without the attribute.
    """
    columns = [] if field is None else [field]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            meta, _, geometry, values = pyogrio.raw.read(
                scene.label, layer=scene.layer, columns=columns, force_2d=True
            )
    except (DataSourceError, DataLayerError, ValueError, OSError) as error:
        raise DatasetError(
            f"The labels {scene.label} can be read neither as a raster nor as features: {error}"
        ) from error
    if field is not None and field not in meta["fields"]:
        raise DatasetError(f"The features of {scene.label} have no attribute {field!r}.")
    shapes = shapely.from_wkb(geometry)
    here = ~(shapely.is_missing(shapes) | shapely.is_empty(shapes))
    texts = [] if field is None else [_text(v) for v in values[0][here]]
    crs = CRS.from_user_input(meta["crs"]) if meta["crs"] else None
    return shapely.make_valid(shapes[here]), texts, crs


def _text(value: Any) -> str:
    """An attribute's value as codes name it: 3.0 is "3", nothing is "None"."""
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)
