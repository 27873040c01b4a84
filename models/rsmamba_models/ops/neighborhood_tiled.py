"""Neighbourhood attention in tiles: dense attention of a few pixels to all that their windows hold.

The windows of an 8 x 8 tile of queries share most of their keys. The products of the tile with the
union of its windows are two dense matrix products; what lies outside a query's own window is
masked. That is up to four times the arithmetic of the windows alone, and still several times
faster than gathering them, because matrix products run near the machine's peak.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

_TILE = 8
# Bytes of the score matrices of the tiles handled together: on a CPU what stays in its cache, on
# other devices what keeps them busy.
_CPU_BYTES = 2**21
_DEVICE_BYTES = 2**26


Place = tuple[int, int]  # row and column of a rectangle's first pixel


class _Kind(NamedTuple):
    """What tells the tiles of one axis apart, but for where they are."""

    queries: int  # pixels of the tile
    keys: int  # pixels of the union of their windows
    lead: int  # first query minus first key
    starts: tuple[int, ...]  # per query, its window's first key minus the tile's first key


def _tiles(length: int, window: int) -> dict[_Kind, list[tuple[int, int]]]:
    """Tiles of one axis by kind; each as (first query, first key)."""
    starts = [min(max(i - window // 2, 0), length - window) for i in range(length)]
    tiles: dict[_Kind, list[tuple[int, int]]] = {}
    for first in range(0, length, _TILE):
        own = starts[first : first + _TILE]
        key = own[0]
        kind = _Kind(
            len(own), own[-1] + window - key, first - key, tuple(start - key for start in own)
        )
        tiles.setdefault(kind, []).append((first, key))
    return tiles


def _offsets(kind: _Kind, window: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(queries, keys) tables of one axis: key minus query, and whether it is in the window."""
    key = torch.arange(kind.keys, device=device)
    query = torch.arange(kind.queries, device=device)[:, None] + kind.lead
    start = torch.tensor(kind.starts, device=device)[:, None]
    return key - query, (key >= start) & (key < start + window)


@dataclass
class _Group:
    """Tiles of one kind, with the additive mask that they share."""

    places: list[tuple[Place, Place]]  # of each tile's queries and keys
    queries: tuple[int, int]  # rows and columns
    keys: tuple[int, int]
    index: Tensor  # (queries, keys) entry of the flattened bias table; any where masked
    mask: Tensor  # (heads or 1, queries, keys) bias inside the windows, minus infinity outside

    def batches(self, tensor: Tensor) -> Iterator[tuple[list[Place], list[Place]]]:
        """The places of queries and of keys, in batches with score matrices within the budget."""
        size = tensor.shape[0] * tensor.shape[1] * self.index.numel() * self.mask.element_size()
        budget = _CPU_BYTES if tensor.device.type == "cpu" else _DEVICE_BYTES
        count = max(1, budget // size)
        for start in range(0, len(self.places), count):
            part = self.places[start : start + count]
            yield [queries for queries, _ in part], [keys for _, keys in part]


def _groups(
    height: int, width: int, kernel_size: int, bias: Tensor | None, like: Tensor
) -> Iterator[_Group]:
    windows = min(kernel_size, height), min(kernel_size, width)
    side = 2 * kernel_size - 1
    for row, row_tiles in _tiles(height, windows[0]).items():
        down, in_rows = _offsets(row, windows[0], like.device)
        for column, column_tiles in _tiles(width, windows[1]).items():
            right, in_columns = _offsets(column, windows[1], like.device)
            count = (row.queries * column.queries, row.keys * column.keys)
            table = (down + kernel_size - 1)[:, None, :, None] * side + (right + kernel_size - 1)[
                None, :, None, :
            ]
            inside = (in_rows[:, None, :, None] & in_columns[None, :, None, :]).reshape(count)
            index = table.reshape(count).where(inside, 0)
            values = like.new_zeros(1, *count) if bias is None else bias.flatten(1)[:, index]
            yield _Group(
                [((r, c), (kr, kc)) for r, kr in row_tiles for c, kc in column_tiles],
                (row.queries, column.queries),
                (row.keys, column.keys),
                index,
                values.masked_fill(~inside, -torch.inf),
            )


def _cut(tensor: Tensor, places: list[Place], size: tuple[int, int]) -> Tensor:
    """Rectangles of a (B, heads, H, W, D) map as (tiles * B, heads, pixels, D)."""
    parts = [tensor[:, :, r : r + size[0], c : c + size[1]] for r, c in places]
    return torch.stack(parts).flatten(3, 4).flatten(0, 1)


def _paste(
    tensor: Tensor, places: list[Place], size: tuple[int, int], parts: Tensor, add: bool
) -> None:
    """The reverse of ``_cut``: write, or add, rectangles to a map."""
    parts = parts.reshape(len(places), *tensor.shape[:2], *size, tensor.shape[4])
    for (r, c), part in zip(places, parts, strict=True):
        target = tensor[:, :, r : r + size[0], c : c + size[1]]
        if add:
            target += part
        else:
            target.copy_(part)


def forward(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, kernel_size: int, scale: float
) -> Tensor:
    """Neighbourhood attention of float32 or float64 tensors.

    Args:
        q: ``(B, heads, H, W, D)``, with any strides, like the tensors that follow.
        k: Keys, shaped as ``q``.
        v: Values, shaped as ``q``.
        bias: ``(heads, 2 kernel_size - 1, 2 kernel_size - 1)`` or None.
        kernel_size: Window side; cut to H and W where it exceeds them.
        scale: Factor of the products of q and k.

    Returns:
        ``(B, heads, H, W, D)``, its axes laid out as those of ``q``.
    """
    y = torch.empty_like(q)
    for group in _groups(q.shape[2], q.shape[3], kernel_size, bias, q):
        for queries, keys in group.batches(q):
            tile = torch.nn.functional.scaled_dot_product_attention(
                _cut(q, queries, group.queries),
                _cut(k, keys, group.keys),
                _cut(v, keys, group.keys),
                attn_mask=group.mask[None],
                scale=scale,
            )
            _paste(y, queries, group.queries, tile, add=False)
    return y


def backward(
    grad_y: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None,
    kernel_size: int,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of q, k, v and bias, the attention recomputed; arguments as for ``forward``."""
    grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    grad_bias = None if bias is None else bias.new_zeros(bias.shape)
    for group in _groups(q.shape[2], q.shape[3], kernel_size, bias, q):
        for queries, keys in group.batches(q):
            qs, ks, vs = (
                _cut(q, queries, group.queries) * scale,
                _cut(k, keys, group.keys),
                _cut(v, keys, group.keys),
            )
            grad = _cut(grad_y, queries, group.queries)
            share = (qs @ ks.mT).add_(group.mask).softmax(-1)
            grad_share = grad @ vs.mT
            grad_score = grad_share.sub_((grad_share * share).sum(-1, keepdim=True)).mul_(share)
            _paste(grad_q, queries, group.queries, (grad_score @ ks).mul_(scale), add=False)
            _paste(grad_k, keys, group.keys, grad_score.mT @ qs, add=True)
            _paste(grad_v, keys, group.keys, share.mT @ grad, add=True)
            if grad_bias is not None:
                flat = grad_score.sum(0).flatten(1)
                grad_bias.flatten(1).index_add_(1, group.index.flatten(), flat)
    return grad_q, grad_k, grad_v, grad_bias
