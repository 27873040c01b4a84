"""Opening and reading GDAL rasters with messages that a user can act on."""

import difflib
import hashlib
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import rasterio
import rasterio.env
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from rsmamba_cli.errors import InputError

_REMOTE_DEFAULTS = {
    "GDAL_HTTP_MAX_RETRY": "4",
    "GDAL_HTTP_RETRY_DELAY": "1",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
}
# rasterio wraps most of what GDAL reports, and lets some of it through as it is.
GDAL_ERRORS = (RasterioError, CPLE_BaseError)
_SIDE_FILES_WITHOUT_PIXELS = (".aux.xml", ".ovr")


def is_virtual(path: str | os.PathLike[str]) -> bool:
    """Whether a name is for GDAL alone to resolve: /vsi paths, URLs, ``NETCDF:...``."""
    text = os.fspath(path)
    if text.startswith(("/vsi", "<VRTDataset")) or "://" in text:
        return True
    return bool(re.match(r"[A-Z][A-Z0-9_]{2,}:", text)) and not Path(text).exists()


def open_dataset(path: str | os.PathLike[str], **options: Any) -> Any:
    """Open a raster for reading.

    Args:
        path: a file, or a name that GDAL resolves (``/vsizip/...``, ``https://...``).
        options: open options of the driver.

    Returns:
        The open rasterio dataset, with at least one band.

    Raises:
        InputError: no such file, a folder, not a raster, or a container of several rasters.
    """
    text = os.fspath(path)
    # A Path is handed over so that rasterio takes local names literally, "?", "#" and ":" included.
    name: str | Path = text if is_virtual(text) else _existing_file(Path(text))
    try:
        with _patient(), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            dataset = rasterio.open(name, **options)
    except GDAL_ERRORS as error:
        raise InputError(
            f"{text}: not a raster that GDAL can open ({_reason(error)}). Give a GeoTIFF, COG, "
            "VRT, JPEG 2000, PNG or any other format of your GDAL."
        ) from error
    if dataset.count == 0:
        parts = dataset.subdatasets
        dataset.close()
        listing = "".join(f"\n  {part}" for part in parts[:12])
        raise InputError(
            f"{text}: holds no raster bands itself"
            + (f"; name one of its rasters:{listing}" if parts else "")
        )
    return dataset


def _existing_file(path: Path) -> Path:
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; name the raster file inside it")
        if path.exists():
            return path
    except OSError as error:
        raise InputError(f"{path}: cannot be reached ({error.strerror or error})") from error
    hint = "check the name"
    folder = path.parent
    if not folder.is_dir():
        hint = f"the folder {folder} does not exist either"
    else:
        try:
            near = difflib.get_close_matches(path.name, [p.name for p in folder.iterdir()], n=1)
        except OSError:
            near = []
        if near:
            hint = f"did you mean {folder / near[0]}?"
    raise InputError(f"{path}: no such file ({hint})")


def _reason(error: BaseException) -> str:
    """The innermost message that GDAL gave."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def reading(path: str, row: int, height: int) -> Iterator[None]:
    """Turn a failed read into an `InputError` that names the file and the rows.

    GDAL prints to stderr what no `rasterio.Env` of the same thread listens to, so one is entered.
    """
    try:
        with _patient():
            yield
    except GDAL_ERRORS as error:
        raise InputError(
            f"{path}: rows {row} to {row + height - 1} cannot be read ({_reason(error)}). The file "
            "is damaged or incomplete; copy or download it again."
        ) from error
    except (MemoryError, ValueError) as error:
        if isinstance(error, ValueError) and "larger than" not in str(error):
            raise
        raise InputError(
            f"{path}: rows {row} to {row + height - 1} do not fit in memory"
        ) from error


def _patient() -> Any:
    """An Env in which failed requests are made again; settings belong to a thread and a handle."""
    return rasterio.Env(**_not_set(_REMOTE_DEFAULTS))


@contextmanager
def gdal_settings(cache_bytes: int) -> Iterator[None]:
    """GDAL's block cache sized to the job, unless the user has set it."""
    with rasterio.Env(**_not_set({"GDAL_CACHEMAX": cache_bytes})):
        yield


def _not_set(wanted: Mapping[str, Any]) -> dict[str, Any]:
    """What the user has set neither in the environment nor in an outer ``rasterio.Env``."""
    outer = rasterio.env.getenv() if rasterio.env.hasenv() else {}
    return {k: v for k, v in wanted.items() if k not in os.environ and k not in outer}


def file_identity(dataset: Any) -> list[dict[str, Any]]:
    """What tells a changed input from the same one: name, size and time of every file behind it.

    Statistics and overviews beside a raster are left out: viewers add them, and they hold no pixel
    that is read. Rasters without local files answer with a hash of their first block.
    """
    files = []
    for name in dataset.files:
        path = Path(name)
        if not path.is_file() or name.endswith(_SIDE_FILES_WITHOUT_PIXELS):
            continue
        status = path.stat()
        files.append({"name": path.name, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns})
    if not files:
        (_, window) = next(iter(dataset.block_windows(1)))
        with reading(dataset.name, window.row_off, window.height):
            sample = dataset.read(1, window=window)
        digest = hashlib.sha256(sample.tobytes()).hexdigest()
        files.append({"name": dataset.name, "first_block_sha256": digest})
    return sorted(files, key=lambda entry: str(entry["name"]))


def local_identity(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Name, size and time of one local file (an AOI, a checkpoint)."""
    try:
        status = Path(path).stat()
    except OSError:
        return {"name": os.fspath(path)}
    return {"name": Path(path).name, "bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
