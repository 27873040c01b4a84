"""Going over a map again where its input has changed, and nowhere else.

A block depends on the windows that reach into it, and a window on the pixels that it covers. Where
all of these are what they were, the block is read back from the existing outputs.

For one scene, what its pixels were is kept beside the map as a checksum for each cell, the part of
a band between two neighbouring columns of windows.
"""

import itertools
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.windows import Window

from rsmamba_cli.errors import OutputError, ResumeError
from rsmamba_cli.inference.plan import Plan
from rsmamba_cli.inference.prepare import Prepared
from rsmamba_cli.raster.blocks import Key
from rsmamba_cli.raster.opening import reading
from rsmamba_cli.raster.output import read_provenance
from rsmamba_cli.raster.store import Store

FORMAT = 1
Box = tuple[int, int, int, int]
Sums = npt.NDArray[np.uint32]


def unaffected_blocks(plan: Plan, changed: list[Box]) -> Iterator[Key]:
    """The blocks whose windows see none of the changed pixels.

    Args:
        plan: of the run.
        changed: boxes (first row, first column, one past the last row, one past the last column).
    """
    boxes = np.array(changed, dtype=np.int64).reshape(-1, 4)
    row_cuts, col_cuts = plan.rows.cuts, plan.layout.cols
    columns = []
    for left, right in itertools.pairwise(col_cuts):
        reach = plan.cols.reaching(left, right)
        columns.append((plan.cols.starts[reach[0]], plan.cols.starts[reach[-1]] + plan.cols.tile))
    for band in range(len(row_cuts) - 1):
        reach = plan.rows.reaching(row_cuts[band], row_cuts[band + 1])
        top, bottom = plan.rows.starts[reach[0]], plan.rows.starts[reach[-1]] + plan.rows.tile
        beside = boxes[(boxes[:, 0] < bottom) & (boxes[:, 2] > top)]
        for strip, (left, right) in enumerate(columns):
            if not ((beside[:, 1] < right) & (beside[:, 3] > left)).any():
                yield band, strip


def cells_path(mask: Path) -> Path:
    """Where the checksums of a map's input are kept."""
    return mask.with_name(mask.name + ".cells")


def write_cells(path: Path, prepared: Prepared, check: Callable[[], None]) -> None:
    """Keep the checksums of a run's input.

    Raises:
        OutputError: they cannot be written.
    """
    content = {
        "format": FORMAT,
        "rows": list(prepared.plan.rows.cuts),
        "cols": list(prepared.plan.cols.cuts),
        "sums": checksums(prepared, check).tolist(),
    }
    try:
        path.write_text(json.dumps(content, separators=(",", ":")))
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error


def checksums(prepared: Prepared, check: Callable[[], None]) -> Sums:
    """A checksum of the pixels and the validity of every cell, (bands, columns of windows)."""
    plan, source = prepared.plan, prepared.source
    rows, cols = plan.rows.cuts, plan.cols.cuts
    sums: Sums = np.zeros((len(rows) - 1, len(cols) - 1), dtype=np.uint32)
    for band in range(len(rows) - 1):
        top, height = rows[band], rows[band + 1] - rows[band]
        for first, last in itertools.pairwise(plan.strips):
            check()
            left = cols[first]
            if not source.touches(top, left, height, cols[last] - left):
                continue
            inputs, wanted = source.read(top, left, height, cols[last] - left)
            for cell in range(first, last):
                part = slice(cols[cell] - left, cols[cell + 1] - left)
                total = zlib.crc32(wanted[:, part].tobytes())
                for values in inputs:
                    total = zlib.crc32(values[:, :, part].tobytes(), total)
                sums[band, cell] = total
    return sums


def reuse_map(
    files: dict[str, Path],
    prepared: Prepared,
    store: Store,
    provenance: dict[str, str],
    check: Callable[[], None],
) -> None:
    """Fill the store with the blocks of an existing map that the scene's changes cannot reach.

    Args:
        files: outputs by role; the rasters among them are read.
        prepared: the run, with the changed scene.
        store: of the run.
        provenance: what the map's tags must say.
        check: called often; may raise to stop the work.

    Raises:
        ResumeError: the map is not there, not updatable, or not what these options make.
    """
    mask, plan = files["mask"], prepared.plan
    path = cells_path(mask)
    try:
        content = json.loads(path.read_bytes())
        same = content["format"] == FORMAT
        same &= (content["rows"], content["cols"]) == (list(plan.rows.cuts), list(plan.cols.cuts))
        before = np.array(content["sums"], dtype=np.uint32)
    except (OSError, ValueError, KeyError, TypeError):
        raise ResumeError(
            f"{mask}: cannot be updated: {path.name} beside it, which says what the scene was, is "
            "missing or damaged. Make the map with --updatable first."
        ) from None
    found, grid = read_provenance(mask)
    missing = [str(files[role]) for role in plan.layers if not files[role].exists()]
    if not same or grid != prepared.grid or missing or differing_tags(found, provenance):
        raise ResumeError(
            f"{mask}: cannot be updated: checkpoint, options or grid are not those it was made "
            "with; make it anew with --overwrite"
        )
    now = checksums(prepared, check)
    changed = [
        (plan.rows.cuts[r], plan.cols.cuts[c], plan.rows.cuts[r + 1], plan.cols.cuts[c + 1])
        for r, c in np.argwhere(before != now).tolist()
    ]
    datasets = {role: rasterio.open(files[role]) for role in plan.layers}
    try:
        for key in unaffected_blocks(plan, changed):
            check()
            store.put(key, {role: _read_block(d, plan, key) for role, d in datasets.items()})
    finally:
        for dataset in datasets.values():
            dataset.close()


def differing_tags(found: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """What a file's provenance says differently, in words; empty when the same run made it."""
    names = {*wanted, *(name for name in found if name.startswith("RSMAMBA_"))}
    return [
        name.removeprefix("RSMAMBA_").lower().replace("_", " ")
        for name in sorted(names)
        if found.get(name) != wanted.get(name)
    ]


def _read_block(dataset: Any, plan: Plan, key: Key) -> npt.NDArray[Any]:
    layout = plan.layout
    band, strip = key
    height, width = layout.shape(key)
    window = Window(layout.cols[strip], layout.rows[band], width, height)
    with reading(dataset.name, layout.rows[band], height):
        values: npt.NDArray[Any] = dataset.read(window=window)
    return values
