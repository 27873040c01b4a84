"""A raster as a model sees it: chosen bands in the model's order and one validity mask."""

import math
import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.enums import MaskFlags, Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from rsmamba_cli.errors import InputError
from rsmamba_cli.raster.bands import BandChoice, choose_bands
from rsmamba_cli.raster.grid import Grid
from rsmamba_cli.raster.opening import file_identity, open_dataset, reading

NodataRule = Literal["all", "any"]
Values = npt.NDArray[Any]
Valid = npt.NDArray[np.bool_]


class Scene:
    """An open raster: grid, bands and validity. Use `open_scene`; close it or use ``with``.

    Attributes:
        path: the name it was opened by.
        grid: size and georeference.
        bands: 1-based numbers of the bands that are read.
        band_names: one for each band handed out.
        count: number of bands handed out (3 for an expanded palette).
        dtype: of the values that `read_native` hands out.
        block_shape: (rows, columns) of the blocks on disk.
        note: a decision taken on the user's behalf, or "".
    """

    def __init__(
        self,
        path: str,
        dataset: Any,
        choice: BandChoice,
        nodata: tuple[float | None, ...],
        nodata_rule: NodataRule,
        mask: "MaskLayer | None",
    ) -> None:
        self.path = path
        self.grid = Grid.of(dataset)
        self.bands = choice.bands
        self.band_names = choice.names
        self.count = choice.count
        self.note = choice.note
        self.block_shape: tuple[int, int] = tuple(dataset.block_shapes[choice.bands[0] - 1])
        self.nodata_rule: NodataRule = nodata_rule
        self._dataset = dataset
        self._mask = mask
        self._alpha = choice.alpha
        self._stored = np.result_type(*[np.dtype(dataset.dtypes[b - 1]) for b in choice.bands])
        self._palette = _palette(dataset, choice.bands[0]) if choice.expand_palette else None
        self.dtype = np.dtype(np.uint8) if choice.expand_palette else self._stored
        self.nodata = nodata
        self._mask_bands = _bands_with_mask(dataset, choice.bands)

    @property
    def has_georeference(self) -> bool:
        """Whether the pixels have a place (transform, control points or RPCs)."""
        return self.grid.has_georeference

    @property
    def stored_bands(self) -> int:
        """Bands that a read touches, alpha included (for sizing caches)."""
        return len(set(self.bands)) + len(self._alpha)

    def read_native(self, row: int, col: int, height: int, width: int) -> tuple[Values, Valid]:
        """Values as stored and their validity for a window inside the scene.

        Args:
            row: first row.
            col: first column.
            height: rows.
            width: columns.

        Returns:
            values (count, height, width) in `dtype`, and valid (height, width).

        Raises:
            InputError: the file is damaged there.
        """
        window = Window(col, row, width, height)
        with reading(self.path, row, height):
            values = self._read(window)
            valid = self._validity(values, window)
        if self._palette is not None:
            colours, opaque = self._palette
            index = np.clip(values[0], 0, len(opaque) - 1)
            valid &= opaque[index]
            values = np.ascontiguousarray(np.moveaxis(colours[index], -1, 0))
        if self._mask is not None:
            valid &= ~self._mask.read(row, col, height, width)
        return values, valid

    def _read(self, window: Window) -> Values:
        if len({self._dataset.dtypes[b - 1] for b in self.bands}) == 1:
            return np.asarray(self._dataset.read(list(self.bands), window=window))
        # rasterio reads bands of several types only one by one.
        return np.stack(
            [self._dataset.read(b, window=window).astype(self._stored) for b in self.bands]
        )

    def read(
        self, row: int, col: int, height: int, width: int
    ) -> tuple[npt.NDArray[np.float32], Valid]:
        """Raw values in float32 and their validity; see `read_native`."""
        values, valid = self.read_native(row, col, height, width)
        return values.astype(np.float32), valid

    def _validity(self, values: Values, window: Window) -> Valid:
        valid = np.ones(values.shape[1:], dtype=np.bool_)
        if values.dtype.kind == "f":
            # Infinities come from logarithms and divisions of empty pixels: no model takes them.
            for band in values:
                valid &= np.isfinite(band)
        marked = [_equal(v, n) for v, n in zip(values, self.nodata, strict=True) if n is not None]
        if marked and (self.nodata_rule == "any" or len(marked) == len(values)):
            invalid = marked[0]
            for more in marked[1:]:
                invalid = invalid | more if self.nodata_rule == "any" else invalid & more
            valid &= ~invalid
        for band in self._alpha:
            valid &= self._dataset.read(band, window=window) != 0
        for band in self._mask_bands:
            valid &= self._dataset.read_masks(band, window=window) != 0
        return valid

    def cache_bytes(self, rows: int, cols: int | None = None) -> int:
        """GDAL cache with which reading ``rows`` rows at a time decodes every block once.

        A reading may begin and end inside a block, so up to two more blocks a side are in play.

        Args:
            rows: that are read at a time, one reading below the other.
            cols: how wide they are; None is the whole width.
        """
        lengths = (rows, self.grid.width if cols is None else cols)
        in_play = 1
        for wanted, block, whole in zip(lengths, self.block_shape, self.grid.shape, strict=True):
            in_play *= min(math.ceil(wanted / block) + 1, math.ceil(whole / block)) * block
        return in_play * self.stored_bands * self._stored.itemsize

    def identity(self) -> dict[str, Any]:
        """What a resumed run compares: the files, the grid, the bands and the validity rules."""
        return {
            "files": file_identity(self._dataset),
            "grid": self.grid.to_json(),
            "bands": list(self.bands),
            "dtype": str(self.dtype),
            "nodata": [None if n is None else repr(n) for n in self.nodata],
            "nodata_rule": self.nodata_rule,
            "mask": None if self._mask is None else self._mask.identity(),
        }

    def close(self) -> None:
        """Close the files."""
        if self._mask is not None:
            self._mask.close()
        self._dataset.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_scene(
    path: str | os.PathLike[str],
    bands: Sequence[int] | None = None,
    nodata: float | None = None,
    nodata_rule: NodataRule = "all",
    mask: str | os.PathLike[str] | None = None,
    expected_bands: int | None = None,
    expected_names: Sequence[str] = (),
    fallback_nodata: float | None = None,
) -> Scene:
    """Open any GDAL-readable raster as a `Scene`.

    A pixel is invalid if any source says so: NaN or an infinity in any used band, a transparent
    alpha, an internal or external mask, the declared nodata value (in all used bands, or in any
    with ``nodata_rule="any"``), a transparent palette entry, or a non-zero pixel of ``mask``.

    Args:
        path: a file or a name that GDAL resolves.
        bands: 1-based band numbers in the model's order; None lets the file decide.
        nodata: a value that overrides the declared one in every band.
        nodata_rule: ``all`` or ``any``.
        mask: raster on any grid; non-zero pixels (clouds, water) are left out. Pixels outside it,
            and its own nodata, leave out nothing.
        expected_bands: how many bands the model wants.
        expected_names: what it calls them.
        fallback_nodata: nodata value for bands of which neither file nor user declares one.

    Raises:
        InputError: the file is missing, not a raster, complex, damaged, or its bands do not fit.
    """
    if nodata_rule not in ("all", "any"):
        raise InputError(f"the nodata rule is 'all' or 'any'; got {nodata_rule!r}")
    dataset = open_dataset(path)
    try:
        # GDAL reads some tags late, and prints what it finds wrong with them outside of an Env.
        with rasterio.Env():
            choice = choose_bands(dataset, bands, expected_bands, expected_names)
            layer = None if mask is None else MaskLayer(mask, Grid.of(dataset))
            declared = _declared_nodata(dataset, choice.bands, nodata)
            values = tuple(fallback_nodata if value is None else value for value in declared)
            return Scene(os.fspath(path), dataset, choice, values, nodata_rule, layer)
    except BaseException:
        dataset.close()
        raise


