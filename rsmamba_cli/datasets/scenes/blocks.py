"""Scenes cut into blocks, and blocks dealt to splits so that nothing leaks from one to another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from rasterio.warp import transform as transform_points

from rsmamba_cli.datasets.files import Box
from rsmamba_cli.datasets.info import SPLITS
from rsmamba_cli.raster.grid import Grid

Bounds = NDArray[np.int64]
"""(n, 4): top, left, bottom, right in pixels; the last two are just outside."""

_SMALLEST = 32
"""Blocks that have to give away more than what leaves so many pixels a side are not used."""

_POINTS = 5
"""On each side of a block, when its outline goes to another projection."""


@dataclass(frozen=True)
class Block:
    """A part of a scene.

    Attributes:
        scene: its number.
        box: row, column, height, width.
        split: "train", "val" or "test".
    """

    scene: int
    box: Box
    split: str


def cut_blocks(height: int, width: int, side: int) -> list[Box]:
    """Cut a raster into about square blocks of about ``side`` pixels: each pixel in one."""
    rows = np.linspace(0, height, max(1, round(height / side)) + 1).round().astype(int).tolist()
    cols = np.linspace(0, width, max(1, round(width / side)) + 1).round().astype(int).tolist()
    return [
        (top, left, bottom - top, right - left)
        for top, bottom in pairwise(rows)
        for left, right in pairwise(cols)
    ]


def deal(count: int, shares: Mapping[str, float], rng: np.random.Generator) -> list[str]:
    """Deal out so many things at random: each split its share, and one at least while there are.

    Returns:
        The split of each.
    """
    wanted = {s: shares[s] for s in SPLITS if shares.get(s, 0) > 0}
    total = sum(wanted.values())
    counts = {s: int(count * share / total) for s, share in wanted.items()}
    for split in sorted(wanted, key=lambda s: counts[s] - count * wanted[s] / total):
        if sum(counts.values()) < count:
            counts[split] += 1
    for split in wanted:
        richest = max(counts, key=lambda s: counts[s])
        if counts[split] == 0 and counts[richest] > 1:
            counts[split] += 1
            counts[richest] -= 1
    dealt = [split for split, n in counts.items() for _ in range(n)]
    return [dealt[i] for i in rng.permutation(len(dealt))]


def keep_apart(blocks: Sequence[Block], grids: Sequence[Grid], distance: int) -> list[Block]:
    """Set blocks back from those of later splits, so that none has a pixel within ``distance``.

    Test blocks stay as they are, validation blocks keep their distance from them, training blocks
    from both. Scenes that lie over or beside each other on the ground are taken into account.

    Args:
        blocks: as they were cut.
        grids: of the scenes.
        distance: in rows and columns of the scene that is set back.
    """
    kept = []
    for number, grid in enumerate(grids):
        mine = [b for b in blocks if b.scene == number]
        for split in SPLITS:
            ours = [b for b in mine if b.split == split]
            later = SPLITS[SPLITS.index(split) + 1 :]
            others = _on_grid(grid, number, [b for b in blocks if b.split in later], grids)
            for block in ours:
                box = set_back(block.box, others, distance)
                if box is not None:
                    kept.append(Block(number, box, split))
    return kept


def set_back(box: Box, others: Bounds, distance: int) -> Box | None:
    """The large part of a box that has no pixel within ``distance`` rows and columns of others.

    Returns:
        None when less than 32 pixels a side would be left of a box that had to give way.
    """
    top, left, bottom, right = box[0], box[1], box[0] + box[2], box[1] + box[3]
    wide = others + np.array([-distance, -distance, distance, distance])
    while True:
        meets = (wide[:, 0] < bottom) & (wide[:, 2] > top)
        meets &= (wide[:, 1] < right) & (wide[:, 3] > left)
        if not meets.any():
            break
        t, l, b, r = (int(v) for v in wide[meets][0])
        choices = [
            (max(top, b), left, bottom, right),
            (top, max(left, r), bottom, right),
            (top, left, min(bottom, t), right),
            (top, left, bottom, min(right, l)),
        ]
        areas = [max(c[2] - c[0], 0) * max(c[3] - c[1], 0) for c in choices]
        if max(areas) == 0:
            return None
        top, left, bottom, right = choices[int(np.argmax(areas))]
    out = (top, left, bottom - top, right - left)
    return None if out != box and min(out[2:]) < _SMALLEST else out


def _on_grid(grid: Grid, number: int, blocks: Sequence[Block], grids: Sequence[Grid]) -> Bounds:
    """The bounds of blocks of any scene in pixels of one scene's grid."""
    found = []
    for other in sorted({b.scene for b in blocks}):
        boxes = np.array([b.box for b in blocks if b.scene == other], np.int64)
        bounds = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
        if other == number:
            found.append(bounds)
        elif grid.has_georeference and grids[other].has_georeference:
            found.append(_moved(bounds, grids[other], grid))
    return np.concatenate(found) if found else np.zeros((0, 4), np.int64)


def _moved(bounds: Bounds, source: Grid, target: Grid) -> Bounds:
    """Bounds on another grid, rounded outwards; those that have no place there are left out."""
    t = np.linspace(0, 1, _POINTS)
    down = np.concatenate([0 * t, t, 1 + 0 * t, t])
    across = np.concatenate([t, 1 + 0 * t, t, 0 * t])
    rows = bounds[:, :1] + down * (bounds[:, 2:3] - bounds[:, :1])
    cols = bounds[:, 1:2] + across * (bounds[:, 3:] - bounds[:, 1:2])
    x, y = source.pixel_to_world(rows, cols)
    here, there = source.world_crs, target.world_crs
    if here is not None and there is not None and here != there:
        moved = transform_points(here, there, x.ravel(), y.ravel())
        x, y = (np.asarray(v, np.float64).reshape(rows.shape) for v in moved)
    rows, cols = target.world_to_pixel(x, y)
    fits = np.isfinite(rows).all(axis=1) & np.isfinite(cols).all(axis=1)
    rows, cols = rows[fits], cols[fits]
    sides = [
        np.floor(rows.min(1)),
        np.floor(cols.min(1)),
        np.ceil(rows.max(1)),
        np.ceil(cols.max(1)),
    ]
    return np.stack(sides, axis=1).clip(-(1 << 40), 1 << 40).astype(np.int64)
