"""Quick-looks: small PNGs of a scene, its mask and, for change, both dates.

Everything is read decimated (overviews are used where the file has them), so that memory follows
the picture's size and not the scene's.
"""

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.vrt import WarpedVRT

from rsmamba_cli.errors import InputError, OutputError
from rsmamba_cli.raster.bands import choose_bands
from rsmamba_cli.raster.grid import Grid
from rsmamba_cli.raster.opening import open_dataset, reading
from rsmamba_cli.report.painting import (
    DISTINCT,
    RGB,
    Bools,
    Bytes,
    Panel,
    checkered,
    compose,
    greyed,
    overlay,
    stretch,
)

PathLike = str | os.PathLike[str]

_SMALL = 320
_CLASS_TAG = re.compile(r"class[_ ]?(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Frame:
    """The area of a quick-look (``full``) and its decimated grid (``small``)."""

    full: Grid
    small: Grid


@dataclass(frozen=True, slots=True)
class _Mask:
    """A decimated class mask: values, where it has any, colours and names of what it shows."""

    values: npt.NDArray[np.integer]
    valid: Bools
    colors: dict[int, RGB]
    names: dict[int, str]


def write_quicklook(
    image: PathLike,
    mask: PathLike | None,
    png: PathLike,
    *,
    bands: Sequence[int] | None = None,
    truth: PathLike | None = None,
    max_side: int = 1024,
    opacity: float = 0.45,
    side_by_side: bool = True,
    overwrite: bool = False,
) -> Path:
    """Write a picture of a scene and the mask made from it.

    The picture has the mask's grid (the image's without a mask); an image on another grid is warped
    on to it. 8-bit bands are shown as they are, others stretched between their 2nd and 98th
    percentile. Missing pixels are checkered. Background (value 0) is not painted.

    Args:
        image: scene, any raster that GDAL reads.
        mask: class mask, or None for the scene alone.
        png: where to write.
        bands: 1-based numbers of one or three bands to show; by default red, green and blue.
        truth: reference mask, shown in a panel of its own.
        max_side: longer side of a panel in pixels, at most.
        opacity: of the painted areas, 0..1.
        side_by_side: show the bare image beside the painted one.
        overwrite: replace an existing file.

    Returns:
        ``png`` as a path.

    Raises:
        InputError: an input cannot be read, or does not lie on the same ground.
        OutputError: the file exists or cannot be written.
    """
    target = _target(png, overwrite)
    frame = _frame(image if mask is None else mask, max_side)
    pixels, valid = _read_image(image, frame, bands)
    ground = checkered(pixels, valid)
    panels = [Panel("image", ground)] if side_by_side or mask is None else []
    legend: dict[str, RGB | None] = {}
    known: dict[int, RGB] = {}
    for title, path in (("mask", mask), ("reference", truth)):
        if path is not None:
            found = _read_mask(path, frame, known)
            painted = overlay(pixels, found.values, found.colors, opacity)
            panels.append(Panel(title, checkered(painted, found.valid)))
            legend |= _entries(found)
            known |= found.colors
            valid &= found.valid
    return _finish(panels, legend, bool(valid.all()), frame, target)


def write_change_quicklook(
    t1: PathLike,
    t2: PathLike,
    mask: PathLike,
    png: PathLike,
    *,
    bands: Sequence[int] | None = None,
    truth: PathLike | None = None,
    max_side: int = 1024,
    opacity: float = 0.75,
    overwrite: bool = False,
) -> Path:
    """Write a picture of both dates and the changes between them, on the mask's grid.

    Args:
        t1: first date.
        t2: second date, on any grid.
        mask: change mask.
        png: where to write.
        bands: 1-based numbers of one or three bands to show; by default red, green and blue.
        truth: reference mask, shown in a panel of its own.
        max_side: longer side of a panel in pixels, at most.
        opacity: of the painted areas, 0..1.
        overwrite: replace an existing file.

    Returns:
        ``png`` as a path.

    Raises:
        InputError: an input cannot be read, or does not lie on the same ground.
        OutputError: the file exists or cannot be written.
    """
    target = _target(png, overwrite)
    frame = _frame(mask, max_side)
    first, valid = _read_image(t1, frame, bands)
    second, valid2 = _read_image(t2, frame, bands)
    panels = [
        Panel("first date", checkered(first, valid)),
        Panel("second date", checkered(second, valid2)),
    ]
    legend: dict[str, RGB | None] = {}
    known: dict[int, RGB] = {}
    complete = bool(valid.all() and valid2.all())
    for title, path in (("change", mask), ("reference", truth)):
        if path is not None:
            found = _read_mask(path, frame, known)
            painted = overlay(greyed(second), found.values, found.colors, opacity)
            panels.append(Panel(title, checkered(painted, found.valid)))
            legend |= _entries(found)
            known |= found.colors
            complete &= bool(found.valid.all())
    return _finish(panels, legend, complete, frame, target)


def _target(png: PathLike, overwrite: bool) -> Path:
    target = Path(png)
    if target.exists() and not overwrite:
        raise OutputError(f"{target} exists already; use --overwrite to replace it")
    return target


def _frame(path: PathLike, max_side: int) -> _Frame:
    if max_side < 16:
        raise InputError(f"a quick-look needs at least 16 pixels a side, not {max_side}")
    with open_dataset(path) as dataset:
        full = Grid.of(dataset)
    factor = min(1.0, max_side / max(full.shape))
    height, width = (max(1, round(side * factor)) for side in full.shape)
    return _Frame(full, full.decimated(height, width))


def _placed(dataset: Any, frame: _Frame, path: PathLike, resampling: Resampling) -> Any:
    """The dataset itself when it has the frame's grid, else a view of it warped on to it.

    Raises:
        InputError: the two have no common ground.
    """
    own = Grid.of(dataset)
    if own.shape == frame.full.shape and (
        frame.full.offset_of(own) == (0, 0)
        or not (own.has_georeference and frame.full.has_georeference)
    ):
        return dataset
    crs, transform = frame.small.crs, frame.small.transform
    if crs is None or transform is None or own.world_crs is None:
        raise InputError(
            f"{os.fspath(path)}: cannot be shown together with the mask ({own.describe()} against "
            f"{frame.full.describe()}); both need a CRS, or the same size and none"
        )
    mask_known = dataset.nodata is not None or MaskFlags.alpha in dataset.mask_flag_enums[0]
    return WarpedVRT(
        dataset,
        crs=crs,
        transform=transform,
        height=frame.small.height,
        width=frame.small.width,
        resampling=resampling,
        add_alpha=not mask_known,
        **({} if own.crs or not own.gcps else {"src_crs": own.gcp_crs}),
    )


def _read_image(path: PathLike, frame: _Frame, bands: Sequence[int] | None) -> tuple[Bytes, Bools]:
    """(H, W, 3) uint8 for the eye and (H, W) validity on the small grid."""
    shape = frame.small.shape
    with open_dataset(path) as dataset, reading(os.fspath(path), 0, dataset.height):
        choice = choose_bands(dataset, bands, 3 if _one_palette_band(dataset, bands) else None)
        numbers = choice.bands if bands else _for_the_eye(dataset, choice.bands)
        if len(numbers) not in (1, 3):
            raise InputError(f"a picture shows one band or three, not {len(numbers)}")
        # Palette indices are names, not quantities: their mean would be another colour.
        method = Resampling.nearest if choice.expand_palette else Resampling.average
        placed = _placed(dataset, frame, path, method)
        values = placed.read(list(numbers), out_shape=(len(numbers), *shape), resampling=method)
        valid = np.asarray(
            placed.dataset_mask(out_shape=shape, resampling=Resampling.nearest) != 0, np.bool_
        )
        if choice.expand_palette:
            table = np.zeros((256, 3), np.uint8)
            for index, color in dataset.colormap(numbers[0]).items():
                table[index & 255] = color[:3]
            values = np.moveaxis(table[values[0] & 255], -1, 0)
        if placed is not dataset:
            placed.close()
    if values.dtype.kind == "f":
        valid &= np.isfinite(values).all(axis=0)
    rgb = stretch(values, valid)
    if len(rgb) == 1:
        rgb = np.repeat(rgb, 3, axis=0)
    return np.ascontiguousarray(np.moveaxis(rgb, 0, -1)), valid


def _one_palette_band(dataset: Any, bands: Sequence[int] | None) -> bool:
    if bands is not None and len(bands) != 1:
        return False
    band = bands[0] if bands else 1
    lone = bands is not None or dataset.count == 1
    return bool(
        lone and 1 <= band <= dataset.count and dataset.colorinterp[band - 1] == ColorInterp.palette
    )


def _for_the_eye(dataset: Any, bands: tuple[int, ...]) -> tuple[int, ...]:
    """Red, green and blue where the file names them, else the first three bands, else one."""
    colors = {dataset.colorinterp[band - 1]: band for band in reversed(bands)}
    wanted = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    if all(color in colors for color in wanted):
        return tuple(colors[color] for color in wanted)
    return bands[:3] if len(bands) >= 3 else bands[:1]


def _read_mask(path: PathLike, frame: _Frame, known: Mapping[int, RGB]) -> _Mask:
    """A class mask on the small grid; classes in ``known`` keep the colour they have there."""
    shape = frame.small.shape
    with open_dataset(path) as dataset, reading(os.fspath(path), 0, dataset.height):
        if np.dtype(dataset.dtypes[0]).kind not in "iu":
            raise InputError(
                f"{os.fspath(path)}: holds {dataset.dtypes[0]} numbers, not class values; give a "
                "mask, not probabilities"
            )
        placed = _placed(dataset, frame, path, Resampling.nearest)
        values = placed.read(1, out_shape=shape, resampling=Resampling.mode)
        valid = np.asarray(
            placed.read_masks(1, out_shape=shape, resampling=Resampling.nearest) != 0, np.bool_
        )
        if dataset.nodata is not None:
            valid &= values != dataset.nodata
        try:
            table = {k: v[:3] for k, v in dataset.colormap(1).items() if v[3] and any(v[:3])}
        except ValueError:
            table = {}
        names = {
            int(match[1]): text
            for key, text in dataset.tags(1).items()
            if (match := _CLASS_TAG.fullmatch(key))
        }
        if placed is not dataset:
            placed.close()
    colors: dict[int, RGB] = {}
    for rank, value in enumerate(v for v in np.unique(values[valid]).tolist() if v != 0):
        colors[value] = known.get(value) or table.get(value, DISTINCT[rank % len(DISTINCT)])
    return _Mask(np.where(valid, values, 0), valid, colors, names)


def _entries(mask: _Mask) -> dict[str, RGB | None]:
    return {mask.names.get(v, f"class {v}"): color for v, color in mask.colors.items()}


def _finish(
    panels: list[Panel],
    legend: dict[str, RGB | None],
    complete: bool,
    frame: _Frame,
    target: Path,
) -> Path:
    """Enlarge tiny pictures, compose the sheet and write it under its name only when complete."""
    if not complete:
        legend = {**legend, "no data": None}
    factor = max(1, _SMALL // max(frame.small.shape))
    enlarged = [
        Panel(p.title, p.pixels.repeat(factor, axis=0).repeat(factor, axis=1)) for p in panels
    ]
    page = compose(enlarged, list(legend.items()))
    _save(page, target)
    return target


def _save(page: Image.Image, target: Path) -> None:
    temporary = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as file:
            page.save(file, format="PNG", optimize=False)
        temporary.replace(target)
    except OSError as error:
        raise OutputError(f"{target}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