class MaskLayer:
    """A raster mask brought on to a grid by nearest neighbour; True where pixels are left out."""

    def __init__(self, path: str | os.PathLike[str], grid: Grid) -> None:
        self.path = os.fspath(path)
        self._dataset = open_dataset(path)
        self._grid = grid
        own = Grid.of(self._dataset)
        self._offset = grid.offset_of(own)
        if self._offset is None and not (grid.has_georeference or own.has_georeference):
            self._refuse(f"{own.describe()} against {grid.describe()}")
        self._vrt: Any = None
        if self._offset is None:
            if own.shape == grid.shape and not (grid.has_georeference and own.has_georeference):
                self._offset = (0, 0)
            elif grid.transform is None or not own.has_georeference or not grid.crs:
                self._refuse(f"{own.describe()} against {grid.describe()}")
            else:
                self._vrt = WarpedVRT(
                    self._dataset,
                    crs=grid.crs,
                    transform=grid.transform,
                    height=grid.height,
                    width=grid.width,
                    resampling=Resampling.nearest,
                    tolerance=0.01,
                )

    def _refuse(self, sizes: str) -> None:
        self._dataset.close()
        raise InputError(
            f"{self.path}: the mask cannot be laid over the scene ({sizes}). Give a mask with a "
            "CRS, or one of exactly the scene's size."
        )

    def read(self, row: int, col: int, height: int, width: int) -> Valid:
        """True where the scene's pixels are masked out, (height, width)."""
        with reading(self.path, row, height):
            if self._vrt is not None:
                return self._left_out(self._vrt, Window(col, row, width, height))
            assert self._offset is not None
            top, left = row - self._offset[0], col - self._offset[1]
            r0, r1 = max(top, 0), min(top + height, self._dataset.height)
            c0, c1 = max(left, 0), min(left + width, self._dataset.width)
            masked = np.zeros((height, width), dtype=np.bool_)
            if r1 > r0 and c1 > c0:
                part = self._left_out(self._dataset, Window(c0, r0, c1 - c0, r1 - r0))
                masked[r0 - top : r1 - top, c0 - left : c1 - left] = part
            return masked

    @staticmethod
    def _left_out(dataset: Any, window: Window) -> Valid:
        values = dataset.read(1, window=window, masked=True).filled(0)
        return np.asarray(values != 0, dtype=np.bool_)

    def identity(self) -> list[dict[str, Any]]:
        """What tells a changed mask from the same one."""
        return file_identity(self._dataset)

    def close(self) -> None:
        """Close the files."""
        if self._vrt is not None:
            self._vrt.close()
        self._dataset.close()


