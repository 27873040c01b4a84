"""Maps measured against other rasters, outlines or points, on the maps' grids."""

import math
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from rsmamba_cli.datasets.files import list_images
from rsmamba_cli.errors import DatasetError, InputError
from rsmamba_cli.evaluation.bootstrap import ROUNDS, interval, resampled
from rsmamba_cli.evaluation.ledger import object_figures
from rsmamba_cli.evaluation.map_objects import map_objects
from rsmamba_cli.evaluation.map_points import compare_points, holds_points
from rsmamba_cli.evaluation.map_sides import (
    Reader,
    Side,
    Values,
    describe,
    open_raster,
    raster_reader,
    truth_reader,
    vector_reader,
)
from rsmamba_cli.evaluation.metrics import Floats, margins_of, summarise, summarise_margins
from rsmamba_cli.evaluation.results import EvalResult
from rsmamba_cli.events import EventHandler, Finished, Progress, Started, ignore_events

_BLOCK = 512
"""Side of the blocks of a map that intervals resample."""

_MOST_VALUES = 255

Pairs = Counter[tuple[int, int]]
"""(true value, predicted value) -> pixels."""


def evaluate_map(
    prediction: Path | str,
    truth: Path | str,
    aoi: Path | str | None = None,
    positive: int | None = None,
    ignore: tuple[int, ...] = (),
    attribute: str | None = None,
    on_event: EventHandler = ignore_events,
    *,
    objects: bool = False,
    rounds: int = ROUNDS,
    seed: int = 0,
) -> EvalResult:
    """Measure class rasters against the truth, on their grids.

    A truth raster on another grid is warped (nearest neighbour); outlines are rasterised (pixel
    centres); at points the map is read where they lie. Pixels count where both have data and, with
    ``aoi``, inside it. What a file declares as no data is left out and said so. Files that hold 0
    and 255 only, without a declaration, are binary masks: 255 is the positive class. Intervals
    resample blocks of 512 pixels, or points.

    Args:
        prediction: a one-band raster of class numbers, or a folder of such.
        truth: a raster of class numbers; outlines or points in any format that GDAL reads; a CSV of
            points with columns x and y (in the map's CRS) or lon and lat. With a folder of
            predictions, a folder of rasters with the same names, or one file for all.
        aoi: outlines; only what lies inside counts.
        positive: compare this class with all others; None compares all classes, or the positive
            class of two masks.
        ignore: values that do not count, in either.
        attribute: of outlines or points, which holds the class number; None burns 1, and reads the
            column "class" of points.
        on_event: told of every band of rows.
        objects: match the objects of the positive class too. Outlines are taken as they are.
        rounds: of resampling; 0 for no intervals.
        seed: of the resampling.

    Raises:
        InputError: a file cannot be read or is no class raster, the two do not overlap, one has
            a georeference and the other has none, or names do not pair.
    """
    started = time.monotonic()
    paired = _paired(Path(prediction), Path(truth))
    units: list[Pairs] = []
    left_out: Counter[str] = Counter()
    matched = np.zeros(3, np.int64)
    ours, theirs = Side("prediction", paired[0][0]), Side("truth", paired[0][1])
    stage = "compare"
    on_event(Started(stage, None, "band"))
    with warnings.catch_warnings():
        # Plain images have no georeference, which is no reason to warn.
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        for one, other in paired:
            ours, theirs = replace(ours, path=one), replace(theirs, path=other)
            with ExitStack() as stack:
                source = stack.enter_context(open_raster(ours))
                describe(ours, source)
                area = None if aoi is None else Side("area", Path(aoi))
                if holds_points(other):
                    if objects:
                        raise InputError(f"{other} holds points: there are no objects to match.")
                    units += compare_points(ours, theirs, source, attribute, area, ignore, left_out)
                    continue
                inside = None if area is None else vector_reader(area, source, None)
                reader = truth_reader(theirs, source, attribute, stack)
                own = raster_reader(ours, source)
                units += _compare(own, reader, inside, source, ignore, left_out, on_event)
                if objects:
                    matched += map_objects(own, reader, inside, theirs, source, positive)
    units = [unit for unit in units if unit]
    total = sum(sum(unit.values()) for unit in units)
    if not total:
        raise InputError(
            f"{prediction} and {truth} have no pixel in common that counts: they may not overlap, "
            "or all of it is no data, ignored or outside the area."
        )
    result = _result(units, ours, theirs, left_out, positive, ignore, (rounds, seed))
    if objects:
        if len(result.class_names) != 2:
            raise InputError("Objects are those of one class: name it (--positive V).")
        found = object_figures(matched.astype(np.float64))
        result.metrics.update({name: float(value) for name, value in found.items()})
    on_event(Finished(stage, f"{total} pixels"))
    return replace(result, tiles=len(paired), seconds=time.monotonic() - started)


