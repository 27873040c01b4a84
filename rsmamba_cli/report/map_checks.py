"""Is one of our maps what it should be? Checks that read the map, and its scene if it is given."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.windows import Window

from rsmamba_cli.raster.blend import axis_blend
from rsmamba_cli.raster.grid import Grid
from rsmamba_cli.raster.opening import open_dataset, reading
from rsmamba_cli.raster.scene import open_scene
from rsmamba_cli.raster.store import partial_folder

_STRIPE = 512
_LEAST_WITH_OVERVIEWS = 512


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: what was looked at.
        good: whether it is as it should be; None for a figure that is only told.
        detail: the finding in words.
    """

    name: str
    good: bool | None
    detail: str


def check_map(path: str, scene: str | None = None) -> list[Check]:
    """Check a class map that this toolkit made.

    Args:
        path: the map.
        scene: what it is a map of, to compare grid and nodata; None leaves these out.

    Returns:
        Findings: layout, codes, seams, an unfinished run beside it, grid and nodata.

    Raises:
        InputError: a file cannot be read.
    """
    with open_dataset(path) as dataset:
        checks = [_layout(dataset), *_pixels(dataset)]
        if scene is not None:
            checks += _against(dataset, scene)
    if (folder := partial_folder(Path(path))).is_dir():
        checks.append(Check("unfinished run", False, f"{folder} is there; --resume goes on"))
    return checks


def _layout(dataset: Any) -> Check:
    structure = dataset.tags(ns="IMAGE_STRUCTURE")
    large = max(dataset.shape) > _LEAST_WITH_OVERVIEWS
    overviews = dataset.overviews(1)
    good = structure.get("LAYOUT") == "COG" and (bool(overviews) or not large)
    levels = f"{len(overviews)} overviews" if overviews else "no overviews"
    return Check("cloud-optimised", good, f"{structure.get('LAYOUT', 'plain')}, {levels}")


def _pixels(dataset: Any) -> Iterator[Check]:
    """Codes and seams, in one pass."""
    codes = {
        int(name.removeprefix("CLASS_"))
        for name in dataset.tags(1)
        if name.removeprefix("CLASS_").isdigit()
    }
    nodata = int(dataset.nodatavals[0])
    legal = np.array(sorted({*codes, nodata}))
    edges = window_edges(dataset.tags(), dataset.shape)
    strange = 0
    seams = _Seams(nodata, *edges) if edges else None
    above: npt.NDArray[Any] | None = None
    for row, stripe in _stripes(dataset):
        strange += int((~np.isin(stripe, legal)).sum())
        if seams is not None:
            seams.add(row, stripe, above)
        above = stripe[-1]
    yield Check("codes", not strange, f"{strange:,} pixels hold neither a class nor nodata")
    if seams is not None:
        yield seams.check()


def window_edges(
    tags: Mapping[str, str], shape: tuple[int, int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]] | None:
    """Rows and columns at which a window begins or stops to contribute, by a map's own tags.

    Args:
        tags: of the map.
        shape: (height, width) of the map.

    Returns:
        Sorted rows and columns, borders of the map aside; None where the tags do not say.
    """
    try:
        options = json.loads(tags["RSMAMBA_OPTIONS"])
        working = options.get("resampled", shape)
        found = []
        for length, seen, tile, stride in zip(
            shape, working, options["tile"], options["stride"], strict=True
        ):
            axis = axis_blend(seen, tile, stride, options["trim"], options["blend"])
            edges = np.array([*axis.low[1:], *axis.high[:-1]], dtype=np.float64)
            found.append(np.unique(np.rint(edges * length / seen)).astype(np.int64))
    except (KeyError, ValueError, TypeError):
        return None
    return found[0], found[1]


class _Seams:
    """How often the class changes across window edges, against anywhere else."""

    def __init__(
        self, nodata: int, rows: npt.NDArray[np.int64], cols: npt.NDArray[np.int64]
    ) -> None:
        self._nodata = nodata
        self._rows = set(rows.tolist())
        self._cols = cols
        # Changes and pairs of neighbours; at edges, and elsewhere.
        self._found = np.zeros((2, 2), dtype=np.int64)

    def add(self, row: int, stripe: npt.NDArray[Any], above: npt.NDArray[Any] | None) -> None:
        valid = stripe != self._nodata
        both = valid[:, 1:] & valid[:, :-1]
        changes = ((stripe[:, 1:] != stripe[:, :-1]) & both).sum(axis=0)
        pairs = both.sum(axis=0)
        at = np.zeros(len(pairs), dtype=np.bool_)
        inside = self._cols[(self._cols > 0) & (self._cols <= len(pairs))]
        at[inside - 1] = True
        self._count(changes, pairs, at)
        rows = stripe if above is None else np.concatenate([above[None], stripe])
        first = row + (above is None)
        known = rows != self._nodata
        both = known[1:] & known[:-1]
        changes = ((rows[1:] != rows[:-1]) & both).sum(axis=1)
        lines = np.arange(first, first + len(both))
        self._count(changes, both.sum(axis=1), np.isin(lines, list(self._rows)))

    def _count(
        self,
        changes: npt.NDArray[Any],
        pairs: npt.NDArray[Any],
        at: npt.NDArray[np.bool_],
    ) -> None:
        for k, chosen in enumerate((at, ~at)):
            self._found[k] += changes[chosen].sum(), pairs[chosen].sum()

    def check(self) -> Check:
        (at, pairs), (elsewhere, others) = self._found.tolist()
        if not pairs or not elsewhere:
            return Check("seams", None, "nothing to compare: one window, or one class")
        ratio = (at / pairs) / (elsewhere / others)
        return Check(
            "seams",
            None,
            f"the class changes {ratio:.2f} times as often across window borders as elsewhere",
        )


def _against(dataset: Any, scene: str) -> Iterator[Check]:
    same = Grid.of(dataset)
    with open_scene(scene) as source:
        yield Check(
            "grid",
            source.grid == same,
            "that of the scene"
            if source.grid == same
            else f"the scene has {source.grid.describe()}",
        )
        if source.grid.shape != same.shape:
            return
        lost = gained = 0
        for row, stripe in _stripes(dataset):
            _, valid = source.read(row, 0, stripe.shape[0], same.width)
            answered = stripe != dataset.nodatavals[0]
            lost += int((valid & ~answered).sum())
            gained += int((answered & ~valid).sum())
    yield Check(
        "nodata",
        not gained,
        f"{gained:,} pixels have a class where the scene has no data; {lost:,} have none where it "
        "has (areas of interest and masks leave such)",
    )


def _stripes(dataset: rasterio.DatasetReader) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    for row in range(0, dataset.height, _STRIPE):
        rows = min(_STRIPE, dataset.height - row)
        with reading(dataset.name, row, rows):
            yield row, dataset.read(1, window=Window(0, row, dataset.width, rows))
