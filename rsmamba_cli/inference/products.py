"""The outputs of a run: which files, whether they may be written, and what is in them."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rsmamba_cli.errors import OutputError, ResumeError
from rsmamba_cli.events import EventHandler, Finished, Progress, Started
from rsmamba_cli.inference.finished import FinishedRows, finished_rows
from rsmamba_cli.inference.options import PredictOptions
from rsmamba_cli.inference.prepare import Prepared, tags
from rsmamba_cli.inference.update import cells_path, differing_tags, reuse_map, write_cells
from rsmamba_cli.raster.grid import AreaTable
from rsmamba_cli.raster.output import (
    SCALE,
    RasterSpec,
    ReadPart,
    check_writable,
    parts,
    publish,
    read_provenance,
    write_cog,
)
from rsmamba_cli.raster.sieve import Sieve
from rsmamba_cli.raster.store import Store, partial_folder
from rsmamba_cli.raster.vectors import VectorClass, check_vector_path, write_polygons
from rsmamba_cli.report.qgis import write_qgis_style
from rsmamba_cli.report.stac import check_stac, moment_of, write_stac_item

_RASTER_SUFFIXES = (".tif", ".tiff")


def output_files(output: Path | str, options: PredictOptions) -> dict[str, Path]:
    """Every file that a run writes, by role, symbolic links followed; "mask" comes last.

    Raises:
        OutputError: a name that cannot hold what it is for, or one name used twice.
    """
    wanted = {
        "probabilities": options.probabilities,
        "uncertainty": options.uncertainty,
        "polygons": options.polygons,
        "style": Path(output).with_suffix(".qml") if options.style else None,
        "stac": Path(output).with_suffix(".json") if options.stac else None,
        "cells": cells_path(Path(output)) if options.updatable else None,
        "mask": output,
    }
    files = {role: Path(os.path.realpath(p)) for role, p in wanted.items() if p is not None}
    for role, path in files.items():
        if role == "polygons":
            check_vector_path(path)
        elif role == "stac":
            check_stac()
        elif role in ("style", "cells"):
            continue
        elif path.suffix.lower() not in _RASTER_SUFFIXES:
            raise OutputError(f"{path}: rasters are written as GeoTIFF; end the name with .tif")
    if len(set(files.values())) < len(files):
        raise OutputError("two outputs share one name: " + ", ".join(map(str, files.values())))
    return files


@dataclass
class Tally:
    """Pixels and area of every class, counted while the mask passes by."""

    pixels: dict[int, int]
    area: dict[int, float] | None
    _areas: AreaTable | None = field(repr=False)

    @classmethod
    def of(cls, values: tuple[int, ...], areas: AreaTable | None) -> "Tally":
        """An empty tally of these mask values."""
        area = None if areas is None else dict.fromkeys(values, 0.0)
        return cls(dict.fromkeys(values, 0), area, areas)

    def add(self, part: npt.NDArray[Any], first_row: int, first_col: int = 0) -> None:
        """Count a part (rows, columns) of the mask that begins at a row and a column."""
        for value in self.pixels:
            selected = part == value
            count = int(np.count_nonzero(selected))
            self.pixels[value] += count
            if count and self.area is not None and self._areas is not None:
                self.area[value] += self._areas.sum_where(selected, first_row, first_col)


class Outputs(Protocol):
    """What a run writes: one map (`MapOutputs`), or one for each sheet of a mosaic.

    Attributes:
        main: the working folder lies beside it, named after it.
        files: by role.
    """

    @property
    def main(self) -> Path:
        """See above."""
        ...

    @property
    def files(self) -> dict[str, Path]:
        """See above."""
        ...

    def there(self, inputs: list[str], options: PredictOptions) -> bool:
        """Whether the work is already done; refuses what would destroy something."""
        ...

    def finished_before(self, prepared: Prepared) -> bool:
        """Whether a resumed run has nothing left to do."""
        ...

    def reuse(self, prepared: Prepared, store: Store, check: Callable[[], None]) -> None:
        """Take from existing outputs what changed inputs cannot have changed (``update``)."""
        ...

    def write(
        self,
        prepared: Prepared,
        store: Store,
        on_event: EventHandler,
        check: Callable[[], None],
    ) -> Tally:
        """Make every output from the finished blocks and put all of them under their names."""
        ...


MaskRows = Callable[[int, int], npt.NDArray[Any]]


def mask_reader(prepared: Prepared, store: Store, check: Callable[[], None]) -> MaskRows:
    """Rows of the mask from the finished blocks, sieved if that is asked for."""
    finished = finished_rows(prepared, store)

    def rows(first: int, last: int) -> npt.NDArray[Any]:
        stripe: npt.NDArray[Any] = finished.read_rows("mask", first, last)[0]
        return stripe

    options, plan = prepared.options, prepared.plan
    if not options.sieve:
        return rows
    values = plan.class_values[1:]
    work = store.folder / "final"
    sieve = Sieve(work, rows, prepared.grid, values, plan.nodata, options.min_area, check)
    # The parts of a stripe are asked for one after the other.
    return lru_cache(maxsize=1)(sieve.read_rows)


def part_reader(
    layer: str, prepared: Prepared, finished: FinishedRows, mask_rows: MaskRows
) -> ReadPart:
    """Parts of a finished layer, the mask sieved if that is asked for."""

    def part(first: int, last: int, left: int, right: int) -> npt.NDArray[Any]:
        if layer == "mask" and prepared.options.sieve:
            return mask_rows(first, last)[None, :, left:right]
        return finished.read_rows(layer, first, last, left, right)

    return part


def polygons_of(
    path: Path, prepared: Prepared, mask_rows: MaskRows, check: Callable[[], None]
) -> None:
    """Write the polygons of a mask as the options say."""
    write_polygons(
        path,
        mask_rows,
        prepared.grid,
        [VectorClass(c.value, c.name) for c in prepared.meta.classes[1:]],
        min_area=prepared.options.min_area,
        simplify=prepared.options.simplify,
        tags=tags(prepared),
        check=check,
    )


@dataclass(frozen=True)
class MapOutputs:
    """The outputs of one map.

    Attributes:
        files: of `output_files`.
    """

    files: dict[str, Path]

    @property
    def main(self) -> Path:
        """The mask."""
        return self.files["mask"]

    def there(self, inputs: list[str], options: PredictOptions) -> bool:
        """Whether the work is already done; refuses what would destroy something.

        Args:
            inputs: every file that is read.
            options: overwrite, resume, skip_existing.

        Raises:
            OutputError: an output is an input, exists, or cannot be written.
        """
        for path in self.files.values():
            for other in inputs:
                if path.exists() and Path(other).exists() and path.samefile(other):
                    raise OutputError(
                        f"{path}: is also an input; choose another name for the output"
                    )
        there = {role: path for role, path in self.files.items() if path.exists()}
        if there and options.skip_existing and len(there) == len(self.files):
            return True
        for path in self.files.values():
            check_writable(path)
        interrupted = partial_folder(self.main).is_dir()
        may_replace = options.overwrite or options.update or (options.resume and interrupted)
        if there and not may_replace:
            if options.resume and "mask" in there:
                return False
            names = ", ".join(str(path) for path in there.values())
            raise OutputError(
                f"{names}: exists already; replace with --overwrite, keep with --skip-existing"
            )
        return False

    def finished_before(self, prepared: Prepared) -> bool:
        """Whether a resumed run has nothing left to do: its outputs are there and say the same.

        Raises:
            ResumeError: an output is there that other inputs or options made.
        """
        mask = self.main
        if not prepared.options.resume or prepared.options.overwrite or not mask.exists():
            return False
        if partial_folder(mask).is_dir():
            return False
        found, grid = read_provenance(mask)
        changed = differing_tags(found, tags(prepared))
        if grid != prepared.grid:
            changed.append("grid")
        missing = [str(path) for path in self.files.values() if not path.exists()]
        if changed or missing:
            what = f"its {', '.join(changed)} differ" if changed else f"{missing[0]} is missing"
            raise ResumeError(
                f"{mask}: exists already and is not what this run would make ({what}); "
                "use --overwrite"
            )
        return True

    def reuse(self, prepared: Prepared, store: Store, check: Callable[[], None]) -> None:
        """Take blocks from the existing map whose windows see nothing new.

        Raises:
            ResumeError: the map is not there, not updatable, or not what these options make.
        """
        reuse_map(self.files, prepared, store, tags(prepared), check)

    def write(
        self,
        prepared: Prepared,
        store: Store,
        on_event: EventHandler,
        check: Callable[[], None],
    ) -> Tally:
        """Make every output from the finished blocks and put all of them under their names.

        Raises:
            OutputError: something could not be written; nothing is left under a final name.
        """
        files = self.files
        plan, grid, meta = prepared.plan, prepared.grid, prepared.meta
        provenance = tags(prepared)
        values = (*plan.class_values, plan.nodata)
        tally = Tally.of(values, grid.area_table())
        work = store.folder / "final"
        temporary = {role: work / f"{role}{path.suffix.lower()}" for role, path in files.items()}
        count = sum(1 for _ in parts(*grid.shape))
        on_event(Started("write", count * len(plan.layers), "part"))

        mask_rows = mask_reader(prepared, store, check)
        finished = finished_rows(prepared, store)

        def part_of(layer: str) -> ReadPart:
            read = part_reader(layer, prepared, finished, mask_rows)

            def counted(first: int, last: int, left: int, right: int) -> npt.NDArray[Any]:
                part = read(first, last, left, right)
                if layer == "mask":
                    tally.add(part[0], first, left)
                on_event(Progress("write"))
                return part

            return counted

        for role in plan.layers:
            spec = raster_spec(role, prepared, provenance)
            write_cog(temporary[role], grid, spec, part_of(role), check)
        if "polygons" in files:
            polygons_of(temporary["polygons"], prepared, mask_rows, check)
        if "style" in files:
            write_qgis_style(temporary["style"], meta.classes)
        if "stac" in files:
            scenes = prepared.inputs.given
            write_stac_item(
                temporary["stac"],
                files,
                grid,
                meta,
                plan.layers,
                moment_of(scenes[-1].path),
                [scene.path for scene in scenes],
                prepared.checkpoint,
            )
        if "cells" in files:
            write_cells(temporary["cells"], prepared, check)
        check()
        # The mask appears last: where it is, everything is.
        for role, path in files.items():
            publish(temporary[role], path)
        on_event(Finished("write", str(files["mask"])))
        return tally


def raster_spec(role: str, prepared: Prepared, provenance: dict[str, str]) -> RasterSpec:
    """How a raster is written, by its role."""
    meta, plan = prepared.meta, prepared.plan
    layer = plan.layers[role]
    if role == "mask":
        return RasterSpec(
            layer.dtype,
            layer.fill,
            ("class",),
            provenance,
            {f"CLASS_{c.value}": c.name for c in meta.classes},
            {c.value: c.color for c in meta.classes},
        )
    names = [c.name for c in meta.classes]
    if role == "probabilities":
        bands = tuple(f"probability of {name}" for name in names[-layer.count :])
    else:
        bands = ("uncertainty (normalised entropy)",)
    return RasterSpec(layer.dtype, layer.fill, bands, provenance, scale=SCALE, resampling="average")
