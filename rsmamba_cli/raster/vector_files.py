"""Vector files: GeoPackage, GeoJSON and FlatGeobuf through pyogrio, GeoParquet through pyarrow."""

import importlib.util
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from rasterio.crs import CRS

from rsmamba_cli.errors import OutputError

_DRIVERS = {".gpkg": "GPKG", ".geojson": "GeoJSON", ".json": "GeoJSON", ".fgb": "FlatGeobuf"}
LAYER = "classes"


@dataclass(frozen=True)
class Features:
    """Geometries with attributes.

    Attributes:
        geometry: (n,) shapely objects.
        attributes: name to (n,) values: integers, floats (NaN is null) or text.
        crs: of the coordinates, or None.
    """

    geometry: npt.NDArray[Any]
    attributes: Mapping[str, npt.NDArray[Any]]
    crs: CRS | None


def check_vector_path(path: Path) -> None:
    """Refuse a name whose format cannot be written here.

    Raises:
        OutputError: unknown ending, or GeoParquet without pyarrow.
    """
    ending = path.suffix.lower()
    if ending == ".parquet":
        if importlib.util.find_spec("pyarrow") is None:
            raise OutputError(
                f"{path}: GeoParquet needs pyarrow, which is not installed; run "
                "pip install 'rsmamba[parquet]', or name a .gpkg, .geojson or .fgb file"
            )
    elif ending not in _DRIVERS:
        raise OutputError(f"{path}: polygons go to .gpkg, .geojson, .fgb or .parquet")


def write_features(path: Path, features: Features, tags: Mapping[str, str]) -> None:
    """Write a vector file and sync it.

    Args:
        path: its ending says the format; the file must not exist.
        features: what to write. A GeoJSON file is in WGS 84 as RFC 7946 demands, unless the
            coordinates have no CRS.
        tags: metadata of the layer (GeoPackage, FlatGeobuf, GeoParquet).

    Raises:
        OutputError: it could not be written.
    """
    check_vector_path(path)
    try:
        if path.suffix.lower() == ".parquet":
            _write_parquet(path, features, tags)
        else:
            _write_ogr(path, features, tags)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    except OutputError:
        raise
    except Exception as error:  # pyogrio and pyarrow each have families of their own
        raise OutputError(f"{path}: the polygons could not be written ({error})") from error


def _write_ogr(path: Path, features: Features, tags: Mapping[str, str]) -> None:
    import pyogrio

    driver = _DRIVERS[path.suffix.lower()]
    options: dict[str, Any] = {}
    if driver == "GeoJSON":
        if features.crs is not None:
            options["RFC7946"] = "YES"
    elif tags:
        options["layer_metadata"] = dict(tags)
    with warnings.catch_warnings():
        # Coordinates without a CRS are a documented case here, not a slip.
        warnings.filterwarnings("ignore", message=".*crs.*")
        pyogrio.raw.write(
            path,
            geometry=shapely.to_wkb(features.geometry),
            field_data=list(features.attributes.values()),
            fields=list(features.attributes),
            layer=LAYER,
            driver=driver,
            geometry_type=_geometry_type(features.geometry),
            crs=None if features.crs is None else _crs_text(features.crs),
            promote_to_multi=False,
            **options,
        )


def _crs_text(crs: CRS) -> str:
    """A CRS for the other GDAL: by its authority where it has one, else in full."""
    authority = crs.to_authority()
    return str(crs.to_wkt()) if authority is None else ":".join(authority)


def _geometry_type(geometry: npt.NDArray[Any]) -> str:
    kinds = set(shapely.get_type_id(geometry).tolist())
    return "Polygon" if kinds <= {3} else "MultiPolygon" if kinds == {6} else "Unknown"


def _write_parquet(path: Path, features: Features, tags: Mapping[str, str]) -> None:
    """GeoParquet 1.1 with WKB geometries."""
    import pyarrow
    from pyarrow import parquet

    crs = None if features.crs is None else features.crs.to_dict(projjson=True)
    bounds = shapely.total_bounds(features.geometry)
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": sorted({g.geom_type for g in features.geometry}),
        "crs": crs,
    }
    if np.isfinite(bounds).all():
        column["bbox"] = [float(b) for b in bounds]
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    columns = {
        name: pyarrow.array(values, from_pandas=True)
        for name, values in features.attributes.items()
    }
    columns["geometry"] = pyarrow.array(shapely.to_wkb(features.geometry), pyarrow.binary())
    metadata = {"geo": json.dumps(geo), **tags}
    table = pyarrow.table(columns).replace_schema_metadata(metadata)
    parquet.write_table(table, path, compression="zstd")
