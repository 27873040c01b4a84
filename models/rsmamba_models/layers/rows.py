"""Pixel-wise parts of a network, some pixels at a time where no gradient is wanted."""

from collections.abc import Callable

import torch
from torch import Tensor

_BLOCK_BYTES = 2 << 20
"""What a function holds at a time, for each thread on a CPU: it should stay in a core's cache."""
_BLOCK_BYTES_ELSEWHERE = 256 << 20
_FEWEST = 512
"""Pixels of a block at the least, for matrix products to be quick."""


def by_rows(
    function: Callable[..., Tensor], *maps: Tensor, width: int, out: Tensor | None = None
) -> Tensor:
    """``function(*maps)`` for a function that treats every pixel alone.

    In training, and while a graph is traced, that is all. Elsewhere the pixels go through in blocks
    that stay in the cache, so what the function makes in between takes no memory to speak of.

    Args:
        function: Takes as many tensors ``(..., C)`` as there are maps and returns one with the same
            leading axes.
        *maps: ``(..., C_i)``, equal in their leading axes.
        width: Numbers that the function holds per pixel at its widest, about.
        out: Where the result goes, where blocks are used; it may be one of the maps.

    Returns:
        ``(..., C)``.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return function(*maps)
    leading = maps[0].shape[:-1]
    rows = [m.reshape(-1, m.shape[-1]) for m in maps]
    count, block = rows[0].shape[0], _block(maps[0], width)
    if count <= block:
        return function(*maps)
    into = None if out is None else out.view(count, -1)
    for first in range(0, count, block):
        part = function(*(r[first : first + block] for r in rows))
        if into is None:
            into = part.new_empty(count, part.shape[-1])
        into[first : first + block] = part
    assert into is not None
    return into.view(*leading, -1)


def _block(x: Tensor, width: int) -> int:
    bound = _BLOCK_BYTES_ELSEWHERE
    if x.device.type == "cpu":
        bound = _BLOCK_BYTES * torch.get_num_threads()
    return max(_FEWEST, bound // (4 * width))
