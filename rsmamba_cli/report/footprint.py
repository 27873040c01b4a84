"""Where a map lies in longitude and latitude, across the date line and around a pole too."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
import shapely.affinity

from rsmamba_cli.raster.grid import Grid

Floats = npt.NDArray[np.float64]
_DIGITS = 8
_GRID = 10.0**-_DIGITS


def footprint(grid: Grid) -> tuple[dict[str, Any] | None, list[float] | None]:
    """Outline and bounds in WGS 84, as GeoJSON (RFC 7946) has them.

    Args:
        grid: of the map.

    Returns:
        A polygon (cut at the date line: a multipolygon) and [west, south, east, north]; across the
        date line west is the larger number. Nothing for a map without a place on Earth.
    """
    lonlat = None if grid.world_crs is None else grid.lonlat(*grid.outline())
    if lonlat is None or not all(np.isfinite(v).all() for v in lonlat):
        return None, None
    lat = lonlat[1]
    lon = np.unwrap(lonlat[0], period=360)
    west, south, east, north = lon.min(), lat.min(), lon.max(), lat.max()
    if abs(lon[-1] - lon[0]) > 180:  # once around the Earth: a pole lies inside
        pole = math.copysign(90, lat.mean())
        lon, lat = np.append(lon, [lon[-1], lon[0]]), np.append(lat, [pole, pole])
        south, north = min(south, pole), max(north, pole)
    outline = _cut(shapely.Polygon(np.stack([lon, lat], axis=1)), west, east)
    # Straight sides need no corners between.
    outline = shapely.simplify(shapely.set_precision(outline, _GRID), _GRID)
    if east - west >= 360:
        west, east = -180.0, 180.0
    elif west < -180 or east > 180:
        west, east = ((x + 180) % 360 - 180 for x in (west, east))
    bounds = [round(float(x), _DIGITS) for x in (west, south, east, north)]
    return shapely.geometry.mapping(outline), bounds


def _cut(shape: Any, west: float, east: float) -> Any:
    """A polygon of any longitudes in pieces between -180 and 180 degrees."""
    turns = range(math.floor((west + 180) / 360), math.ceil((east + 180) / 360))
    pieces = [
        shapely.affinity.translate(
            shapely.intersection(shape, shapely.box(360 * turn - 180, -90, 360 * turn + 180, 90)),
            -360 * turn,
        )
        for turn in turns
    ]
    whole = shapely.union_all(pieces, grid_size=_GRID)
    # What only touches the cut is no area.
    polygons = [part for part in shapely.get_parts(whole) if part.geom_type == "Polygon"]
    return polygons[0] if len(polygons) == 1 else shapely.multipolygons(polygons)
