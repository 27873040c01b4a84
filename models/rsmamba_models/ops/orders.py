"""Visit orders: which pixel of a height x width map a direction reads at each time.

A direction is a row of an index table, so rows, columns and wrapped diagonals all run through the
same scan. Pixels are numbered row by row: pixel (y, x) is ``y * width + x``.
"""

from functools import lru_cache

import torch
from torch import Tensor

from rsmamba_models.errors import ArgumentsError
from rsmamba_models.tracing import is_recorded

KINDS = {"raster": 1, "cross": 4, "omni": 8}


def scan_order(
    kind: str, height: int, width: int, device: torch.device | str | None = None
) -> Tensor:
    """Index table of a family of scan directions (cached for a size and device; do not modify it).

    Args:
        kind: ``raster`` (1 direction: rows), ``cross`` (4, VMamba: rows, columns, both backwards)
            or ``omni`` (8, RS-Mamba: ``cross`` and the wrapped diagonals, down-right, down-left
            and both backwards).
        height: Rows of the map.
        width: Columns of the map.
        device: Where the table lives (default: CPU).

    Returns:
        ``(K, height * width)`` int32; entry ``[k, t]`` is the pixel that direction ``k`` visits at
        time ``t``. Every row is a permutation.

    Raises:
        ArgumentsError: ``kind`` is unknown.
    """
    if kind not in KINDS:
        raise ArgumentsError(f"unknown scan order {kind!r}; known: {', '.join(KINDS)}")
    device = torch.device("cpu") if device is None else torch.device(device)
    # A table that was traced, or has a shape and no numbers, must not enter the cache.
    if is_recorded():
        return _build(kind, height, width, device)
    return _cached(kind, height, width, device)


def inverse_order(order: Tensor) -> Tensor:
    """The time at which each pixel is visited: ``inverse[k, order[k, t]] = t``.

    Args:
        order: ``(K, L)`` integer table, every row a permutation.

    Returns:
        ``(K, L)`` table of the same dtype.
    """
    times = torch.arange(order.shape[-1], dtype=order.dtype, device=order.device)
    return torch.empty_like(order).scatter_(-1, order.long(), times.expand_as(order))


@lru_cache(maxsize=128)
def _cached(kind: str, height: int, width: int, device: torch.device) -> Tensor:
    # A table born in inference mode could never be used in training.
    with torch.inference_mode(False):
        return _build(kind, height, width, device)


def _build(kind: str, height: int, width: int, device: torch.device) -> Tensor:
    place = torch.arange(height * width, dtype=torch.int32, device=device)
    if kind == "raster":
        return place[None]
    # Column-major: time t is row t % height of line t // height. A diagonal is a column sheared by
    # its row number; it leaves the map on one side and comes back on the other (RS-Mamba's code,
    # not the unwrapped diagonals of the paper's figure), so all lines have `height` pixels.
    row, line = place % height, place // height
    forward = [place, row * width + line]
    diagonals = [row * width + (line + row) % width, row * width + (line - row) % width]
    directions = [*forward, *(o.flip(0) for o in forward)]
    if kind == "omni":
        directions += [*diagonals, *(o.flip(0) for o in diagonals)]
    return torch.stack(directions)
