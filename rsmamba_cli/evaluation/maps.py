"""Maps measured against other rasters, outlines or points, on the maps' grids."""

import math
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rsmamba_cli.errors import InputError
from rsmamba_cli.evaluation.bootstrap import (
    ROUNDS,
    Figures,
    interval,
    mcnemar,
    remark_on,
    resampled,
)
from rsmamba_cli.evaluation.compare import differences
from rsmamba_cli.evaluation.ledger import object_figures
from rsmamba_cli.evaluation.map_counts import STAGE, Question, count_maps
from rsmamba_cli.evaluation.map_pictures import map_pictures
from rsmamba_cli.evaluation.map_values import confusions, understand
from rsmamba_cli.evaluation.metrics import Counts, Floats, margins_of, summarise, summarise_margins
from rsmamba_cli.evaluation.objects import object_counts
from rsmamba_cli.evaluation.results import Comparison, Difference, EvalResult
from rsmamba_cli.events import EventHandler, Finished, Started, ignore_events


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
    scenes: str | None = None,
    pictures: int = 0,
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
        scenes: a regular expression that finds the scene in a file's name: intervals then resample
            scenes.
        pictures: how many of the worst and how many random blocks to paint.

    Raises:
        InputError: a file cannot be read or is no class raster, the two do not overlap, one has
            a georeference and the other has none, or names do not pair.
    """
    started = time.monotonic()
    on_event(Started(STAGE, None, "band"))
    asked = Question(
        (Path(prediction),),
        Path(truth),
        None if aoi is None else Path(aoi),
        positive,
        ignore,
        attribute,
        objects,
        scenes,
    )
    counted = count_maps(asked, ("prediction", "truth"), on_event)
    meaning = understand(counted, positive, ignore)
    each = confusions(counted, meaning, 0)
    classes, confusion = meaning.classes, each.sum(axis=0)
    metrics = summarise(confusion, classes)
    if math.isnan(metrics["f1"]):
        meaning.notes.append("the positive class occurs in neither map: its figures are undefined")
    intervals = {}
    if len(each) > 1 and rounds:
        figures = _figures(classes)
        (found,) = resampled((_table(each),), figures, rounds, seed)
        intervals = {name: interval(values) for name, values in found.items()}
    if objects:
        metrics |= _object_figures(counted.found[0], counted.right[0], classes)
    worst, random = map_pictures(asked, counted, meaning, pictures, seed)
    meaning.notes.extend(remark_on(len(each), rounds))
    pixels = int(confusion.sum())
    on_event(Finished(STAGE, f"{pixels} pixels"))
    return EvalResult(
        confusion,
        classes,
        metrics,
        meaning.notes,
        pixels=pixels,
        tiles=len(counted.paths),
        seconds=time.monotonic() - started,
        units=len(each),
        intervals=intervals,
        worst=worst,
        random=random,
    )


def compare_maps(
    first: Path | str,
    second: Path | str,
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
    scenes: str | None = None,
) -> Comparison:
    """Measure two maps against one truth and test their difference.

    Pixels count where both maps and the truth have data, on the grid of the first map; the second
    is warped to it where it lies on another (nearest neighbour). Blocks of 512 pixels, points or
    scenes are resampled for both at once.

    Args:
        first: a map, or a folder of maps.
        second: another, or a folder with maps of the same names.
        truth: as for `evaluate_map`, like all that follows.
        aoi: see there.
        positive: see there.
        ignore: see there.
        attribute: see there.
        on_event: see there.
        objects: see there; those found by one only are tested as well.
        rounds: see there.
        seed: see there.
        scenes: see there.

    Raises:
        InputError: as `evaluate_map`.
    """
    started = time.monotonic()
    on_event(Started(STAGE, None, "band"))
    asked = Question(
        (Path(first), Path(second)),
        Path(truth),
        None if aoi is None else Path(aoi),
        positive,
        ignore,
        attribute,
        objects,
        scenes,
    )
    counted = count_maps(asked, ("first map", "second map", "truth"), on_event)
    meaning = understand(counted, positive, ignore)
    tables = [_table(confusions(counted, meaning, number)) for number in (0, 1)]
    found = differences((tables[0], tables[1]), _figures(meaning.classes), rounds, seed)
    only = [0, 0]
    for unit in counted.units:
        for (true, *guesses), pixels in unit.items():
            right = [meaning.place[g] == meaning.place[true] for g in guesses]
            if right[0] != right[1]:
                only[right[1]] += pixels
    objects_only = None
    if objects:
        pair = [
            _object_figures(*each, meaning.classes)
            for each in zip(counted.found, counted.right, strict=True)
        ]
        for name in pair[0]:
            # Objects cross the borders of blocks: there is nothing to resample.
            found[name] = Difference(pair[0][name], pair[1][name], *(math.nan,) * 3)
        a, b = counted.found
        objects_only = (int((a & ~b).sum()), int((b & ~a).sum()))
    on_event(Finished(STAGE, f"{len(tables[0])} units"))
    return Comparison(
        first=str(first),
        second=str(second),
        differences=found,
        units=len(tables[0]),
        pixels_only=(only[0], only[1]),
        pixels_p=mcnemar(*only),
        objects_only=objects_only,
        objects_p=math.nan if objects_only is None else mcnemar(*objects_only),
        notes=[*meaning.notes, *remark_on(len(tables[0]), rounds)],
        seconds=time.monotonic() - started,
    )


def _table(each: Counts) -> Floats:
    """The margins of every unit's confusion, float64 (U, 3 K)."""
    return np.stack([margins_of(matrix).ravel() for matrix in each])


def _figures(classes: tuple[str, ...]) -> Figures:
    """Makes every figure of sums of rows of `_table`."""

    def figures(counts: Floats) -> dict[str, Floats]:
        return summarise_margins(counts.reshape(*counts.shape[:-1], 3, -1), classes)

    return figures


def _object_figures(
    found: NDArray[np.bool_], right: NDArray[np.bool_], classes: tuple[str, ...]
) -> dict[str, float]:
    """Precision, recall and F1 of objects.

    Raises:
        InputError: there are more than two classes.
    """
    if len(classes) != 2:
        raise InputError("Objects are those of one class: name it (--positive V).")
    figures = object_figures(object_counts(found, right).astype(np.float64))
    return {name: float(value) for name, value in figures.items()}
