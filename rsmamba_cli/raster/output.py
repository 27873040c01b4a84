"""Finished rasters: cloud-optimised GeoTIFFs that appear under their name only when complete."""

import contextlib
import errno
import os
import shutil
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.shutil
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window

from rsmamba_cli.errors import OutputError
from rsmamba_cli.raster.blocks import sync_folder
from rsmamba_cli.raster.grid import Grid
from rsmamba_cli.raster.opening import GDAL_ERRORS

Array = npt.NDArray[Any]

BLOCK = 512
_COLUMNS = 16 * BLOCK
"""That are written at a time, so that memory does not follow the width."""
# Halving a narrower raster soon leaves one pixel across, which validators take for an error.
_LEAST_WITH_OVERVIEWS = 64

SCALE = 0.004
FULL = 250


@dataclass(frozen=True)
class RasterSpec:
    """What a finished raster holds beside its pixels.

    Attributes:
        dtype: numpy name.
        nodata: value of pixels without an answer.
        band_names: a description for each band.
        tags: tags of the file.
        band_tags: tags of the first band (class names).
        colors: value to (red, green, blue); empty for no colour table.
        scale: value times this is the quantity, or None.
        resampling: how overviews are made ("mode" for classes, "average" for quantities).
    """

    dtype: str
    nodata: int
    band_names: tuple[str, ...]
    tags: Mapping[str, str] = field(default_factory=dict)
    band_tags: Mapping[str, str] = field(default_factory=dict)
    colors: Mapping[int, tuple[int, int, int]] = field(default_factory=dict)
    scale: float | None = None
    resampling: str = "mode"


ReadPart = Callable[[int, int, int, int], Array]
"""``read(first, last, left, right)``: these rows and columns of all bands, (bands, h, w)."""


