"""One scene whose bands lie in several files, of whatever resolutions (Sentinel-2, Landsat)."""

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from rsmamba_cli.errors import InputError
from rsmamba_cli.raster.align import Aligned, align
from rsmamba_cli.raster.scene import Scene, Valid

_AS_GOOD = 1.001


class Stack:
    """Files read as one scene on the grid of the finest; the interface is that of `Scene`.

    A pixel is valid where it is in every file. Coarser files are interpolated bilinearly.
    """

    def __init__(
        self,
        paths: Sequence[str],
        open_file: Callable[[str], Scene],
        bands: Sequence[int] | None,
        expected_names: Sequence[str],
    ) -> None:
        """Open the files and order their bands.

        Args:
            paths: the files, at least one.
            open_file: opens one with all its bands and the validity rules of the run.
            bands: 1-based bands of the stack, in the model's order; None lets the names decide
                where every expected one is found once among band descriptions and file names, and
                takes the bands as they come where not.
            expected_names: what the model calls its bands.

        Raises:
            InputError: a file cannot be opened or laid over the others, or the bands do not fit.
        """
        self._files: list[Scene] = []
        try:
            self._files += [open_file(path) for path in paths]
            sizes = [scene.grid.gsd_m() or 1.0 for scene in self._files]
            base = next(i for i, size in enumerate(sizes) if size <= min(sizes) * _AS_GOOD)
            first = self._files[base]
            self.grid, self.block_shape = first.grid, first.block_shape
            self._readers: list[Scene | Aligned] = [
                scene if i == base else align(scene, first.grid, first.path)
                for i, scene in enumerate(self._files)
            ]
            labels = [
                (name, Path(scene.path).stem) for scene in self._files for name in scene.band_names
            ]
            self.bands, self.note = _choose(labels, bands, expected_names)
        except BaseException:
            self.close()
            raise
        owners = [i for i, scene in enumerate(self._files) for _ in range(scene.count)]
        within = [k for scene in self._files for k in range(scene.count)]
        self._source = [(owners[b - 1], within[b - 1]) for b in self.bands]
        self.band_names = tuple(
            f"{labels[b - 1][1]}" if self._files[owners[b - 1]].count == 1 else labels[b - 1][0]
            for b in self.bands
        )
        self.count = len(self.bands)
        self.nodata = tuple(self._files[i].nodata[k] for i, k in self._source)
        self.dtype = np.result_type(*(self._files[i].dtype for i, _ in self._source))
        self.stored_bands = sum(scene.stored_bands for scene in self._files)
        self.path = f"stack of {len(paths)} files, {paths[0]} first"

    @property
    def has_georeference(self) -> bool:
        """Whether the pixels have a place."""
        return self.grid.has_georeference

    def read(
        self, row: int, col: int, height: int, width: int
    ) -> tuple[npt.NDArray[np.float32], Valid]:
        """Raw values (count, height, width) and their validity; see `Scene.read`."""
        valid = np.ones((height, width), dtype=np.bool_)
        parts = []
        for reader in self._readers:
            values, known = reader.read(row, col, height, width)
            parts.append(values)
            valid &= known
        return np.stack([parts[i][k] for i, k in self._source]), valid

    def cache_bytes(self, rows: int, cols: int | None = None) -> int:
        """GDAL cache for reading ``rows`` rows of ``cols`` columns; see `Scene.cache_bytes`."""
        height, width = self.grid.shape
        cols = width if cols is None else cols
        return sum(
            scene.cache_bytes(
                math.ceil(rows * scene.grid.height / height),
                math.ceil(cols * scene.grid.width / width),
            )
            for scene in self._files
        )

    def identity(self) -> dict[str, Any]:
        """What a resumed run compares."""
        return {"stack": [scene.identity() for scene in self._files], "bands": list(self.bands)}

    def close(self) -> None:
        """Close the files."""
        for scene in self._files:
            scene.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _choose(
    labels: Sequence[tuple[str, str]], bands: Sequence[int] | None, expected: Sequence[str]
) -> tuple[tuple[int, ...], str]:
    """Which bands of a stack to take, and what to say about it.

    Args:
        labels: (description, file's stem) of every band.
        bands: asked for.
        expected: the model's names.
    """
    count = len(labels)
    listing = ", ".join(f"{i} {stem}" for i, (_, stem) in enumerate(labels, start=1))
    if bands is not None:
        if not all(1 <= b <= count for b in bands) or (expected and len(bands) != len(expected)):
            raise InputError(
                f"--bands {','.join(map(str, bands))}: the stack has {count} bands ({listing}), "
                f"the model wants {len(expected)} of them"
            )
        return tuple(bands), ""
    found = [
        [i for i, (name, stem) in enumerate(labels, start=1) if _is_called(want, name, stem)]
        for want in expected
    ]
    if expected and all(len(match) == 1 for match in found):
        chosen = tuple(match[0] for match in found)
        named = ", ".join(
            f"{n} ({labels[b - 1][1]})" for n, b in zip(expected, chosen, strict=True)
        )
        return chosen, f"bands are taken by their names: {named}"
    if expected and len(expected) != count:
        raise InputError(
            f"the stack has {count} bands ({listing}), the model wants {len(expected)} "
            f"({', '.join(expected)}); say which with --bands"
        )
    return tuple(range(1, count + 1)), ""


def _is_called(want: str, name: str, stem: str) -> bool:
    """Whether a band's description is a name, or its file's name has it as a part of its own."""
    parts = re.split(r"[^a-z0-9]+", stem.lower())
    return want.lower() in (name.lower(), *parts)
