"""Vector files: GeoPackage, GeoJSON and FlatGeobuf through pyogrio, GeoParquet through pyarrow."""

import importlib.util
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from rasterio.crs import CRS

from rsmamba_cli.errors import OutputError, RsmambaError

_DRIVERS = {".gpkg": "GPKG", ".geojson": "GeoJSON", ".json": "GeoJSON", ".fgb": "FlatGeobuf"}
LAYER = "classes"


_BATCH = 4096
"""Features that are passed on at a time."""


@dataclass(frozen=True)
class Features:
    """Geometries with attributes.

    Attributes:
        geometry: (n,) shapely polygons or multipolygons.
        attributes: name to (n,) values: integers, floats (NaN is null) or text.
    """

    geometry: npt.NDArray[Any]
    attributes: Mapping[str, npt.NDArray[Any]]


def check_vector_path(path: Path) -> None:
    """Refuse a name whose format cannot be written here.

    Raises:
        OutputError: unknown ending, or GeoParquet without pyarrow.
    """
    ending = path.suffix.lower()
    if ending == ".parquet":
        if not _has_pyarrow():
            raise OutputError(
                f"{path}: GeoParquet needs pyarrow, which is not installed; run "
                "pip install 'rsmamba[parquet]', or name a .gpkg, .geojson or .fgb file"
            )
    elif ending not in _DRIVERS:
        raise OutputError(f"{path}: polygons go to .gpkg, .geojson, .fgb or .parquet")


def _has_pyarrow() -> bool:
    return importlib.util.find_spec("pyarrow") is not None


def write_features(
    path: Path, batches: Iterable[Features], crs: CRS | None, tags: Mapping[str, str]
) -> None:
    """Write a vector file and sync it.

    With pyarrow installed, features go to the file as they come, and memory does not grow with
    their number; without, GeoPackages grow batch by batch and the other formats are gathered first.

    Args:
        path: its ending says the format; the file must not exist.
        batches: what to write, all with the same attributes; at least one batch, maybe empty.
        crs: of the coordinates, or None. A GeoJSON file is in WGS 84 as RFC 7946 demands, unless
            the coordinates have no CRS.
        tags: metadata of the layer (GeoPackage, FlatGeobuf, GeoParquet).

    Raises:
        OutputError: it could not be written.
    """
    check_vector_path(path)
    try:
        if path.suffix.lower() == ".parquet":
            _write_parquet(path, batches, crs, tags)
        elif _has_pyarrow():
            _write_streaming(path, batches, crs, tags)
        else:
            _write_gathered(path, batches, crs, tags)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    except (RsmambaError, KeyboardInterrupt):
        raise
    except Exception as error:  # pyogrio and pyarrow each have families of their own
        raise OutputError(f"{path}: the polygons could not be written ({error})") from error


def _ogr_options(path: Path, crs: CRS | None, tags: Mapping[str, str]) -> dict[str, Any]:
    driver = _DRIVERS[path.suffix.lower()]
    options: dict[str, Any] = {
        "layer": LAYER,
        "driver": driver,
        "crs": None if crs is None else _crs_text(crs),
        # Simplification may leave a region in several parts.
        "geometry_type": "Unknown",
    }
    if driver == "GeoJSON":
        if crs is not None:
            options["RFC7946"] = "YES"
    elif tags:
        options["layer_metadata"] = dict(tags)
    return options


def _write_streaming(
    path: Path, batches: Iterable[Features], crs: CRS | None, tags: Mapping[str, str]
) -> None:
    import pyarrow
    import pyogrio

    failure: list[BaseException] = []

    def tables(first: Any, rest: Iterator[Any]) -> Iterator[Any]:
        # An exception would be lost on its way through the other library.
        try:
            yield first
            yield from rest
        except BaseException as error:
            failure.append(error)
            raise

    source = (batch for features in batches for batch in _arrow(features))
    first = next(source)
    reader = pyarrow.RecordBatchReader.from_batches(first.schema, tables(first, source))
    options = _ogr_options(path, crs, tags)
    with warnings.catch_warnings():
        # Coordinates without a CRS are a documented case here, not a slip.
        warnings.filterwarnings("ignore", message=".*crs.*")
        try:
            pyogrio.write_arrow(reader, path, geometry_name="geometry", **options)
        except Exception:
            if failure:
                raise failure[0] from None
            raise


def _write_gathered(
    path: Path, batches: Iterable[Features], crs: CRS | None, tags: Mapping[str, str]
) -> None:
    import pyogrio

    options = _ogr_options(path, crs, tags)
    if options["driver"] != "GPKG":
        batches = [_joined(list(batches))]
    append = False
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*crs.*")
        for features in batches:
            pyogrio.raw.write(
                path,
                geometry=shapely.to_wkb(features.geometry),
                field_data=list(features.attributes.values()),
                fields=list(features.attributes),
                promote_to_multi=False,
                append=append,
                **options,
            )
            append = True


def _joined(batches: list[Features]) -> Features:
    return Features(
        np.concatenate([b.geometry for b in batches]),
        {
            name: np.concatenate([b.attributes[name] for b in batches])
            for name in batches[0].attributes
        },
    )


def _crs_text(crs: CRS) -> str:
    """A CRS for the other GDAL: by its authority where it has one, else in full."""
    authority = crs.to_authority()
    return str(crs.to_wkt()) if authority is None else ":".join(authority)


def _arrow(features: Features) -> Iterator[Any]:
    """Features as record batches, the geometry in WKB; at least one batch."""
    import pyarrow

    columns = {
        name: pyarrow.array(values, _arrow_type(values), from_pandas=True)
        for name, values in features.attributes.items()
    }
    columns["geometry"] = pyarrow.array(shapely.to_wkb(features.geometry), pyarrow.binary())
    whole = pyarrow.record_batch(columns)
    schema = whole.schema
    index = schema.get_field_index("geometry")
    wkb = schema.field(index).with_metadata({"ARROW:extension:name": "geoarrow.wkb"})
    whole = pyarrow.record_batch(list(whole.columns), schema=schema.set(index, wkb))
    for start in range(0, max(1, whole.num_rows), _BATCH):
        yield whole.slice(start, _BATCH)


def _arrow_type(values: npt.NDArray[Any]) -> Any:
    import pyarrow

    return pyarrow.string() if values.dtype == object else pyarrow.from_numpy_dtype(values.dtype)


def _write_parquet(
    path: Path, batches: Iterable[Features], crs: CRS | None, tags: Mapping[str, str]
) -> None:
    """GeoParquet 1.1 with WKB geometries."""
    from pyarrow import parquet

    column = {
        "encoding": "WKB",
        "geometry_types": ["MultiPolygon", "Polygon"],
        "crs": None if crs is None else crs.to_dict(projjson=True),
    }
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    writer = None
    try:
        for features in batches:
            for batch in _arrow(features):
                plain = batch.replace_schema_metadata({"geo": json.dumps(geo), **tags})
                if writer is None:
                    writer = parquet.ParquetWriter(path, plain.schema, compression="zstd")
                if plain.num_rows:
                    writer.write_batch(plain)
    finally:
        if writer is not None:
            writer.close()
