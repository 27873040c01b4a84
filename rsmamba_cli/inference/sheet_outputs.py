"""The outputs of a mosaic: a map for each sheet, and a record of what they were made of."""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.windows import Window

from rsmamba_cli.errors import InputError, OutputError, ResumeError
from rsmamba_cli.events import EventHandler, Finished, Progress, Started
from rsmamba_cli.inference.finished import finished_rows
from rsmamba_cli.inference.options import PredictOptions
from rsmamba_cli.inference.prepare import Prepared, tags
from rsmamba_cli.inference.products import (
    Tally,
    mask_reader,
    part_reader,
    polygons_of,
    raster_spec,
)
from rsmamba_cli.inference.update import Box, unaffected_blocks
from rsmamba_cli.raster.blocks import canonical_json
from rsmamba_cli.raster.mosaic import Mosaic, Sheet
from rsmamba_cli.raster.opening import reading
from rsmamba_cli.raster.output import check_writable, parts, publish, write_cog
from rsmamba_cli.raster.store import Store, partial_folder
from rsmamba_cli.raster.vectors import check_vector_path

MAIN = "rsmamba-mosaic"
FORMAT = 1


@dataclass(frozen=True)
class SheetOutputs:
    """A mask for each sheet of a mosaic.

    Attributes:
        main: the record; the working folder lies beside it.
        files: masks by the sheet's path, "polygons" and "record" (last: where it is, all is).
    """

    main: Path
    files: dict[str, Path]

    @classmethod
    def of(cls, sheets: tuple[str, ...], folder: Path, options: PredictOptions) -> "SheetOutputs":
        """Name the outputs.

        Raises:
            InputError: two sheets would have one mask, or an option is for single maps.
            OutputError: polygons in a format that cannot be written here.
        """
        single = {
            "--probabilities": options.probabilities,
            "--uncertainty": options.uncertainty,
            "--stac": options.stac,
            "--style": options.style,
            "--updatable": options.updatable,
        }
        for name, value in single.items():
            if value:
                raise InputError(f"{name} is for single maps, not for --mosaic")
        folder = Path(os.path.realpath(folder))
        files = {sheet: folder / f"{Path(sheet).stem}_mask.tif" for sheet in sheets}
        double = [path for path, n in Counter(files.values()).items() if n > 1]
        if double:
            names = ", ".join(sheet for sheet, path in files.items() if path == double[0])
            raise InputError(f"{names}: would all become {double[0]}; sheets need different stems")
        if options.polygons is not None:
            files["polygons"] = Path(os.path.realpath(options.polygons))
            check_vector_path(files["polygons"])
        main = folder / MAIN
        return cls(main, {**files, "record": main.with_suffix(".json")})

    def there(self, inputs: list[str], options: PredictOptions) -> bool:
        """Whether the work is already done; refuses what would destroy something.

        Raises:
            OutputError: an output exists, is an input, or cannot be written.
        """
        read = {os.path.realpath(name) for name in inputs}
        for path in self.files.values():
            if os.path.realpath(path) in read:
                raise OutputError(f"{path}: is also an input; choose another --out-dir")
        record = self.files["record"]
        if options.skip_existing and all(path.exists() for path in self.files.values()):
            return True
        check_writable(record)
        may_replace = options.overwrite or options.update or options.resume
        there = [path for path in self.files.values() if path.exists()]
        if there and not may_replace and not options.shard:
            raise OutputError(
                f"{there[0]}: exists already ({len(there)} of {len(self.files)} outputs do); "
                "replace with --overwrite, go over what has changed with --update"
            )
        return False

    def finished_before(self, prepared: Prepared) -> bool:
        """Whether a resumed run has nothing left to do.

        Raises:
            ResumeError: the maps that are there are of other sheets or options.
        """
        options = prepared.options
        if not options.resume or options.overwrite or partial_folder(self.main).is_dir():
            return False
        record = self._record()
        if record is None:
            return False
        missing = [str(p) for p in self.files.values() if not p.exists()]
        if record != self._content(prepared) or missing:
            raise ResumeError(
                f"{self.files['record']}: the maps here are of other sheets or options; use "
                "--update for changed sheets, --overwrite for anything else"
            )
        return True

    def reuse(self, prepared: Prepared, store: Store, check: Callable[[], None]) -> None:
        """Take the blocks from the existing masks that no changed sheet can reach.

        Raises:
            ResumeError: no maps are there, or checkpoint, options or the mosaic's extent differ.
        """
        before, now = self._record(), self._content(prepared)
        if before is None:
            raise ResumeError(f"{self.files['record']}: is missing, so nothing can be updated")
        if before["plan"] != now["plan"]:
            raise ResumeError(
                f"{self.main.parent}: checkpoint, options or the extent of the mosaic are not "
                "those that the maps were made with; make them anew with --overwrite"
            )
        mosaic = _mosaic_of(prepared)
        changed = _changed(before["sheets"], now["sheets"])
        changed += [s.box for s in mosaic.sheets if not self.files[s.path].exists()]
        plan = prepared.plan
        for key in unaffected_blocks(plan, changed):
            check()
            band, strip = key
            height, width = plan.layout.shape(key)
            top, left = plan.layout.rows[band], plan.layout.cols[strip]
            values = np.full((1, height, width), plan.nodata, dtype=plan.layers["mask"].dtype)
            # The first sheet comes last, though all say the same where they overlap.
            for sheet in reversed(mosaic.touching(top, left, height, width)):
                _paste(values[0], top, left, sheet, self.files[sheet.path])
            store.put(key, {"mask": values})

    def write(
        self,
        prepared: Prepared,
        store: Store,
        on_event: EventHandler,
        check: Callable[[], None],
    ) -> Tally:
        """Write the masks, the record last; a mask that would stay as it is is not touched.

        Raises:
            OutputError: something could not be written.
        """
        plan, grid, mosaic = prepared.plan, prepared.grid, _mosaic_of(prepared)
        work = store.folder / "final"
        mask_rows = mask_reader(prepared, store, check)
        finished = finished_rows(prepared, store)
        tally = Tally.of((*plan.class_values, plan.nodata), grid.area_table())
        spec = raster_spec("mask", prepared, tags(prepared))
        on_event(Started("write", len(mosaic.sheets), "sheet"))
        read = part_reader("mask", prepared, finished, mask_rows)
        for first, last, left, right in parts(*grid.shape):
            check()
            tally.add(read(first, last, left, right)[0], first, left)
        ready: dict[Path, Path] = {}
        for number, sheet in enumerate(sorted(mosaic.sheets, key=lambda s: (s.row, s.col))):
            final = self.files[sheet.path]
            temporary = work / f"{number}.tif"

            def of_sheet(
                first: int, last: int, left: int, right: int, sheet: Sheet = sheet
            ) -> npt.NDArray[Any]:
                row, col = sheet.row, sheet.col
                return read(row + first, row + last, col + left, col + right)

            write_cog(temporary, sheet.grid, spec, of_sheet, check)
            if final.exists() and _digest(final) == _digest(temporary):
                temporary.unlink()
            else:
                ready[temporary] = final
            on_event(Progress("write"))
        if "polygons" in self.files:
            polygons = work / f"polygons{self.files['polygons'].suffix.lower()}"
            polygons_of(polygons, prepared, mask_rows, check)
            ready[polygons] = self.files["polygons"]
        record = work / "record.json"
        record.write_text(canonical_json(self._content(prepared)) + "\n", encoding="utf-8")
        check()
        for temporary, final in {**ready, record: self.files["record"]}.items():
            publish(temporary, final)
        on_event(Finished("write", f"{len(ready)} files in {self.main.parent}"))
        return tally

    def _record(self) -> dict[str, Any] | None:
        try:
            content = json.loads(self.files["record"].read_bytes())
        except (OSError, ValueError):
            return None
        whole = isinstance(content, dict) and content.get("format") == FORMAT
        return content if whole else None

    def _content(self, prepared: Prepared) -> dict[str, Any]:
        """What the record says: the plan without its inputs, and every sheet."""
        plan = {
            name: value
            for name, value in prepared.plan.description.items()
            if not name.startswith("_") and name != "inputs"
        }
        plan["grid"] = prepared.grid.to_json()
        plan["polygons"] = "polygons" in self.files
        sheets = [
            {"name": Path(s.path).name, "box": list(s.box), "identity": s.identity}
            for s in _mosaic_of(prepared).sheets
        ]
        content: dict[str, Any] = json.loads(
            canonical_json({"format": FORMAT, "plan": plan, "sheets": sheets})
        )
        return content


