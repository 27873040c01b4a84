"""From a dataset as published to the layout and tile size that training reads best."""

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from affine import Affine

from rsmamba_cli.datasets.catalogue import get_dataset
from rsmamba_cli.datasets.files import (
    SUFFIXES,
    Box,
    TileHeader,
    read_header,
    read_image,
    read_label,
    write_tile,
)
from rsmamba_cli.datasets.info import ROLES, DatasetInfo
from rsmamba_cli.datasets.layout import Layout, Tile, describe_tree, find_layout
from rsmamba_cli.errors import DatasetError, OutputError
from rsmamba_cli.events import EventHandler, Finished, Progress, Started, ignore_events

RECORD = "rsmamba-dataset.json"

_DEFAULT_TILE = {"whu": None, "massachusetts-roads": None, "levir-cd": 256, "whu-cd": 256}
_FOLDERS = {"levir-cd": ("A", "B", "label")}

STRIPS = "rsmamba-strips"
_STRIP_SHARES = (0.7, 0.1)
"""Train and validation; what is left is for the test."""

_PAIR_WORDS = {
    "t1": ("t1", "a", "before", "2012"),
    "t2": ("t2", "b", "after", "2016"),
    "label": ("label", "change_label", "change label", "change", "mask"),
}


@dataclass(frozen=True)
class PrepareReport:
    """What was made.

    Attributes:
        dest: the dataset's folder, ready for ``--data``.
        tiles: split -> number of tiles written.
        split: name of the split ("official", or that of a split of ours).
        notes: what a user should know.
    """

    dest: Path
    tiles: dict[str, int]
    split: str
    notes: list[str] = field(default_factory=list)