def write_cog(
    path: Path,
    grid: Grid,
    spec: RasterSpec,
    read: ReadPart,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Write a COG part by part, and read it back before calling it written.

    GDAL's COG driver keeps the whole raster in memory when written to directly, so a tiled file is
    written first, some blocks at a time, and then copied. GDAL reports a full disk late or not at
    all, so every pixel and every overview is read again and compared.

    Args:
        path: where to write; ``path`` plus ".tiled" is used and removed again.
        grid: size and georeference, taken over to the last bit.
        spec: the rest.
        read: gives what is written; asked once for every part of `parts`, in their order.
        check: called between parts; may raise to stop the work.

    Raises:
        OutputError: the file could not be written in full.
    """
    tiled = path.with_name(path.name + ".tiled")
    checksum = 0
    creation: dict[str, Any] = {
        "driver": "GTiff",
        "tiled": True,
        "blockxsize": BLOCK,
        "blockysize": BLOCK,
        "compress": "DEFLATE",
        "zlevel": 1,
        "bigtiff": "IF_SAFER",
        "interleave": "band",
        "count": len(spec.band_names),
        "dtype": spec.dtype,
        "nodata": spec.nodata,
        **grid.profile(),
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(tiled, "w", **creation) as dataset:
                _describe(dataset, spec)
                for first, last, left, right in parts(*grid.shape):
                    check()
                    part = read(first, last, left, right)
                    window = Window(left, first, right - left, last - first)
                    dataset.write(part, window=window)
                    checksum = zlib.crc32(np.ascontiguousarray(part).data, checksum)
            rasterio.shutil.copy(
                tiled,
                path,
                driver="COG",
                compress="DEFLATE",
                blocksize=_cog_block(*grid.shape),
                bigtiff="IF_SAFER",
                overviews="AUTO" if min(grid.shape) >= _LEAST_WITH_OVERVIEWS else "NONE",
                overview_resampling=spec.resampling.upper(),
            )
            check()
            _verify(path, checksum)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    except (*GDAL_ERRORS, OSError) as error:
        raise OutputError(_write_failure(path, error)) from error
    finally:
        with contextlib.suppress(OSError):
            tiled.unlink(missing_ok=True)


def parts(height: int, width: int) -> Iterator[tuple[int, int, int, int]]:
    """Rows and columns (first, last, left, right) of the parts in which rasters are written.

    They hold whole blocks, go from the left to the right, and then down.
    """
    for first in range(0, height, BLOCK):
        for left in range(0, width, _COLUMNS):
            yield first, min(first + BLOCK, height), left, min(left + _COLUMNS, width)


def _cog_block(height: int, width: int) -> int:
    """Block size of the COG: 512, or less where that is just the width of a tall level.

    A block as wide as its raster cannot be told from a strip, and validators call it untiled.
    """
    levels = {(-(-height >> k), -(-width >> k)) for k in range(32)}
    for size in (BLOCK, BLOCK // 2):
        if not any(w == size and h > BLOCK for h, w in levels):
            return size
    return BLOCK // 4


def _describe(dataset: Any, spec: RasterSpec) -> None:
    dataset.update_tags(**spec.tags)
    for band, name in enumerate(spec.band_names, start=1):
        dataset.set_band_description(band, name)
    if spec.band_tags:
        dataset.update_tags(1, **spec.band_tags)
    if spec.colors:
        table = {value: (*color, 255) for value, color in spec.colors.items()}
        dataset.write_colormap(1, {**table, spec.nodata: (0, 0, 0, 0)})
    if spec.scale is not None:
        dataset.scales = (spec.scale,) * len(spec.band_names)


def _verify(path: Path, checksum: int) -> None:
    """Read everything back; raises a rasterio error or an OSError when something is missing."""
    with rasterio.open(path) as dataset:
        found = 0
        levels = len(dataset.overviews(1))
        for part in _parts_of(dataset):
            found = zlib.crc32(np.ascontiguousarray(part).data, found)
    if found != checksum:
        raise OSError(errno.EIO, "what was written is not what can be read back")
    for level in range(levels):
        with rasterio.open(path, overview_level=level) as dataset:
            for _ in _parts_of(dataset):
                pass


def _parts_of(dataset: Any) -> Iterator[Array]:
    for first, last, left, right in parts(dataset.height, dataset.width):
        yield dataset.read(window=Window(left, first, right - left, last - first))


def _write_failure(path: Path, error: BaseException) -> str:
    reason = str(error)
    while error.__cause__ is not None:
        error = error.__cause__
        reason = str(error)
    with contextlib.suppress(OSError):
        if shutil.disk_usage(path.parent).free < 1 << 20:
            reason = "the disk is full"
    return f"{path.parent}: the output could not be written ({reason})"


def publish(temporary: Path, final: Path) -> None:
    """Put a finished file under its final name in one step, replacing what is there.

    Raises:
        OutputError: the folder of ``final`` cannot be written.
    """
    try:
        try:
            temporary.replace(final)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            # Another file system: copy beside the final name first, so that it too appears at once.
            beside = final.with_name(f".{final.name}.{os.getpid()}.new")
            try:
                shutil.copyfile(temporary, beside)
                with beside.open("rb") as file:
                    os.fsync(file.fileno())
                beside.replace(final)
            finally:
                beside.unlink(missing_ok=True)
            temporary.unlink()
    except OSError as error:
        raise OutputError(f"{final}: cannot be written ({error.strerror or error})") from error
    sync_folder(final.parent)


def check_writable(final: Path) -> None:
    """Refuse an output early if its folder is missing or read-only.

    Raises:
        OutputError: says which.
    """
    folder = final.parent
    if not folder.is_dir():
        raise OutputError(f"{final}: the folder {folder} does not exist; create it first")
    if final.is_dir():
        raise OutputError(f"{final}: is a folder; name a file")
    # os.access believes the superuser can write to read-only mounts, so a file is tried.
    probe = folder / f".{final.name}.{os.getpid()}.probe"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OutputError(
            f"{final}: the folder {folder} cannot be written ({error.strerror or error})"
        ) from error


def read_provenance(path: Path) -> tuple[dict[str, str], Grid | None]:
    """The tags and the grid of a finished raster; nothing when it is not one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as dataset:
                return {str(k): str(v) for k, v in dataset.tags().items()}, Grid.of(dataset)
    except GDAL_ERRORS:
        return {}, None
