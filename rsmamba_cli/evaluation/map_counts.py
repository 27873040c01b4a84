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


@dataclass(frozen=True)
class Block:
    """A part of a map, where it has a truth of any pixel.

    Attributes:
        file: number of the map among its likes.
        window: its place.
        joint: what was counted there.
    """

    file: int
    window: Window
    joint: Joint


@dataclass
class Counted:
    """What was counted.

    Attributes:
        sides: the maps, and the truth at the end, as the last file of each is understood.
        units: joint counts of every block, point or scene that has a pixel.
        paths: the files of each, in the order of the sides.
        blocks: of the maps, where they were compared in blocks.
        left_out: side, "area" or "ignore" -> pixels that did not count.
        found: for each map, which of the true objects it has.
        right: for each map, which of its objects are some.
        seen: all values.
    """

    sides: list[Side]
    units: list[Joint] = field(default_factory=list)
    paths: list[tuple[Path, ...]] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
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
    counted.paths = paired
    units: list[Joint] = []
    stems: list[str] = []
    objects: list[list[tuple[Any, Any]]] = [[] for _ in asked.maps]
    with warnings.catch_warnings():
        # Plain images have no georeference, which is no reason to warn.
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        for number, paths in enumerate(paired):
            for side, path in zip(counted.sides, paths, strict=True):
                side.path = path
            units += _count_files(asked, counted, number, objects, on_event)
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
    number: int,
    objects: list[list[tuple[Any, Any]]],
    on_event: EventHandler,
) -> list[Joint]:
    """Count one file of each side, in blocks or at points."""
    *maps, truth = counted.sides
    with ExitStack() as stack:
        source, readers = open_maps(maps, stack)
        area = None if asked.aoi is None else Side("area", asked.aoi)
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
        readers.append(truth_reader(truth, source, asked.attribute, stack))
        inside = None if area is None else vector_reader(area, source, None)
        if asked.objects:
            for pairs, own in zip(objects, readers[:-1], strict=True):
                pairs.append(map_objects(own, readers[-1], inside, truth, source, asked.positive))
        blocks: list[Block] = []
        for window in _bands(source.height, source.width):
            values, keep = read_window(counted, readers, inside, window, asked.ignore)
            blocks += _count_blocks(counted, number, window, values, keep)
            on_event(Progress(STAGE))
        counted.blocks += blocks
        return [block.joint for block in blocks]


def open_maps(maps: Sequence[Side], stack: ExitStack) -> tuple[Any, list[Reader]]:
    """Open maps to be read on the grid of the first; returns its raster and their readers."""
    source = stack.enter_context(open_raster(maps[0]))
    describe(maps[0], source)
    readers = [raster_reader(maps[0], source)]
    return source, readers + [truth_reader(side, source, None, stack) for side in maps[1:]]


def read_window(
    counted: Counted,
    readers: Sequence[Reader],
    inside: Reader | None,
    window: Window,
    ignore: tuple[int, ...],
) -> tuple[list[Values], NDArray[np.bool_]]:
    """The values of a window, the true ones first, and where they count.

    Args:
        counted: what does not count is added up here.
        readers: of the sides, the truth's last.
        inside: the area, or None.
        window: of the first map.
        ignore: values that do not count.
    """
    read = [reader(window) for reader in readers]
    left_out = counted.left_out
    keep = np.ones(read[0][0].shape, bool) if inside is None else inside(window)[0] > 0
    left_out["area"] += int((~keep).sum())
    for side, (_, known) in zip(counted.sides, read, strict=True):
        left_out[side.what] += int((keep & ~known).sum())
        keep &= known
    dropped = np.any([np.isin(values, ignore) for values, _ in read], axis=0)
    left_out["ignore"] += int((keep & dropped).sum())
    return [read[-1][0], *(values for values, _ in read[:-1])], keep & ~dropped


def _count_blocks(
    counted: Counted,
    number: int,
    window: Window,
    values: Sequence[Values],
    keep: NDArray[np.bool_],
) -> list[Block]:
    """The blocks of a band of rows."""
    blocks: list[Block] = []
    for left in range(0, window.width, BLOCK):
        part = np.s_[:, left : left + BLOCK]
        joint = _count([array[part][keep[part]] for array in values])
        width = min(BLOCK, window.width - left)
        place = Window(left, window.row_off, width, window.height)
        blocks.append(Block(number, place, joint))
        counted.seen.update(*joint)
        if len(counted.seen) > _MOST_VALUES:
            raise InputError(
                f"The maps hold more than {_MOST_VALUES} different values: they are no class "
                "rasters."
            )
    return blocks


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
