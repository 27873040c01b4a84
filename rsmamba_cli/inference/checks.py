"""Does the scene look like what the model was trained on? Warnings that name a remedy."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rsmamba_cli.errors import InputError
from rsmamba_cli.raster.grid import Grid
from rsmamba_cli.raster.mosaic import AnyScene
from rsmamba_models import CheckpointMeta, InputSpec

_SAMPLES = 4
_SAMPLE_SIDE = 128


def input_warnings(scene: AnyScene, spec: InputSpec) -> list[str]:
    """What is odd about one input: its data type and the range of its values.

    Args:
        scene: the opened scene.
        spec: what the model expects.

    Returns:
        Messages; empty when nothing is.
    """
    expected = np.dtype(spec.dtype)
    if scene.dtype == expected:
        return []
    found = sample_range(scene)
    # Integers of another width may well hold the same numbers.
    if found is None or _fits(found, expected):
        return []
    advice = (
        "the map will be meaningless unless the values mean the same; convert the scene "
        "(gdal_translate -ot ... -scale) or use a model trained on such data"
    )
    return [
        f"{scene.path}: holds {scene.dtype} values from {found[0]:.4g} to {found[1]:.4g}, the "
        f"model was trained on {expected}: {advice}"
    ]


def _fits(found: tuple[float, float], expected: np.dtype[Any]) -> bool:
    """Whether a range of values is what an integer type typically holds."""
    if expected.kind not in "iu":
        return False
    limits = np.iinfo(expected)
    low, high = found
    spread_enough = high > 1.5 and high - low > limits.max / 20
    return limits.min <= low and high <= limits.max and spread_enough


def sample_range(scene: AnyScene) -> tuple[float, float] | None:
    """Smallest and largest valid value in a few small windows across the scene, or None."""
    height, width = scene.grid.shape
    tall, wide = min(height, _SAMPLE_SIDE), min(width, _SAMPLE_SIDE)
    low, high = np.inf, -np.inf
    for row in np.unique(np.linspace(0, height - tall, _SAMPLES).astype(int)):
        for col in np.unique(np.linspace(0, width - wide, _SAMPLES).astype(int)):
            values, valid = scene.read(int(row), int(col), tall, wide)
            if valid.any():
                inside = values[:, valid]
                low, high = min(low, float(inside.min())), max(high, float(inside.max()))
    return (low, high) if low <= high else None


def working_grid(
    scene: AnyScene, meta: CheckpointMeta, resample: bool
) -> tuple[Grid | None, str | None]:
    """The grid that the model sees a scene on, where that is not the scene's own.

    Args:
        scene: whose grid the map has.
        meta: says the pixel size of the training data.
        resample: whether another grid may be used.

    Returns:
        The grid (None for the scene's own), and a message about it or None. Pixel sizes within
        20 % of each other are taken as they are.

    Raises:
        InputError: the sizes differ more than fourfold.
    """
    found = scene.grid.gsd_m()
    if meta.gsd is None or found is None:
        return None, None
    ratio = found / meta.gsd
    if 1 / 1.2 <= ratio <= 1.2:
        return None, None
    sizes = f"{scene.path}: has {found:.3g} m a pixel, the model was trained at {meta.gsd:.3g} m"
    if not resample:
        return None, f"{sizes}: expect it to miss things"
    if not 1 / 4 <= ratio <= 4:
        raise InputError(
            f"{sizes}, more than fourfold apart: such a model sees other things. Take one that "
            "was trained at about this size, or force it with --no-resample"
        )
    height, width = (max(1, round(side * ratio)) for side in scene.grid.shape)
    grid = scene.grid.decimated(height, width)
    return grid, f"{sizes}: the model sees it at {meta.gsd:.3g} m (--no-resample forbids that)"


def georeference_warning(scenes: Sequence[AnyScene]) -> str | None:
    """A message when the map will have no place on Earth, else None."""
    grid = scenes[0].grid
    if grid.world_crs is not None:
        return None
    what = "no georeference" if not grid.has_georeference else "no CRS"
    return f"{scenes[0].path}: has {what}, so the outputs have none either"
