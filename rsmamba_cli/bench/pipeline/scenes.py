"""Scenes that the bench draws: four bands of uint16, always the same ones."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from rasterio.windows import Window

BANDS = 4
BRIGHTEST = 767
"""With it, sums over 33 x 33 pixels and four bands are exact in float32."""
NODATA = 0
_ROWS = 512

LAYOUTS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "tiled raw": {"tiled": True, "blockxsize": 512, "blockysize": 512},
        "tiled deflate": {
            "tiled": True,
            "blockxsize": 512,
            "blockysize": 512,
            "compress": "deflate",
            "predictor": 2,
        },
        "striped deflate": {"compress": "deflate", "predictor": 2},
    }
)


def draw_scene(path: Path, height: int, width: int, layout: str) -> None:
    """Waves of some hundred pixels with noise, valid everywhere; the same pixels in every layout.

    Args:
        path: where to write.
        height: rows.
        width: columns.
        layout: one of `LAYOUTS`.
    """
    with _created(path, height, width, LAYOUTS[layout]) as dataset:
        for row in range(0, height, _ROWS):
            rows = min(_ROWS, height - row)
            dataset.write(_pixels(row, rows, width), window=Window(0, row, width, rows))


def draw_sparse_scene(path: Path, height: int, width: int, areas: int, side: int) -> None:
    """A scene without data but for some squares along its diagonal; most blocks are not stored.

    Args:
        path: where to write.
        height: rows.
        width: columns.
        areas: number of squares; 0 leaves no nodata value, so that the empty blocks are zeros.
        side: of each, a multiple of the block size.
    """
    options = {**LAYOUTS["tiled raw"], "compress": "deflate", "sparse_ok": True}
    with _created(path, height, width, options, NODATA if areas else None) as dataset:
        for i in range(areas):
            row, col = (int((i + 0.5) * n / areas) // 512 * 512 for n in (height, width))
            rows, cols = min(side, height - row), min(side, width - col)
            dataset.write(_pixels(row, rows, cols) + 1, window=Window(col, row, cols, rows))


def _created(
    path: Path, height: int, width: int, layout: Mapping[str, Any], nodata: int | None = None
) -> Any:
    return rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=height,
        width=width,
        count=BANDS,
        dtype="uint16",
        nodata=nodata,
        crs="EPSG:32631",
        transform=Affine(1, 0, 500_000, 0, -1, 5_000_000),
        bigtiff="IF_SAFER",
        **layout,
    )


def _pixels(row: int, rows: int, width: int) -> npt.NDArray[np.uint16]:
    rng = np.random.default_rng([row, rows, width])
    y, x = np.arange(row, row + rows)[:, None], np.arange(width)[None]
    waves = [np.sin(y / (91 + 7 * b)) * np.cos(x / (67 + 11 * b)) for b in range(BANDS)]
    noise = rng.integers(0, 32, (BANDS, rows, width))
    level = (BRIGHTEST - 31) / 2
    return np.asarray(level + level * np.stack(waves) + noise, dtype=np.uint16)
