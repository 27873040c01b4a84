"""Where everything lies: rivers, main roads, and the districts between them."""

import numpy as np

from rsmamba_cli.datasets.scenery.conditions import Conditions
from rsmamba_cli.datasets.scenery.dice import Dice
from rsmamba_cli.datasets.scenery.districts import MOODS, fill_cell
from rsmamba_cli.datasets.scenery.roads import arterial
from rsmamba_cli.datasets.scenery.sketch import GRASS, LAND, ROAD, SOIL, WATER, Points, Sketch
from rsmamba_cli.datasets.scenery.world import Cell, River, World

_RIVER = ROAD - 2


def lay_out(
    rng: np.random.Generator,
    dates: tuple[Conditions, Conditions],
    window: tuple[float, float, float, float],
) -> Sketch:
    """Lay out the part of a random world that a ground rectangle shows.

    Args:
        rng: source of randomness.
        dates: the two acquisitions.
        window: (x0, y0, x1, y1) in metres.

    Returns:
        The sketch of both dates.
    """
    world = World(rng, dates, window)
    dice = world.dice
    p0, q0, p1, q1 = world.frame.cover(*window)
    world.sketch.polygon(
        LAND,
        (window[0] - 50, window[1] - 50, window[2] + 50, window[1] - 50,
         window[2] + 50, window[3] + 50, window[0] - 50, window[3] + 50),
        GRASS,
        world.grass(),
    )  # fmt: skip
    q = q0 - dice.u(0, 1400)
    while q < q1 + 60:
        half = dice.u(6, 26)
        if q > q0 - 120:
            river = River(q, half, dice.u(8, 45), dice.u(350, 800), dice.u(0, 6.28))
            _lay_river(world, river, p0, p1)
        q += dice.u(700, 2100)
    ps, qs = _cuts(dice, p0, p1), _cuts(dice, q0, q1)
    mood = dice.pick(MOODS)
    for i in range(len(ps) - 1):
        for j in range(len(qs) - 1):
            (pa, wa), (pb, wb) = ps[i], ps[i + 1]
            (qa, va), (qb, vb) = qs[j], qs[j + 1]
            cell = Cell(pa + wa / 2 + 3, qa + va / 2 + 3, pb - wb / 2 - 3, qb - vb / 2 - 3)
            if world.visible(cell):
                fill_cell(world, cell, mood)
    for p, width in ps:
        arterial(world, p, q0 - 30, p, q1 + 30, width)
    for q, width in qs:
        arterial(world, p0 - 30, q, p1 + 30, q, width)
    return world.sketch


def _cuts(dice: Dice, low: float, high: float) -> list[tuple[float, float]]:
    """Positions and widths of parallel main roads so that some lie on both sides of the range."""
    out = [(low - dice.u(0, 340) - 10, dice.pick((7.5, 9.0, 11.0, 14.0, 16.5)))]
    while out[-1][0] < high + 10:
        out.append((out[-1][0] + dice.u(170, 380), dice.pick((7.5, 9.0, 11.0, 14.0, 16.5))))
    return out


def _lay_river(world: World, river: River, p0: float, p1: float) -> None:
    """Add a river with sandy banks and trees along it."""
    world.rivers.append(river)
    p = np.arange(p0 - 20, p1 + 20, 8.0)
    x, y = world.frame.points(p, river.centre(p))
    wave = 1 + 0.12 * np.sin(p / 37.0 + river.phase)
    keep = _span(world, x, y, river.half + 60)
    if keep is None:
        return
    x, y, wave = x[keep], y[keep], wave[keep]
    bank = (world.soil(0.95), world.grass(0.8))[world.dice.i(0, 2)]
    world.sketch.polygon(_RIVER, _band(x, y, river.half * 1.2 * wave), SOIL, bank)
    colours = world.dates[0].water, world.dates[1].water
    world.sketch.polygon(_RIVER + 1, _band(x, y, river.half * wave), WATER, colours)
    nx, ny = -np.gradient(y), np.gradient(x)
    norm = np.maximum(np.hypot(nx, ny), 1e-9)
    for k in range(len(x)):
        for side in (-1.0, 1.0):
            if world.dice.chance(0.4):
                d = side * (river.half * 1.15 * wave[k] + world.dice.u(0, 9)) / norm[k]
                radius = world.dice.u(2.0, 4.8)
                world.sketch.tree(
                    float(x[k] + nx[k] * d), float(y[k] + ny[k] * d),
                    radius, 2.4 * radius, world.dice.i(0, 200),
                )  # fmt: skip


def _span(world: World, x: np.ndarray, y: np.ndarray, reach: float) -> slice | None:
    x0, y0, x1, y1 = world.window
    near = (x > x0 - reach) & (x < x1 + reach) & (y > y0 - reach) & (y < y1 + reach)
    seen = np.flatnonzero(near)
    if len(seen) < 2:
        return None
    return slice(max(0, int(seen[0]) - 2), int(seen[-1]) + 3)


def _band(x: np.ndarray, y: np.ndarray, half: np.ndarray) -> Points:
    tx, ty = np.gradient(x), np.gradient(y)
    norm = np.maximum(np.hypot(tx, ty), 1e-9)
    nx, ny = -ty / norm * half, tx / norm * half
    out = np.concatenate(
        [np.stack([x + nx, y + ny], 1), np.stack([x - nx, y - ny], 1)[::-1]], axis=0
    )
    return tuple(out.ravel().tolist())