def prepare_dataset(
    name: str,
    source: Path | str,
    dest: Path | str,
    tile: int | None = None,
    on_event: EventHandler = ignore_events,
) -> PrepareReport:
    """Bring an unpacked dataset into the official layout, cut into tiles where that helps.

    Tiles do not overlap and nothing is dropped: the last row and column of tiles are smaller where
    the size is no multiple of ``tile``. Georeferenced sources give georeferenced tiles. The result
    appears under ``dest`` only when complete.

    Args:
        name: "whu", "whu-cd", "levir-cd" or "massachusetts-roads".
        source: the unpacked archive.
        dest: a folder that does not exist yet.
        tile: side of the tiles in pixels; None keeps WHU and Massachusetts as they are and cuts
            LEVIR-CD and WHU-CD to 256; 0 never cuts.
        on_event: told of every tile.

    Raises:
        DatasetError: the dataset needs no preparing, or ``source`` is not it.
        OutputError: ``dest`` exists or cannot be written.
    """
    info = get_dataset(name)
    if name not in _DEFAULT_TILE:
        raise DatasetError(
            f"{name} needs no preparing. Datasets that do: {', '.join(_DEFAULT_TILE)}."
        )
    source, dest = Path(source), Path(dest)
    if dest.exists():
        raise OutputError(f"{dest} exists already: name a folder that does not, or remove it.")
    side = _DEFAULT_TILE[name] if tile is None else (tile or None)
    if side is not None and side < 32:
        raise DatasetError(f"Tiles of {side} pixels are too small; the least is 32.")
    split_name = "official"
    try:
        layout = find_layout(source, info)
    except DatasetError:
        if name != "whu-cd":
            raise
        layout, side, split_name = _whole_pair(source, info), side or 256, STRIPS
    work = dest.with_name(dest.name + ".partial")
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        counts = _write_all(layout, info, work, side, split_name, on_event)
        record = {
            "name": name,
            "split": split_name,
            "tile": side,
            "tiles": counts,
            "citation": info.citation,
            "licence": info.licence,
        }
        (work / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        work.replace(dest)
    except OSError as error:
        raise OutputError(f"{dest} cannot be written: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    notes = [f"split: {split_name}"]
    if side is None or side == info.tile:
        for split, count in counts.items():
            if info.splits.get(split) not in (None, count):
                notes.append(f"{split}: {count} tiles; the official split has {info.splits[split]}")
    return PrepareReport(dest, counts, split_name, notes)


def _write_all(
    layout: Layout,
    info: DatasetInfo,
    work: Path,
    side: int | None,
    split_name: str,
    on_event: EventHandler,
) -> dict[str, int]:
    """Copy or cut every tile; returns how many were written for each split."""
    folders = _FOLDERS.get(info.name, ROLES[layout.task])
    jobs = [(split, tile) for split, tiles in layout.splits.items() for tile in tiles]
    stage = f"prepare {info.name}"
    on_event(Started(stage, len(jobs), "image"))
    counts: dict[str, int] = {}
    for split, tile in jobs:
        header = read_header(tile.images[0])
        boxes: list[tuple[str, Box]]
        if split_name == STRIPS:
            boxes = list(strip_boxes(header.height, header.width, side or 256))
        else:
            boxes = [(split, box) for box in tile_boxes(header.height, header.width, side)]
        for target, box in boxes:
            suffix = f"_{box[0]:05d}_{box[1]:05d}" if len(boxes) > 1 else ""
            paths = [work / target / folder / (tile.stem + suffix) for folder in folders]
            _write_tile(tile, header, box, paths, whole=len(boxes) == 1)
            counts[target] = counts.get(target, 0) + 1
        on_event(Progress(stage))
    on_event(Finished(stage, ", ".join(f"{n} {s}" for s, n in counts.items())))
    return counts


def _write_tile(tile: Tile, header: TileHeader, box: Box, paths: list[Path], whole: bool) -> None:
    """Write one tile: the files themselves if all of them is meant, else the part in ``box``."""
    files = (*tile.images, tile.label)
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
    if whole:
        for file, path in zip(files, paths, strict=True):
            shutil.copyfile(file, path.with_name(path.name + file.suffix.lower()))
        return
    row, column, height, width = box
    transform = header.transform
    if transform is not None:
        transform = transform @ Affine.translation(column, row)
    like = TileHeader(height, width, header.bands, header.dtype, header.crs, transform)
    for file, path in zip(tile.images, paths[:-1], strict=True):
        write_tile(path, read_image(file, box=box)[0], like)
    label = read_label(tile.label, box)
    write_tile(paths[-1], np.where(label != 0, 255, 0).astype(np.uint8), like)


def tile_boxes(height: int, width: int, side: int | None) -> Iterator[Box]:
    """Cut a raster into boxes of at most ``side`` pixels: each pixel in exactly one."""
    if side is None:
        yield (0, 0, height, width)
        return
    for row in range(0, height, side):
        for column in range(0, width, side):
            yield (row, column, min(side, height - row), min(side, width - column))


def strip_boxes(height: int, width: int, side: int) -> Iterator[tuple[str, Box]]:
    """Cut a raster into tiles and give each to a split by its column, west to east.

    Neighbouring tiles look alike, so that a random split would leak; here train and test touch
    along two lines only.

    Raises:
        DatasetError: the raster is too narrow for three splits.
    """
    columns = math.ceil(width / side)
    if columns < 3:
        raise DatasetError(
            f"A raster {width} pixels wide has {columns} tiles of {side} in a row: too few for "
            "train, val and test."
        )
    train = max(1, min(columns - 2, round(_STRIP_SHARES[0] * columns)))
    val = max(1, min(columns - train - 1, round(_STRIP_SHARES[1] * columns)))
    for box in tile_boxes(height, width, side):
        place = box[1] // side
        split = "train" if place < train else "val" if place < train + val else "test"
        yield split, box


def _whole_pair(source: Path, info: DatasetInfo) -> Layout:
    """Find the one big pair of WHU-CD and its change mask below ``source``.

    A raster's role is told by the innermost part of its path that names one.

    Raises:
        DatasetError: not exactly one raster for each role, or their sizes differ.
    """
    found: dict[str, list[Path]] = {role: [] for role in _PAIR_WORDS}
    paths = sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    for path in paths:
        parts = path.relative_to(source).with_suffix("").parts
        for part in reversed(parts):
            role = next((r for r, words in _PAIR_WORDS.items() if part.lower() in words), None)
            if role:
                found[role].append(path)
                break
    counts = {role: len(files) for role, files in found.items()}
    if any(count != 1 for count in counts.values()):
        listed = "; ".join(
            f"{role}: {', '.join(str(p.relative_to(source)) for p in files[:3]) or 'none'}"
            for role, files in found.items()
        )
        raise DatasetError(
            f"{info.title}: one raster of each date and one change mask were expected below "
            f"{source}; found {listed} (of {describe_tree(source)}).\n"
            "Put the three into one folder as t1.tif, t2.tif and label.tif and name that folder.\n"
            f"Get them from: {info.source}"
        )
    t1, t2, label = (found[role][0] for role in ROLES["change"])
    sizes = {p.name: (h.width, h.height) for p in (t1, t2, label) for h in [read_header(p)]}
    if len(set(sizes.values())) != 1:
        raise DatasetError(f"{info.title}: the three rasters differ in size: {sizes}.")
    return Layout(source, "change", ("t1", "t2"), {"whole": (Tile("whu", (t1, t2), label),)})
