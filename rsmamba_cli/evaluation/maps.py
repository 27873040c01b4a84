"""One map measured against another raster or against outlines, on the map's grid."""

import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
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
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.features import rasterize
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_geom
from rasterio.windows import Window
from rasterio.windows import transform as window_transform

from rsmamba_cli.errors import InputError
from rsmamba_cli.evaluation.metrics import summarise
from rsmamba_cli.evaluation.results import EvalResult
from rsmamba_cli.events import EventHandler, Finished, Progress, Started, ignore_events

_ROWS = 1024
_MOST_VALUES = 255

Values = NDArray[np.int64]
Reader = Callable[[Window], tuple[Values, NDArray[np.bool_]]]
"""A window of the prediction's grid -> class values and where they are known, (h, w)."""


@dataclass
class _Side:
    """What is known of the prediction or the truth before and after reading it."""

    what: str
    path: Path
    notes: list[str] = field(default_factory=list)
    nodata: float | None = None
    names: dict[int, str] = field(default_factory=dict)


def evaluate_map(
    prediction: Path | str,
    truth: Path | str,
    aoi: Path | str | None = None,
    positive: int | None = None,
    ignore: tuple[int, ...] = (),
    attribute: str | None = None,
    on_event: EventHandler = ignore_events,
) -> EvalResult:
    """Measure a class raster against the truth, pixel by pixel, on the prediction's grid.

    A truth raster on another grid is warped (nearest neighbour); outlines are rasterised (pixel
    centres). Pixels count where both have data and, with ``aoi``, inside it. What a file declares
    as no data is left out and said so. Files that hold 0 and 255 only, without a declaration, are
    binary masks: 255 is the positive class.

    Args:
        prediction: a one-band raster of class numbers.
        truth: a raster of class numbers, or outlines in any format that GDAL reads.
        aoi: outlines; only what lies inside counts.
        positive: compare this class with all others; None compares all classes, or the positive
            class of two masks.
        ignore: values that do not count, in either.
        attribute: of the outlines, which holds the class number; None burns 1.
        on_event: told of every band of rows.

    Raises:
        InputError: a file cannot be read or is no class raster, the two do not overlap, or one has
            a georeference and the other has none.
    """
    started = time.monotonic()
    ours = _Side("prediction", Path(prediction))
    theirs = _Side("truth", Path(truth))
    pairs: Counter[tuple[int, int]] = Counter()
    left_out: Counter[str] = Counter()
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        # Plain images have no georeference, which is no reason to warn.
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        source = stack.enter_context(_open(ours))
        _describe(ours, source)
        own = _raster_reader(ours, source)
        other = _truth_reader(theirs, source, attribute, stack)
        inside = None if aoi is None else _vector_reader(_Side("area", Path(aoi)), source, None)
        stage = "compare"
        bands = list(_bands(source.height, source.width))
        on_event(Started(stage, len(bands), "band"))
        for window in bands:
            guess, guessed = own(window)
            true, known = other(window)
            wanted = np.ones(guess.shape, bool) if inside is None else inside(window)[0] > 0
            dropped = np.isin(guess, ignore) | np.isin(true, ignore)
            left_out["prediction"] += int((wanted & ~guessed).sum())
            left_out["truth"] += int((wanted & guessed & ~known).sum())
            left_out["area"] += int((~wanted).sum())
            left_out["ignore"] += int((wanted & guessed & known & dropped).sum())
            keep = wanted & guessed & known & ~dropped
            _count(pairs, true[keep], guess[keep])
            on_event(Progress(stage))
    total = sum(pairs.values())
    if not total:
        raise InputError(
            f"{prediction} and {truth} have no pixel in common that counts: they may not overlap, "
            "or all of it is no data, ignored or outside the area."
        )
    on_event(Finished(stage, f"{total} pixels"))
    return _result(pairs, ours, theirs, left_out, positive, ignore, time.monotonic() - started)


def _open(side: _Side) -> Any:
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


def _describe(side: _Side, source: Any) -> None:
    """Take the declared no-data value and the class names of a raster."""
    side.nodata = source.nodata
    tags = {**source.tags(), **source.tags(1)}
    for key, name in tags.items():
        head, _, number = key.rpartition("_")
        if head.upper() in ("CLASS", "CLASS_NAME") and number.isdigit():
            side.names[int(number)] = name


def _raster_reader(side: _Side, source: Any) -> Reader:
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


def _truth_reader(side: _Side, grid: Any, field_name: str | None, stack: ExitStack) -> Reader:
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
        return _vector_reader(side, grid, field_name)
    source = stack.enter_context(_open(side))
    _describe(side, source)
    placed = [s.crs is not None or s.transform != Affine.identity() for s in (grid, source)]
    same_shape = source.shape == grid.shape
    if not any(placed) or (
        same_shape
        and source.crs == grid.crs
        and source.transform.almost_equals(grid.transform, 1e-9)
    ):
        if not same_shape:
            raise InputError(
                f"The prediction has {grid.width} x {grid.height} pixels, the truth {side.path} "
                f"{source.width} x {source.height}, and neither has a georeference."
            )
        return _raster_reader(side, source)
    if not all(placed) or source.crs is None or grid.crs is None:
        if same_shape:
            side.notes.append(
                "only one of prediction and truth has a georeference: compared pixel by pixel, "
                "because their sizes agree"
            )
            return _raster_reader(side, source)
        raise InputError(
            f"Only one of the prediction and the truth {side.path} has a full georeference, and "
            "their sizes differ: they cannot be laid over each other."
        )
    side.notes.append("the truth was warped to the prediction's grid (nearest neighbour)")
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
    return _raster_reader(side, warped)