def _declared_nodata(
    dataset: Any, bands: Sequence[int], override: float | None
) -> tuple[float | None, ...]:
    """The nodata value of every used band; None where none is declared."""
    if override is not None:
        return (float(override),) * len(bands)
    values: list[float | None] = [dataset.nodatavals[b - 1] for b in bands]
    listed = dataset.tags().get("NODATA_VALUES", "").split()
    if len(listed) == dataset.count:
        for i, band in enumerate(bands):
            if values[i] is None:
                values[i] = float(listed[band - 1])
    return tuple(values)


def _equal(values: Values, nodata: float) -> Valid:
    """Where values are the nodata value, compared in the type of the file."""
    if math.isnan(nodata):
        return np.asarray(np.isnan(values)) if values.dtype.kind == "f" else _nowhere(values)
    if values.dtype.kind in "iu":
        limits = np.iinfo(values.dtype)
        if not math.isfinite(nodata) or nodata % 1 or not limits.min <= nodata <= limits.max:
            return _nowhere(values)
        return np.asarray(values == values.dtype.type(int(nodata)))
    with np.errstate(over="ignore"):
        # A tag such as -3.4028234663852886e+38 means the nearest float32, which is what is stored.
        return np.asarray(values == values.dtype.type(nodata))


def _nowhere(values: Values) -> Valid:
    return np.zeros(values.shape, dtype=np.bool_)


def _bands_with_mask(dataset: Any, bands: Sequence[int]) -> tuple[int, ...]:
    """Bands whose internal or external mask has to be read (one is enough if all share it)."""
    found = []
    for band in dict.fromkeys(bands):
        flags = dataset.mask_flag_enums[band - 1]
        if {MaskFlags.all_valid, MaskFlags.alpha, MaskFlags.nodata} & set(flags):
            continue
        found.append(band)
        if MaskFlags.per_dataset in flags:
            break
    return tuple(found)


def _palette(dataset: Any, band: int) -> tuple[npt.NDArray[np.uint8], Valid]:
    """Colours (n, 3) and opacity (n,) of a band's colour table."""
    table = dataset.colormap(band)
    size = max(table) + 1
    rgba = np.zeros((size, 4), dtype=np.uint8)
    for index, colour in table.items():
        rgba[index] = colour
    return rgba[:, :3].copy(), rgba[:, 3] > 0
