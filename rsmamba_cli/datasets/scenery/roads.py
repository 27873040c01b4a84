"""Main roads with markings and traffic; cars."""

import math

import numpy as np

from rsmamba_cli.datasets.scenery.buildings import jitter
from rsmamba_cli.datasets.scenery.conditions import RGB
from rsmamba_cli.datasets.scenery.frame import box, ribbon
from rsmamba_cli.datasets.scenery.sketch import (
    ASPHALT,
    CONCRETE,
    MARK,
    OBJECT,
    ROAD,
    SOIL,
    T1,
    T2,
    THING,
    scaled,
)
from rsmamba_cli.datasets.scenery.world import World

CARS: tuple[RGB, ...] = (
    (224, 224, 224), (200, 202, 206), (150, 152, 156), (92, 94, 98), (48, 48, 52), (40, 42, 48),
    (146, 44, 40), (52, 70, 116), (116, 118, 106), (232, 230, 222),
)  # fmt: skip
_KERB: RGB = (166, 162, 154)


def car(world: World, x: float, y: float, ux: float, uy: float, dates: int) -> None:
    """Add a car, sometimes a van or lorry, pointing along (ux, uy)."""
    dice = world.dice
    sketch = world.sketch
    kind = dice.u()
    if kind < 0.9:
        half_u, half_v, height = dice.u(1.95, 2.45), dice.u(0.8, 0.98), 1.4
    else:
        half_u, half_v, height = dice.u(2.8, 5.5), dice.u(1.0, 1.25), 2.6
    rgb = jitter(dice, dice.pick(CARS), 0.1, 0.02)
    sketch.prism(x, y, ux, uy, half_u, half_v, height, dates, building=False)
    sketch.flat(THING, box(x, y, ux, uy, half_u, half_v), OBJECT, rgb, dates)
    if kind < 0.9:
        glass = scaled(rgb, 0.45)
        wx, wy = x + ux * half_u * 0.28, y + uy * half_u * 0.28
        sketch.flat(THING, box(wx, wy, ux, uy, 0.35, half_v * 0.85), OBJECT, glass, dates)


def arterial(world: World, p0: float, q0: float, p1: float, q1: float, width: float) -> None:
    """Add a main road with kerbs, lane markings, sometimes a median, and cars."""
    line = world.line(p0, q0, p1, q1)
    if line is None:
        return
    grey = world.dice.u(92, 142)
    world.road(line, width + 4.5, (_KERB, _KERB), ROAD - 0.5, CONCRETE)
    world.road(line, width, world.asphalt(grey), ROAD)
    paint = (224, 222, 214) if world.dice.chance(0.7) else (216, 190, 112)
    if world.dice.chance(0.3) and width > 12:
        world.road(line, 1.8, world.grass(), MARK, SOIL)
    else:
        dashes(world, p0, q0, p1, q1, 0.0, paint, 3.0, world.dice.pick((3.0, 9.0)))
    edge = width / 2 - 0.7
    for side in (-edge, edge):
        world.road(world.line(p0, q0, p1, q1, side), 0.28, (paint, paint), MARK)
    traffic(world, p0, q0, p1, q1, width / 4, world.dice.u(14, 60), True)


def dashes(
    world: World, p0: float, q0: float, p1: float, q1: float, shift: float, rgb: RGB,
    dash: float, gap: float,
) -> None:  # fmt: skip
    """Add a broken line of paint along a lattice line."""
    length = math.hypot(p1 - p0, q1 - q0)
    dp, dq = (p1 - p0) / length, (q1 - q0) / length
    steps = np.arange(0.0, length - dash, dash + gap)
    ps, qs = p0 + dp * steps - dq * shift, q0 + dq * steps + dp * shift
    xa, ya = world.frame.points(ps, qs)
    xb, yb = world.frame.points(ps + dp * dash, qs + dq * dash)
    x0, y0, x1, y1 = world.window
    seen = (xa > x0 - 9) & (xa < x1 + 9) & (ya > y0 - 9) & (ya < y1 + 9)
    for k in np.flatnonzero(seen).tolist():
        line = np.array([xa[k], xb[k]]), np.array([ya[k], yb[k]])
        world.sketch.flat(MARK, ribbon(*line, 0.28), ASPHALT, rgb)


def traffic(
    world: World, p0: float, q0: float, p1: float, q1: float, shift: float, headway: float,
    bridge: bool = False,
) -> None:  # fmt: skip
    """Add moving or parked cars on both sides of a road, different ones on each date."""
    length = math.hypot(p1 - p0, q1 - q0)
    dp, dq = (p1 - p0) / length, (q1 - q0) / length
    for date in (T1, T2):
        for side in (-1.0, 1.0):
            s = world.dice.u(0, headway)
            while s < length:
                p, q = p0 + dp * s - dq * shift * side, q0 + dq * s + dp * shift * side
                x, y = world.frame.point(p, q)
                if world.sketch.near(x, y, 8) and (bridge or not world.wet(p, q, 4)):
                    xb, yb = world.frame.point(p + dp, q + dq)
                    norm = math.hypot(xb - x, yb - y)
                    car(world, x, y, (xb - x) / norm, (yb - y) / norm, date)
                s += 6 + world.dice.u(0, 2 * headway)
