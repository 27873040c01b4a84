"""Maps and their truth counted value by value, in every block or at every point."""

import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from rsmamba_cli.datasets.files import list_images
from rsmamba_cli.errors import DatasetError, InputError
from rsmamba_cli.evaluation.ledger import scene_names
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
from rsmamba_cli.events import EventHandler, Progress

BLOCK = 512
"""Side of the blocks of a map that intervals resample."""

STAGE = "compare"

_MOST_VALUES = 255

Joint = Counter[tuple[int, ...]]
"""(true value, value of each map) -> pixels."""


@dataclass(frozen=True)
class Question:
    """What is compared with what.

    Attributes:
        maps: a one-band raster of class numbers each, or a folder of such each.
        truth: a raster, outlines or points; or a folder of rasters.
        aoi: outlines; only what lies inside counts.
        positive: the class that is compared with all others, or None.
        ignore: values that do not count, in any of them.
        attribute: of outlines or points, which holds the class number.
        objects: match the objects of the positive class too.
        scenes: a regular expression; files in whose names it finds the same are one unit.
    """

    maps: tuple[Path, ...]
    truth: Path
    aoi: Path | None = None
    positive: int | None = None
    ignore: tuple[int, ...] = ()
    attribute: str | None = None
    objects: bool = False
    scenes: str | None = None


@dataclass
class Counted:
    """What was counted.

    Attributes:
        sides: the maps, and the truth at the end, as the last file of each is understood.
        units: joint counts of every block, point or scene that has a pixel.
        files: how many of each were compared.
        left_out: side, "area" or "ignore" -> pixels that did not count.
        found: for each map, which of the true objects it has.
        right: for each map, which of its objects are some.
        seen: all values.
    """

    sides: list[Side]
    units: list[Joint] = field(default_factory=list)
    files: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    found: list[NDArray[np.bool_]] = field(default_factory=list)
    right: list[NDArray[np.bool_]] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)

    def values(self, place: int) -> set[int]:
        """The values of one side that count; 0 is the truth, 1 the first map."""
        return {key[place] for unit in self.units for key in unit}


def count_maps(asked: Question, names: Sequence[str], on_event: EventHandler) -> Counted:
    """Count the joint values of maps and their truth, on the grids of the first map.

    Args:
        asked: what to compare.
        names: what messages call the maps, and the truth at the end.
        on_event: told of every band of rows.

    Raises:
        InputError: as `evaluate_map`.
    """
    paired = _paired(asked, names)
    counted = Counted([Side(n, p) for n, p in zip(names, paired[0], strict=True)])
    counted.files = len(paired)
    units: list[Joint] = []
    stems: list[str] = []
    objects: list[list[tuple[Any, Any]]] = [[] for _ in asked.maps]
    with warnings.catch_warnings():
        # Plain images have no georeference, which is no reason to warn.
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        for paths in paired:
            for side, path in zip(counted.sides, paths, strict=True):
                side.path = path
            units += _count_files(asked, counted, objects, on_event)
            stems += [paths[0].stem] * (len(units) - len(stems))
    if asked.scenes is not None:
        merged: dict[str, Joint] = {}
        for name, unit in zip(scene_names(stems, asked.scenes), units, strict=True):
            merged.setdefault(name, Counter()).update(unit)
        units = list(merged.values())
    counted.units = [unit for unit in units if unit]
    if not counted.units:
        shown = " and ".join(str(p) for p in (*asked.maps, asked.truth))
        raise InputError(
            f"{shown} have no pixel in common that counts: they may not overlap, "
            "or all of it is no data, ignored or outside the area."
        )
    if asked.objects:
        counted.found = [np.concatenate([f for f, _ in pairs]) for pairs in objects]
        counted.right = [np.concatenate([r for _, r in pairs]) for pairs in objects]
    return counted


