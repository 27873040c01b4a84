"""Reading and writing single tiles through GDAL: any dtype, any number of bands."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from rsmamba_cli.datasets.info import Color, DatasetClass
from rsmamba_cli.errors import DatasetError, OutputError

SUFFIXES = frozenset({".png", ".tif", ".tiff", ".jpg", ".jpeg", ".jp2", ".bmp", ".webp", ".vrt"})
"""What counts as an image by name; what the bytes really are is GDAL's business."""

Box = tuple[int, int, int, int]
"""Row, column, height, width of a part of a tile, in pixels."""


@dataclass(frozen=True, slots=True)
class TileHeader:
    """What is known of a tile without reading its pixels.

    Attributes:
        height, width: in pixels.
        bands: names of the bands that carry data (alpha is a mask, not a band).
        dtype: the numpy name of the values.
        crs: as WKT, or None.
        transform: pixel to map coordinates, or None where the file has none.
        stored: names of all bands, alpha included.
    """

    height: int
    width: int
    bands: tuple[str, ...]
    dtype: str
    crs: str | None
    transform: Affine | None
    stored: tuple[str, ...] = ()


@contextmanager
def open_raster(path: Path) -> Iterator[Any]:
    """Open ``path`` for reading; tiles without georeference are normal and raise no warning.

    Raises:
        DatasetError: GDAL cannot open or read the file.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            with rasterio.open(path) as source:
                yield source
        except RasterioError as error:
            raise DatasetError(f"{path} cannot be read as an image: {error}") from error


def list_images(folder: Path, nested: bool = False) -> dict[str, Path]:
    """Map the stem of every image in ``folder`` to its path, sorted by path.

    Hidden files and files that are no images by name (world files, text, statistics) are left out.

    Args:
        folder: where to look.
        nested: look in the folders below it too.

    Raises:
        DatasetError: two files have the same stem.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*") if nested else folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() not in SUFFIXES or path.is_dir():
            continue
        if path.stem in found:
            raise DatasetError(
                f"{folder} holds {found[path.stem].relative_to(folder)} and "
                f"{path.relative_to(folder)}: one file a stem is "
                "needed, because images and labels are paired by stem. Remove one of them."
            )
        found[path.stem] = path
    return found


def _data_bands(source: Any) -> list[int]:
    """1-based numbers of the bands that are not alpha."""
    return [
        number
        for number, meaning in zip(source.indexes, source.colorinterp, strict=True)
        if meaning is not ColorInterp.alpha
    ]


def _band_names(source: Any, numbers: list[int]) -> tuple[str, ...]:
    """Name bands by description, else by colour, else by number."""
    if _palette(source) is not None:
        return ("red", "green", "blue")
    names = []
    for number in numbers:
        described = source.descriptions[number - 1]
        meaning = source.colorinterp[number - 1].name
        names.append(
            described or (meaning if meaning in ("red", "green", "blue") else f"b{number}")
        )
    return tuple(names)


def _palette(source: Any) -> dict[int, tuple[int, ...]] | None:
    """The colour table of a one-band palette image, or None."""
    if source.count == 1 and source.colorinterp[0] is ColorInterp.palette:
        table: dict[int, tuple[int, ...]] = source.colormap(1)
        return table
    return None


def read_header(path: Path) -> TileHeader:
    """Read size, bands, dtype and georeference of a tile.

    Raises:
        DatasetError: the file cannot be opened.
    """
    with open_raster(path) as source:
        placed = source.crs is not None or source.transform != Affine.identity()
        return TileHeader(
            height=source.height,
            width=source.width,
            bands=_band_names(source, _data_bands(source)),
            dtype=source.dtypes[0],
            crs=source.crs.to_wkt() if source.crs else None,
            transform=source.transform if placed else None,
            stored=_band_names(source, list(source.indexes)),
        )


def read_image(
    path: Path,
    bands: tuple[int, ...] | None = None,
    box: Box | None = None,
    nodata: float | None = None,
) -> tuple[NDArray[Any], NDArray[np.bool_] | None]:
    """Read the data bands of a tile and where they are valid.

    A pixel is invalid where all bands hold the no-data value, where any band is NaN, or where an
    alpha band or mask says so. NaN is replaced by 0 in the result.

    Args:
        path: the tile.
        bands: 1-based numbers of the bands to read, or None for all but alpha.
        box: the part to read, inside the tile, or None for all of it.
        nodata: a no-data value that the file does not declare.

    Returns:
        Array (C, H, W) in the file's dtype, and bool (H, W) or None when all of it is valid.

    Raises:
        DatasetError: the file cannot be read, or lacks a band that was asked for.
    """
    with open_raster(path) as source:
        window = Window(box[1], box[0], box[3], box[2]) if box else None
        palette = _palette(source)
        if palette is not None:
            table = np.zeros((256, 3), np.uint8)
            for value, color in palette.items():
                table[value] = color[:3]
            painted = np.moveaxis(table[source.read(1, window=window)], -1, 0)
            return (painted if bands is None else painted[[b - 1 for b in bands]]), None
        numbers = list(bands) if bands is not None else _data_bands(source)
        if missing := [b for b in numbers if not 1 <= b <= source.count]:
            raise DatasetError(f"{path} has {source.count} bands; band {missing[0]} was asked for.")
        array = source.read(numbers, window=window)
        valid = np.ones(array.shape[1:], bool)
        declared = source.nodata if nodata is None else nodata
        if declared is not None and not np.isnan(declared):
            valid &= ~(array == declared).all(axis=0)
        if np.issubdtype(array.dtype, np.floating):
            holes = np.isnan(array)
            valid &= ~holes.any(axis=0)
            array = np.where(holes, array.dtype.type(0), array)
        flags = {flag for enums in source.mask_flag_enums for flag in enums}
        # What is called alpha may be a band of data, when it is asked for by its number.
        data = any(source.colorinterp[b - 1] is ColorInterp.alpha for b in numbers)
        if not data and (MaskFlags.per_dataset in flags or MaskFlags.alpha in flags):
            valid &= source.dataset_mask(window=window) > 0
    return array, None if valid.all() else valid


