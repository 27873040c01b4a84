"""Miniature datasets that tests write to disk."""

import warnings
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import from_origin


def write_image(path: Path, array: NDArray, georeferenced: bool = False, **profile) -> Path:
    """Write (C, H, W) or (H, W) with the driver that the suffix asks for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    bands = array[None] if array.ndim == 2 else array
    driver = {".png": "PNG", ".jpg": "JPEG"}.get(path.suffix, "GTiff")
    if georeferenced:
        profile |= {"crs": "EPSG:32633", "transform": from_origin(500000, 5000000, 0.5, 0.5)}
    warnings.simplefilter("ignore", NotGeoreferencedWarning)
    with rasterio.open(
        path,
        "w",
        driver=profile.pop("driver", driver),
        count=len(bands),
        height=bands.shape[1],
        width=bands.shape[2],
        dtype=bands.dtype,
        **profile,
    ) as sink:
        sink.write(bands)
    return path


def blocks(
    seed: int, size: int = 64, white: int = 255, bands: int = 3
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A noisy dark image with a bright square, and its label."""
    rng = np.random.default_rng(seed)
    label = np.zeros((size, size), np.uint8)
    row, column = rng.integers(0, size // 2, 2)
    label[row : row + size // 2, column : column + size // 2] = white
    image = rng.integers(20, 60, (bands, size, size)).astype(np.uint8)
    image[:, label > 0] += 140
    return image, label


def segmentation_folder(
    root: Path,
    counts: dict[str, int] | None = None,
    roles: tuple[str, str] = ("image", "label"),
    white: int = 255,
    size: int = 64,
    suffix: str = ".png",
) -> Path:
    """root/{split}/{image,label}/tile_i.png."""
    for split, count in (counts or {"train": 3, "val": 2, "test": 2}).items():
        for i in range(count):
            image, label = blocks(100 * len(split) + ord(split[-1]) + i, size, white)
            write_image(root / split / roles[0] / f"tile_{i}{suffix}", image)
            write_image(root / split / roles[1] / f"tile_{i}.png", label)
    return root


def change_folder(
    root: Path,
    counts: dict[str, int] | None = None,
    roles: tuple[str, str, str] = ("t1", "t2", "label"),
    size: int = 64,
) -> Path:
    """root/{split}/{t1,t2,label}/tile_i.png: what is bright in one date only has changed."""
    for split, count in (counts or {"train": 3, "val": 2, "test": 2}).items():
        for i in range(count):
            seed = 100 * len(split) + i
            t2, label = blocks(seed, size)
            t1 = np.random.default_rng(seed + 7).integers(20, 60, t2.shape).astype(np.uint8)
            for role, array in zip(roles, (t1, t2, label), strict=True):
                write_image(root / split / role / f"tile_{i}.png", array)
    return root