def _mosaic_of(prepared: Prepared) -> Mosaic:
    mosaic = prepared.inputs.base_scene
    assert isinstance(mosaic, Mosaic)
    return mosaic


def _changed(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> list[Box]:
    """Boxes of the sheets that came, went, moved or were replaced."""
    old, new = ({sheet["name"]: sheet for sheet in sheets} for sheets in (before, now))
    changed = {name for name in {*old, *new} if old.get(name) != new.get(name)}
    kept = [name for name in old if name in new]
    if kept != [name for name in new if name in old]:
        # Where sheets overlap, the first one counts: another order may show other pixels anywhere.
        changed.update(kept)
    return [tuple(x[name]["box"]) for name in changed for x in (old, new) if name in x]


def _paste(into: npt.NDArray[Any], top: int, left: int, sheet: Sheet, path: Path) -> None:
    """Copy the part of a sheet's mask that lies in a block."""
    r0, c0, r1, c1 = sheet.box
    first, last = max(r0, top), min(r1, top + into.shape[0])
    start, stop = max(c0, left), min(c1, left + into.shape[1])
    window = Window(start - c0, first - r0, stop - start, last - first)
    with reading(str(path), first - r0, last - first), rasterio.open(path) as dataset:
        into[first - top : last - top, start - left : stop - left] = dataset.read(1, window=window)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