def _paired(prediction: Path, truth: Path) -> list[tuple[Path, Path]]:
    """The files to compare, paired by stem where there are several.

    Raises:
        InputError: a folder is empty, or a prediction has no truth.
    """
    if not prediction.is_dir():
        return [(prediction, truth)]
    try:
        maps = list_images(prediction)
        wanted = list_images(truth) if truth.is_dir() else dict.fromkeys(maps, truth)
    except DatasetError as error:
        raise InputError(str(error)) from error
    maps = {stem: path for stem, path in maps.items() if not stem.endswith("_painted")}
    if not maps:
        raise InputError(f"{prediction} holds no rasters.")
    if missing := sorted(maps.keys() - wanted.keys()):
        shown = ", ".join(missing[:5])
        raise InputError(f"{truth} holds no truth for {len(missing)} of the maps: {shown}.")
    return [(path, wanted[stem]) for stem, path in maps.items()]


def _compare(
    own: Reader,
    other: Reader,
    inside: Reader | None,
    source: Any,
    ignore: tuple[int, ...],
    left_out: Counter[str],
    on_event: EventHandler,
) -> list[Pairs]:
    """Count pairs of values in every block of a map."""
    units: list[Pairs] = []
    for window in _bands(source.height, source.width):
        guess, guessed = own(window)
        true, known = other(window)
        wanted = np.ones(guess.shape, bool) if inside is None else inside(window)[0] > 0
        dropped = np.isin(guess, ignore) | np.isin(true, ignore)
        left_out["prediction"] += int((wanted & ~guessed).sum())
        left_out["truth"] += int((wanted & guessed & ~known).sum())
        left_out["area"] += int((~wanted).sum())
        left_out["ignore"] += int((wanted & guessed & known & dropped).sum())
        keep = wanted & guessed & known & ~dropped
        for left in range(0, source.width, _BLOCK):
            block = np.s_[:, left : left + _BLOCK]
            chosen = keep[block]
            pairs: Pairs = Counter()
            _count(pairs, true[block][chosen], guess[block][chosen])
            units.append(pairs)
        on_event(Progress("compare"))
    return units


def _bands(height: int, width: int) -> Iterator[Window]:
    """Full-width bands of rows, few enough for any width to fit in memory."""
    rows = max(1, min(_BLOCK, (64 << 20) // (8 * width)))
    for row in range(0, height, rows):
        yield Window(0, row, width, min(rows, height - row))


def _count(pairs: Pairs, true: Values, guess: Values) -> None:
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
    units: Sequence[Pairs],
    ours: Side,
    theirs: Side,
    left_out: Counter[str],
    positive: int | None,
    ignore: tuple[int, ...],
    draws: tuple[int, int],
) -> EvalResult:
    """Understand the values of both sides and make the figures; ``draws``: rounds and seed."""
    pairs = sum(units, Counter())
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
    each = np.zeros((len(units), len(classes), len(classes)), np.int64)
    for matrix, counted in zip(each, units, strict=True):
        for (t, g), n in counted.items():
            matrix[index[0][t], index[1][g]] += n
    confusion = each.sum(axis=0)
    metrics = summarise(confusion, classes)
    if math.isnan(metrics["f1"]):
        notes.append("the positive class occurs in neither map: its figures are undefined")
    rounds, seed = draws
    intervals = {}
    if len(units) > 1 and rounds:
        table = np.stack([margins_of(matrix).ravel() for matrix in each])

        def figures(counts: Floats) -> dict[str, Floats]:
            return summarise_margins(counts.reshape(*counts.shape[:-1], 3, -1), classes)

        (found,) = resampled((table,), figures, rounds, seed)
        intervals = {name: interval(values) for name, values in found.items()}
    return EvalResult(
        confusion,
        tuple(classes),
        metrics,
        list(dict.fromkeys(notes)),
        pixels=sum(pairs.values()),
        units=len(units),
        intervals=intervals,
    )