def _paired(asked: Question, names: Sequence[str]) -> list[tuple[Path, ...]]:
    """The files to compare, paired by stem where there are several.

    Raises:
        InputError: a folder is empty, or a file of the first has no partner.
    """
    first, *rest = (*asked.maps, asked.truth)
    if not first.is_dir():
        return [(first, *rest)]
    try:
        listed = [list_images(p) if p.is_dir() else None for p in (first, *rest)]
    except DatasetError as error:
        raise InputError(str(error)) from error
    stems = [stem for stem in listed[0] or {} if not stem.endswith("_painted")]
    if not stems:
        raise InputError(f"{first} holds no rasters.")
    out = []
    for path, files, name in zip((first, *rest), listed, names, strict=True):
        # One truth may serve all maps; a single second map cannot.
        if files is None and name != names[-1]:
            raise InputError(f"{first} is a folder of maps, {path} is not.")
        missing = sorted(set(stems) - files.keys()) if files is not None else []
        if missing:
            shown = ", ".join(missing[:5])
            raise InputError(f"{path} holds no {name} for {len(missing)} of the maps: {shown}.")
        out.append([path if files is None else files[stem] for stem in stems])
    return list(zip(*out, strict=True))


def _count_files(
    asked: Question,
    counted: Counted,
    objects: list[list[tuple[Any, Any]]],
    on_event: EventHandler,
) -> list[Joint]:
    """Count one file of each side, in blocks or at points."""
    *maps, truth = counted.sides
    with ExitStack() as stack:
        source = stack.enter_context(open_raster(maps[0]))
        describe(maps[0], source)
        area = None if asked.aoi is None else Side("area", asked.aoi)
        readers = [raster_reader(maps[0], source)]
        readers += [truth_reader(side, source, None, stack) for side in maps[1:]]
        if holds_points(truth.path):
            if asked.objects:
                raise InputError(f"{truth.path} holds points: there are no objects to match.")
            return compare_points(
                list(zip(maps, readers, strict=True)),
                truth,
                source,
                asked.attribute,
                area,
                asked.ignore,
                counted.left_out,
            )
        inside = None if area is None else vector_reader(area, source, None)
        true = truth_reader(truth, source, asked.attribute, stack)
        if asked.objects:
            for pairs, own in zip(objects, readers, strict=True):
                pairs.append(map_objects(own, true, inside, truth, source, asked.positive))
        return _count_blocks(counted, [*readers, true], inside, source, asked.ignore, on_event)


def _count_blocks(
    counted: Counted,
    readers: Sequence[Reader],
    inside: Reader | None,
    source: Any,
    ignore: tuple[int, ...],
    on_event: EventHandler,
) -> list[Joint]:
    """Joint counts of every block of a map; the truth's reader comes last."""
    units: list[Joint] = []
    left_out = counted.left_out
    for window in _bands(source.height, source.width):
        read = [reader(window) for reader in readers]
        shape = read[0][0].shape
        keep = np.ones(shape, bool) if inside is None else inside(window)[0] > 0
        left_out["area"] += int((~keep).sum())
        for side, (_, known) in zip(counted.sides, read, strict=True):
            left_out[side.what] += int((keep & ~known).sum())
            keep &= known
        dropped = np.any([np.isin(values, ignore) for values, _ in read], axis=0)
        left_out["ignore"] += int((keep & dropped).sum())
        keep &= ~dropped
        ordered = [read[-1][0], *(values for values, _ in read[:-1])]
        for left in range(0, source.width, BLOCK):
            block = np.s_[:, left : left + BLOCK]
            units.append(_count([values[block][keep[block]] for values in ordered]))
            counted.seen.update(*units[-1])
            if len(counted.seen) > _MOST_VALUES:
                raise InputError(
                    f"The maps hold more than {_MOST_VALUES} different values: they are no class "
                    "rasters."
                )
        on_event(Progress(STAGE))
    return units


def _bands(height: int, width: int) -> Iterator[Window]:
    """Full-width bands of rows, few enough for any width to fit in memory."""
    rows = max(1, min(BLOCK, (64 << 20) // (8 * width)))
    for row in range(0, height, rows):
        yield Window(0, row, width, min(rows, height - row))


def _count(values: Sequence[Values]) -> Joint:
    """The joint count of values, the true one first."""
    if not values[0].size:
        return Counter()
    found, counts = np.unique(np.stack(values), axis=1, return_counts=True)
    keys = map(tuple, found.T.tolist())
    return Counter(dict(zip(keys, counts.tolist(), strict=True)))
