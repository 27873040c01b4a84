"""Finding the sheets of a mosaic: files, folders, patterns, index files, VRTs, STAC items."""

import glob
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rsmamba_cli.errors import InputError
from rsmamba_cli.raster.opening import is_virtual, open_dataset

_RASTERS = (".tif", ".tiff", ".jp2", ".img", ".png", ".jpg")
_INDEXES = (".gpkg", ".shp", ".fgb", ".geojson")
_STAC_RASTERS = ("image/tiff", "image/jp2", "image/vnd.stac.geotiff")
_LOCATION = "location"


def find_sheets(names: Sequence[str]) -> list[str]:
    """The rasters that some names stand for, in that order and each once.

    Args:
        names: a raster; a folder of rasters; a pattern such as ``tiles/*.tif``; a VRT, for its
            sources; a vector file with a column ``location``, as gdaltindex makes it; a STAC item
            or item collection, for its first raster asset with the role "data", else its first.

    Raises:
        InputError: a name stands for nothing.
    """
    found: dict[str, None] = {}
    for name in names:
        sheets = [os.fspath(sheet) for sheet in _sheets_of(name)]
        if not sheets:
            raise InputError(f"{name}: no sheets are there")
        found.update(dict.fromkeys(sheets))
    return list(found)


def _sheets_of(name: str) -> Iterable[str | Path]:
    path, suffix = Path(name), Path(name).suffix.lower()
    if is_virtual(name):
        return [name]
    if path.is_dir():
        return sorted(p for p in path.iterdir() if p.suffix.lower() in _RASTERS)
    if not path.exists() and glob.has_magic(name):
        found = glob.glob(name, recursive=True)  # noqa: PTH207 - of any root, absolute or not
        return sorted(p for p in found if Path(p).is_file())
    if suffix == ".vrt":
        with open_dataset(name) as dataset:
            return [p for p in dataset.files if Path(p).suffix.lower() != ".vrt"]
    if suffix in (".json", ".geojson") and (items := _stac_items(path)):
        return [_stac_raster(item, path) for item in items]
    if suffix in _INDEXES:
        return _indexed(path)
    return [name]


def _indexed(path: Path) -> list[Path]:
    """The rasters that a vector file lists; relative names are relative to it."""
    import pyogrio

    try:
        meta, _, _, fields = pyogrio.raw.read(path, read_geometry=False)
    except Exception as error:  # pyogrio's errors have no common base
        raise InputError(f"{path}: cannot be read as an index of sheets ({error})") from error
    columns = {
        str(column).lower(): values for column, values in zip(meta["fields"], fields, strict=True)
    }
    if _LOCATION not in columns:
        raise InputError(
            f"{path}: an index of sheets has a column {_LOCATION!r}; this one has "
            f"{', '.join(columns) or 'none'}"
        )
    return [path.parent / str(value) for value in columns[_LOCATION]]


def _stac_items(path: Path) -> list[dict[str, Any]]:
    """The STAC items in a JSON file; none when it is something else."""
    try:
        content = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(content, dict):
        return []
    items = content.get("features", [content])
    return [item for item in items if isinstance(item, dict) and "stac_version" in item]


def _stac_raster(item: dict[str, Any], path: Path) -> str:
    assets = [a for a in item.get("assets", {}).values() if isinstance(a, dict) and "href" in a]
    rasters = [
        a
        for a in assets
        if str(a.get("type", "")).startswith(_STAC_RASTERS)
        or Path(str(a["href"])).suffix.lower() in _RASTERS
    ]
    if not rasters:
        raise InputError(f"{path}: the item {item.get('id')} has no raster asset")
    chosen = next((a for a in rasters if "data" in a.get("roles", ())), rasters[0])
    href = str(chosen["href"])
    return href if is_virtual(href) or Path(href).is_absolute() else str(path.parent / href)
