"""A map read at points whose class is known."""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import shapely
from numpy.typing import NDArray
from rasterio.warp import transform
from rasterio.windows import Window

from rsmamba_cli.errors import InputError
from rsmamba_cli.evaluation.map_sides import Reader, Side, read_shapes

_MAP_COLUMNS = (("x", "y"), ("easting", "northing"))
_WORLD_COLUMNS = (("lon", "lat"), ("longitude", "latitude"), ("long", "lat"))
_CLASS_COLUMN = "class"


def holds_points(path: Path) -> bool:
    """Whether a file is a CSV or a vector layer of points."""
    if path.suffix.lower() == ".csv":
        return True
    try:
        kind = pyogrio.read_info(path)["geometry_type"]
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, ValueError):
        return False
    return kind is not None and kind.startswith("Point")


def compare_points(
    maps: Sequence[tuple[Side, Reader]],
    theirs: Side,
    source: Any,
    attribute: str | None,
    area: Side | None,
    ignore: tuple[int, ...],
    left_out: Counter[str],
) -> list[Counter[tuple[int, ...]]]:
    """Join the value of every point with the value of each map there.

    Args:
        maps: read on one grid.
        theirs: the points: numbers, or names of the maps' classes.
        source: the raster of the first map, whose grid it is.
        attribute: where their class is; None for "class".
        area: outlines that points must lie in.
        ignore: values that do not count.
        left_out: of any side, counted up.

    Returns:
        A count of (true value, value of each map) for each point that counts.

    Raises:
        InputError: the file cannot be read, has no such column, or a class is unknown.
    """
    name = attribute or _CLASS_COLUMN
    read = _read_csv if theirs.path.suffix.lower() == ".csv" else _read_layer
    points, raw = read(theirs, source, name)
    numbers = {label: value for side, _ in maps for value, label in side.names.items()}
    true = [_class_of(text, numbers, theirs, name) for text in raw]
    inverse = ~source.transform
    wanted = np.ones(len(points), bool)
    if area is not None:
        shapes, _ = read_shapes(area, source, None)
        wanted = shapely.intersects_xy(shapely.union_all(shapes), points)
    units: list[Counter[tuple[int, ...]]] = []
    outside = 0
    for (x, y), value, inside in zip(points.tolist(), true, wanted.tolist(), strict=True):
        column, row = (int(np.floor(c)) for c in inverse @ (x, y))
        if not inside:
            left_out["area"] += 1
        elif not (0 <= row < source.height and 0 <= column < source.width):
            outside += 1
        else:
            here = [(side, *own(Window(column, row, 1, 1))) for side, own in maps]
            joint = (value, *(int(guess[0, 0]) for _, guess, _ in here))
            unknown = [side.what for side, _, known in here if not known[0, 0]]
            if unknown:
                left_out[unknown[0]] += 1
            elif set(joint) & set(ignore):
                left_out["ignore"] += 1
            else:
                units.append(Counter({joint: 1}))
    theirs.notes.append(f"the map was read at {len(units)} points of {theirs.path.name}")
    if outside:
        theirs.notes.append(f"{outside} points of {theirs.path.name} lie beside the map")
    return units


def _class_of(text: Any, numbers: dict[str, int], side: Side, name: str) -> int:
    """A class number, given as such or as the name of one of the map's classes."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        if str(text) in numbers:
            return numbers[str(text)]
    else:
        if value == int(value):
            return int(value)
    known = ", ".join(numbers) or "none: the map names no classes"
    raise InputError(
        f"{side.path}: {text!r} in {name!r} is neither a class number nor the name of a class of "
        f"the map ({known})."
    )


def _read_layer(side: Side, source: Any, name: str) -> tuple[NDArray[np.float64], list[Any]]:
    """Coordinates in the map's CRS (N, 2) and values of a layer of points."""
    shapes, values = read_shapes(side, source, name)
    return shapely.get_coordinates(shapes), values.tolist()


def _read_csv(side: Side, source: Any, name: str) -> tuple[NDArray[np.float64], list[Any]]:
    """Coordinates in the map's CRS (N, 2) and values of a table.

    Raises:
        InputError: it has no such columns, or no numbers in them.
    """
    try:
        with side.path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"The {side.what} {side.path} cannot be read: {error}") from error
    if not rows:
        raise InputError(f"{side.path} holds no points.")
    columns = {str(key).strip().lower(): key for key in rows[0] if key is not None}
    found = [p for p in (*_MAP_COLUMNS, *_WORLD_COLUMNS) if set(p) <= columns.keys()]
    if not found or name.lower() not in columns:
        raise InputError(
            f"{side.path} needs columns x and y (in the map's CRS) or lon and lat, and {name!r} "
            f"(--attribute); it has {', '.join(columns.values())}."
        )
    try:
        xs, ys = ([float(row[columns[key]]) for row in rows] for key in found[0])
    except (TypeError, ValueError) as error:
        raise InputError(f"{side.path}: a coordinate is no number ({error}).") from error
    if found[0] in _WORLD_COLUMNS:
        if source.crs is None:
            raise InputError(f"{side.path} holds longitudes and latitudes, but the map has no CRS.")
        xs, ys = transform("EPSG:4326", source.crs, xs, ys)
    return np.stack([xs, ys], axis=1), [row[columns[name.lower()]] for row in rows]
