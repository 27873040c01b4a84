"""From a dataset as published to the layout and tile size that training reads best."""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from rsmamba_cli.datasets.archives import find_archives, unpack_all
from rsmamba_cli.datasets.catalogue import get_dataset
from rsmamba_cli.datasets.files import Box, TileHeader, read_header, read_image, write_tile
from rsmamba_cli.datasets.info import IGNORE, ROLES, DatasetInfo
from rsmamba_cli.datasets.labels import LabelCoding, official_coding
from rsmamba_cli.datasets.layout import Layout, Tile
from rsmamba_cli.datasets.published import STRIPS, find_published
from rsmamba_cli.errors import DatasetError, OutputError
from rsmamba_cli.events import EventHandler, Finished, Progress, Started, ignore_events
from rsmamba_cli.raster.opening import local_identity

RECORD = "rsmamba-dataset.json"

_UNPACKED = "_unpacked"
_PLAN = "_plan.json"
_JOURNAL = "_done.txt"
_STRIP_SHARES = (0.7, 0.1)
"""Train and validation; what is left is for the test."""

_BOXES = 64
"""Tiles that one job cuts."""


@dataclass(frozen=True)
class Cutting:
    """How the tiles of a dataset come about.

    Attributes:
        side: of a tile in pixels; None takes images as they are.
        step: from one tile to the next; None: ``side``, and smaller tiles at the end instead of
            ones that are shifted inwards.
        pad: fill up what is smaller, images with 0, labels as ignored.
        folders: of images and label, where the official ones are not ``SPLIT/ROLE``.
        name: of a tile, from the image's stem and the box.
    """

    side: int | None = None
    step: int | None = None
    pad: bool = False
    folders: tuple[str, ...] = ()
    name: Callable[[str, Box], str] = lambda stem, box: f"{stem}_{box[0]:05d}_{box[1]:05d}"


def _across_down(stem: str, box: Box) -> str:
    """The name of a chip as mmsegmentation's converters of ISPRS data write it."""
    row, col, height, width = box
    return f"{stem}_{col}_{row}_{col + width}_{row + height}"


def _down_across(stem: str, box: Box) -> str:
    """The name of a chip as mmsegmentation's converter of iSAID writes it."""
    row, col, height, width = box
    return f"{stem}_{row}_{row + height}_{col}_{col + width}"