def _vector_reader(side: _Side, grid: Any, field_name: str | None) -> Reader:
    """Read outlines and burn them into windows of the grid.

    Raises:
        InputError: they cannot be read, or cannot be brought on the grid.
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
    burn = values[0] if field_name else np.ones(len(shapes), np.int64)
    if not np.issubdtype(np.asarray(burn).dtype, np.number):
        raise InputError(f"The attribute {field_name!r} of {side.path} holds no class numbers.")
    if meta["crs"] and grid.crs:
        target = rasterio.crs.CRS.from_user_input(meta["crs"])
        if target != grid.crs:
            moved = transform_geom(target, grid.crs, [shapely.geometry.mapping(s) for s in shapes])
            shapes = np.array([shapely.geometry.shape(m) for m in moved])
    elif bool(meta["crs"]) != bool(grid.crs):
        side.notes.append(
            f"only one of the prediction and {side.path.name} names a CRS: their coordinates were "
            "taken to agree"
        )
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


def _bands(height: int, width: int) -> Iterator[Window]:
    """Full-width bands of rows, few enough for any width to fit in memory."""
    rows = max(1, min(_ROWS, (64 << 20) // (8 * width)))
    for row in range(0, height, rows):
        yield Window(0, row, width, min(rows, height - row))


def _count(pairs: Counter[tuple[int, int]], true: Values, guess: Values) -> None:
    """Add pixels to the joint count of true and predicted values."""
    if not true.size:
        return
    found, counts = np.unique(np.stack([true, guess]), axis=1, return_counts=True)
    for (t, g), n in zip(found.T.tolist(), counts.tolist(), strict=True):
        pairs[(t, g)] += n
    if len({t for t, _ in pairs} | {g for _, g in pairs}) > _MOST_VALUES:
        raise InputError(
            f"The maps hold more than {_MOST_VALUES} different values: they are no class rasters."
        )


def _result(
    pairs: Counter[tuple[int, int]],
    ours: _Side,
    theirs: _Side,
    left_out: Counter[str],
    positive: int | None,
    ignore: tuple[int, ...],
    seconds: float,
) -> EvalResult:
    """Understand the values of both sides and make the figures."""
    notes = [*ours.notes, *theirs.notes]
    sides = ((ours, {g for _, g in pairs}), (theirs, {t for t, _ in pairs}))
    for side, values in sides:
        count = left_out[side.what]
        if side.nodata is not None and count:
            shown = f"{side.nodata:g}"
            hint = ""
            if side.nodata == 255 and values <= {0}:
                hint = "; if 255 is its positive class, remove the declaration"
            notes.append(
                f"{side.what}: {shown} is declared as no data, {count} pixels left out{hint}"
            )
        elif count:
            notes.append(f"{side.what}: {count} pixels without data left out")
        if 255 in values and values <= {0, 255} and positive is None:
            notes.append(f"{side.what}: coded 0/255; 255 is the positive class, not ignored")
    if left_out["area"]:
        notes.append(f"{left_out['area']} pixels outside the area left out")
    if left_out["ignore"]:
        shown = ", ".join(map(str, ignore))
        notes.append(f"{left_out['ignore']} pixels with an ignored value ({shown}) left out")
    values = {v for pair in pairs for v in pair}
    classes: tuple[str, ...]
    if positive is not None:
        notes.append(f"class {positive} against all others")
        classes = (f"not {positive}", ours.names.get(positive, f"class {positive}"))
        place = {v: int(v == positive) for v in values}
        index = [place, place]
    elif 255 in values and values <= {0, 1, 255}:
        # One side may be coded 0/255 and the other 0/1: both mean the same.
        if any({1, 255} <= v for _, v in sides):
            raise InputError(
                "A map holds 0, 1 and 255, so that 255 could be a class or no data: name it as "
                "ignored (--ignore 255) or as the positive class (--positive 255)."
            )
        classes = (ours.names.get(0, "background"), ours.names.get(1, "foreground"))
        index = [{v: int(v != 0) for v in values}] * 2
    else:
        if 255 in values:
            notes.append("255 occurs beside other classes and is counted as a class")
        listed = sorted(values | ({0, 1} if values <= {0, 1} else set()))
        known = {**theirs.names, **ours.names}
        plain = {0: "background", 1: "foreground"} if listed == [0, 1] else {}
        classes = tuple(known.get(v, plain.get(v, f"class {v}")) for v in listed)
        if len(listed) == 1:
            listed.append(-1)
            classes = (*classes, "none")
        index = [{v: i for i, v in enumerate(listed)}] * 2
    confusion = np.zeros((len(classes), len(classes)), np.int64)
    for (t, g), n in pairs.items():
        confusion[index[0][t], index[1][g]] += n
    metrics = summarise(confusion, classes)
    if math.isnan(metrics["f1"]):
        notes.append("the positive class occurs in neither map: its figures are undefined")
    return EvalResult(confusion, tuple(classes), metrics, notes, sum(pairs.values()), 1, seconds)