def is_picture(path: Path) -> bool:
    """Whether a file has a red, a green and a blue band (a colour table does not count).

    Raises:
        DatasetError: the file cannot be opened.
    """
    with open_raster(path) as source:
        return len(_data_bands(source)) == 3


def read_label(
    path: Path, box: Box | None = None, palette: Mapping[Color, int] | None = None
) -> NDArray[Any]:
    """Read a label file as the numbers it holds, (H, W).

    Three equal bands (grey saved as RGB) count as one; an alpha band is left out.

    Args:
        path: the file.
        box: the part to read; None for all.
        palette: colour -> number, for files of three bands that are pictures in these colours.

    Raises:
        DatasetError: the file cannot be read, is a coloured picture without a palette or with
            other colours, or holds no whole numbers.
    """
    with open_raster(path) as source:
        window = Window(box[1], box[0], box[3], box[2]) if box else None
        array = source.read(_data_bands(source), window=window)
    if palette is not None and len(array) == 3:
        return _by_color(path, array, palette)
    if len(array) > 1 and not (array == array[:1]).all():
        raise DatasetError(
            f"{path} is a coloured picture ({len(array)} different bands). A label file holds one "
            "band of class numbers; convert the colours to class numbers first."
        )
    label: NDArray[Any] = array[0]
    if np.issubdtype(label.dtype, np.floating):
        if not np.array_equal(label, np.round(label)):
            raise DatasetError(f"{path} holds fractions; a label file holds whole class numbers.")
        label = label.astype(np.int64)
    return label.astype(np.uint8) if label.dtype == bool else label


def _by_color(path: Path, array: NDArray[Any], palette: Mapping[Color, int]) -> NDArray[Any]:
    """Numbers for the colours (3, H, W) of a picture."""
    packed = (array.astype(np.int64) << np.array([16, 8, 0])[:, None, None]).sum(axis=0)
    known = {red << 16 | green << 8 | blue: v for (red, green, blue), v in palette.items()}
    found, place = np.unique(packed, return_inverse=True)
    if strange := [c for c in found.tolist() if c not in known]:
        shown = ", ".join(str((c >> 16, c >> 8 & 255, c & 255)) for c in strange[:5])
        raise DatasetError(
            f"{path} holds {len(strange)} colour(s) of no class: {shown}. The classes' are "
            f"{', '.join(map(str, palette))}."
        )
    values = np.array([known[c] for c in found.tolist()])
    return values[place].reshape(packed.shape)


def write_tile(
    path: Path,
    array: NDArray[Any],
    like: TileHeader | None = None,
    classes: tuple[DatasetClass, ...] = (),
    nodata: float | None = None,
) -> Path:
    """Write an array as PNG, or as GeoTIFF when it has a georeference or PNG cannot hold it.

    The file appears under its name only when complete.

    Args:
        path: where to write; its suffix is replaced by the one that fits.
        array: (H, W) or (C, H, W).
        like: the georeference to write, for an array of the same size.
        classes: paint these values (GeoTIFF and PNG colour table of one-band uint8).
        nodata: declared as the no-data value (GeoTIFF).

    Returns:
        The path written.

    Raises:
        OutputError: the file cannot be written.
    """
    bands = array[None] if array.ndim == 2 else array
    placed = like is not None and like.transform is not None
    as_png = not placed and bands.dtype == np.uint8 and len(bands) in (1, 3)
    target = path.with_name(path.name + (".png" if as_png else ".tif"))
    temporary = target.with_name(f".{target.name}.partial")
    profile: dict[str, Any] = {
        "driver": "PNG" if as_png else "GTiff",
        "count": len(bands),
        "height": bands.shape[1],
        "width": bands.shape[2],
        "dtype": bands.dtype,
    }
    if not as_png:
        profile |= {"compress": "deflate", "predictor": 2 if bands.dtype.kind in "iu" else 3}
        profile |= {"nodata": nodata}
    if placed and like is not None:
        profile |= {"crs": like.crs, "transform": like.transform}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(temporary, "w", **profile) as sink:
                sink.write(bands)
                if classes and len(bands) == 1 and bands.dtype == np.uint8:
                    colors = {c.value: (*c.color, 255) for c in classes if 0 <= c.value <= 255}
                    if nodata is not None:
                        # A PNG's colour table has to reach as far as its values.
                        colors[int(nodata)] = (128, 128, 128, 255)
                    sink.write_colormap(1, colors)
        temporary.replace(target)
    except (RasterioError, OSError) as error:
        temporary.unlink(missing_ok=True)
        raise OutputError(f"{target} cannot be written: {error}") from error
    # GDAL's PNG driver notes what PNG cannot hold (a CRS, statistics) in a side file.
    temporary.with_name(temporary.name + ".aux.xml").unlink(missing_ok=True)
    return target