_BY_ROLE = ("img_dir/{split}", "ann_dir/{split}")
_ISPRS = Cutting(512, 512, folders=_BY_ROLE, name=_across_down)
_CUTTINGS: Mapping[str, Cutting] = {
    "whu": Cutting(),
    "whu-cd": Cutting(256),
    "levir-cd": Cutting(256, folders=("{split}/A", "{split}/B", "{split}/label")),
    "massachusetts-roads": Cutting(),
    "loveda": Cutting(folders=_BY_ROLE),
    "potsdam": _ISPRS,
    "vaihingen": _ISPRS,
    "isaid": Cutting(896, 512, pad=True, folders=_BY_ROLE, name=_down_across),
    "whu-opt-sar": Cutting(256),
    "hunan": Cutting(),
    "ade20k": Cutting(folders=("images/{split}", "annotations/{split}")),
    "cityscapes": Cutting(folders=_BY_ROLE),
    "coco-stuff": Cutting(folders=_BY_ROLE),
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


@dataclass(frozen=True)
class _Job:
    """Some tiles of one image: each a box, the split that it goes to and whether it is all."""

    tile: Tile
    boxes: tuple[tuple[str, Box], ...]
    whole: bool

    @property
    def key(self) -> str:
        split, box = self.boxes[0]
        return f"{split} {self.tile.stem} {box[0]} {box[1]}"


def prepare_dataset(
    name: str,
    source: Path | str,
    dest: Path | str,
    tile: int | None = None,
    on_event: EventHandler = ignore_events,
    workers: int | None = None,
) -> PrepareReport:
    """Bring a dataset as published into the official layout, cut into tiles where that is usual.

    Archives are unpacked first. Georeferenced sources give georeferenced tiles. Tiles are written
    several at a time; an interrupted run goes on where it stopped when it is started again. The
    result appears under ``dest`` only when complete.

    Args:
        name: a dataset of the catalogue whose publication is not its layout.
        source: the archives or what they hold: a folder, or a single archive.
        dest: a folder that does not exist yet.
        tile: side of the tiles in pixels; None as the official layout has it; 0 never cuts.
        on_event: told of every tile.
        workers: tiles that are written at once; None: one a processor.

    Raises:
        DatasetError: the dataset needs no preparing, or ``source`` is not it.
        OutputError: ``dest`` exists or cannot be written.
    """
    info = get_dataset(name)
    if name not in _CUTTINGS:
        raise DatasetError(f"{name} needs no preparing. Datasets that do: {', '.join(_CUTTINGS)}.")
    source, dest = Path(source), Path(dest)
    if not source.is_dir() and not find_archives(source):
        kind = "is no archive" if source.exists() else "does not exist"
        raise DatasetError(f"{source} {kind}. Get {name} from: {info.source}")
    if dest.exists():
        raise OutputError(f"{dest} exists already: name a folder that does not, or remove it.")
    cutting = _CUTTINGS[name]
    if tile is not None:
        side = tile or None
        cutting = replace(cutting, side=side, step=cutting.step and side)
    if cutting.side is not None and cutting.side < 32:
        raise DatasetError(f"Tiles of {cutting.side} pixels are too small; the least is 32.")
    work = dest.with_name(dest.name + ".partial")
    try:
        _begin(work, {"name": name, "tile": cutting.side, "source": _identity(source)})
        place = source
        if find_archives(source):
            place = work / _UNPACKED
            unpack_all(source, place, on_event)
        layout, split_name = find_published(place, info)
        if split_name == STRIPS and cutting.side is None:
            cutting = replace(cutting, side=256)
        coding = official_coding(info, layout.labels())
        jobs = list(_jobs(layout, cutting, split_name))
        writer = _Writer(work, info, cutting, coding, layout.task)
        _write_all(jobs, writer, work / _JOURNAL, on_event, workers)
        counts: dict[str, int] = {}
        for job in jobs:
            for split, _ in job.boxes:
                counts[split] = counts.get(split, 0) + 1
        record = {
            "name": name,
            "split": split_name,
            "tile": cutting.side,
            "tiles": counts,
            "citation": info.citation,
            "licence": info.licence,
        }
        (work / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        shutil.rmtree(work / _UNPACKED, ignore_errors=True)
        for file in (_PLAN, _JOURNAL):
            (work / file).unlink(missing_ok=True)
        work.replace(dest)
    except OSError as error:
        raise OutputError(f"{dest} cannot be written: {error}") from error
    notes = [f"split: {split_name}"]
    if cutting.side is None or cutting.side == info.tile:
        for split, count in counts.items():
            if info.splits.get(split) not in (None, count):
                notes.append(f"{split}: {count} tiles; the official split has {info.splits[split]}")
    return PrepareReport(dest, counts, split_name, notes)


def _identity(source: Path) -> list[dict[str, Any]]:
    """What tells one source from another: its archives and first entries."""
    entries = find_archives(source) or sorted(source.iterdir())
    return [{"at": str(source.resolve()), **local_identity(p)} for p in entries]


def _begin(work: Path, plan: dict[str, Any]) -> None:
    """Go on with an interrupted run of the same plan, or start anew."""
    file = work / _PLAN
    text = json.dumps(plan)
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        file.write_text(text, encoding="utf-8")


def _jobs(layout: Layout, cutting: Cutting, split_name: str) -> Iterator[_Job]:
    """What there is to write, in pieces that are done or not done."""
    for split, tiles in layout.splits.items():
        for tile in tiles:
            if cutting.side is None:
                yield _Job(tile, ((split, (0, 0, 0, 0)),), True)
                continue
            header = read_header(tile.images[0])
            size = (header.height, header.width)
            if split_name == STRIPS:
                boxes = list(strip_boxes(*size, cutting.side))
            elif cutting.step is None:
                boxes = [(split, box) for box in tile_boxes(*size, cutting.side)]
            else:
                boxes = [(split, box) for box in chip_boxes(*size, cutting.side, cutting.step)]
            whole = len(boxes) == 1 and not cutting.pad
            for first in range(0, len(boxes), _BOXES):
                yield _Job(tile, tuple(boxes[first : first + _BOXES]), whole)


def _write_all(
    jobs: list[_Job],
    writer: "_Writer",
    journal: Path,
    on_event: EventHandler,
    workers: int | None,
) -> None:
    """Do the jobs that the journal does not name, several at a time."""
    done = set(journal.read_text(encoding="utf-8").splitlines()) if journal.is_file() else set()
    stage = f"prepare {writer.info.name}"
    on_event(Started(stage, len(jobs), "image"))
    waiting = [job for job in jobs if job.key not in done]
    if len(waiting) < len(jobs):
        on_event(Progress(stage, len(jobs) - len(waiting)))
    with (
        journal.open("a", encoding="utf-8") as lines,
        ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool,
    ):
        running: dict[Future[None], _Job] = {pool.submit(writer.write, j): j for j in waiting}
        try:
            while running:
                finished, _ = wait(running, return_when=FIRST_COMPLETED)
                # What is done is noted before what failed ends the run.
                for future in sorted(finished, key=lambda f: f.exception() is not None):
                    job = running.pop(future)
                    future.result()
                    lines.write(job.key + "\n")
                    lines.flush()
                    on_event(Progress(stage))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    on_event(Finished(stage, f"{len(jobs)} images"))


@dataclass(frozen=True)
class _Writer:
    """Writes the tiles of a job, labels in the numbers that the catalogue names."""

    work: Path
    info: DatasetInfo
    cutting: Cutting
    coding: LabelCoding
    task: str

    def write(self, job: _Job) -> None:
        """Write all tiles of a job; files that are taken as they are, are copied.

        Raises:
            DatasetError: a source file is damaged or holds what it should not.
        """
        header = None if job.whole else read_header(job.tile.images[0])
        for split, box in job.boxes:
            paths = self._paths(job, split, box)
            for path in paths:
                path.parent.mkdir(parents=True, exist_ok=True)
            if header is None:
                self._copy(job.tile, paths)
            else:
                self._cut(job.tile, header, box, paths)

    def _paths(self, job: _Job, split: str, box: Box) -> list[Path]:
        """Where the images and the label go, without their endings."""
        roles = tuple(f"{{split}}/{role}" for role in ROLES[self.task])
        alone = len(job.boxes) == 1 and job.whole
        name = job.tile.stem if alone else self.cutting.name(job.tile.stem, box)
        folders = self.cutting.folders or roles
        return [self.work / folder.format(split=split) / name for folder in folders]

    def _copy(self, tile: Tile, paths: list[Path]) -> None:
        for file, path in zip((*tile.images, tile.label), paths, strict=True):
            if file == tile.label and self._recodes:
                write_tile(path, self._label(tile.label, None))
                continue
            target = path.with_name(path.name + file.suffix.lower())
            partial = target.with_name(f".{target.name}.partial")
            shutil.copyfile(file, partial)
            partial.replace(target)

    def _cut(self, tile: Tile, header: TileHeader, box: Box, paths: list[Path]) -> None:
        row, column, height, width = box
        transform = header.transform
        if transform is not None:
            transform = transform @ Affine.translation(column, row)
        like = TileHeader(height, width, header.bands, header.dtype, header.crs, transform)
        inside = (
            row,
            column,
            min(height, header.height - row),
            min(width, header.width - column),
        )
        lack = ((0, height - inside[2]), (0, width - inside[3]))
        for file, path in zip(tile.images, paths[:-1], strict=True):
            stored = tuple(range(1, len(read_header(file).stored) + 1))
            wanted = len(self.info.bands) if file == tile.images[0] else len(self.info.sar_bands)
            bands = stored if len(stored) == wanted else None
            image = read_image(file, bands, inside)[0]
            write_tile(path, np.pad(image, ((0, 0), *lack)), like)
        label = self._label(tile.label, inside)
        write_tile(
            paths[-1], np.pad(label, lack, constant_values=self.info.ignore_index or 0), like
        )

    @property
    def _recodes(self) -> bool:
        """Whether label files cannot stay as they are."""
        return self.coding.palette is not None or self.coding.classes != self.info.classes

    def _label(self, path: Path, box: Box | None) -> NDArray[np.uint8]:
        """A label in the catalogue's numbers."""
        values = np.zeros(IGNORE + 1, np.uint8)
        values[: len(self.info.classes)] = [c.value for c in self.info.classes]
        values[IGNORE] = self.info.ignore_index or 0
        return values[self.coding.encode(self.coding.read(path, box), path)]


def chip_boxes(height: int, width: int, side: int, step: int) -> Iterator[Box]:
    """Cut a raster into squares every ``step`` pixels, the last ones shifted inwards.

    A raster smaller than a square gives one that reaches beyond it.
    """
    rows = sorted({min(r, max(height - side, 0)) for r in range(0, height, step)})
    columns = sorted({min(c, max(width - side, 0)) for c in range(0, width, step)})
    for row in rows:
        for column in columns:
            yield (row, column, side, side)


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
