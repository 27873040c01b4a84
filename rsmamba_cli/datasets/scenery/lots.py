"""What stands on one lot: houses with gardens, sheds, driveways, cars, trees, vacant ground."""

import math

from rsmamba_cli.datasets.scenery.buildings import (
    FLAT_ROOFS,
    METAL_ROOFS,
    PITCHED_ROOFS,
    Wing,
    house_wings,
    jitter,
    raise_building,
)
from rsmamba_cli.datasets.scenery.conditions import RGB
from rsmamba_cli.datasets.scenery.frame import blob, box
from rsmamba_cli.datasets.scenery.roads import CARS, car
from rsmamba_cli.datasets.scenery.sketch import (
    ASPHALT,
    BOTH,
    CONCRETE,
    DIRT,
    GRASS,
    LOT,
    OBJECT,
    PATCH,
    SOIL,
    T1,
    T2,
    THING,
    mixed,
    scaled,
)
from rsmamba_cli.datasets.scenery.world import Lot, World

_PAVING: tuple[RGB, ...] = ((172, 168, 160), (158, 150, 140), (138, 136, 134), (182, 172, 154))
_POOL: RGB = (92, 168, 186)
_COURTS: tuple[RGB, ...] = ((92, 126, 104), (156, 96, 78), (84, 112, 142))


def parking(world: World, lot: Lot, s: float, t: float, half_u: float, half_v: float) -> None:
    """Add a paved lot with marked bays and, on each date, other cars."""
    dice = world.dice
    sketch = world.sketch
    cx, cy = lot.at(s, t)
    if not sketch.near(cx, cy, half_u + half_v):
        return
    grey = dice.u(92, 148)
    sketch.polygon(LOT, box(cx, cy, lot.ux, lot.uy, half_u, half_v), ASPHALT, world.asphalt(grey))
    occupancy = dice.u(0.15, 0.9), dice.u(0.15, 0.9)
    paint = scaled((208, 206, 200), dice.u(0.85, 1.05))
    bays = int(2 * half_u / 2.7)
    row = -half_v + 3.2
    while row < half_v - 2:
        for k in range(bays):
            bay = s - half_u + (k + 0.5) * 2.7
            x, y = lot.at(bay, t + row)
            if not sketch.near(x, y, 6):
                continue
            mx, my = lot.at(bay - 1.35, t + row)
            sketch.flat(LOT, box(mx, my, lot.vx, lot.vy, 2.4, 0.1), ASPHALT, paint)
            for date in (0, 1):
                if dice.chance(occupancy[date]):
                    flip = dice.sign()
                    car(world, x, y, lot.vx * flip, lot.vy * flip, 1 << date)
        row += dice.pick((6.0, 11.0))


def garden_tree(world: World, x: float, y: float, scale: float = 1.0) -> None:
    """Add one tree or bush that may be felled or planted between the dates."""
    dice = world.dice
    size = dice.u()
    radius = (0.8 + 3.4 * size * size) * scale
    tint = dice.i(200, 256) if dice.chance(0.25) else dice.i(0, 200)
    world.sketch.tree(x, y, radius, radius * dice.u(1.6, 2.9), tint, world.fate(0.1))


def vacant(world: World, lot: Lot, t: float, half_u: float, half_v: float, dates: int) -> None:
    """Paint the ground where a building is missing on ``dates``: earth, slab, rubble or scrub."""
    dice = world.dice
    if dates == 0:
        return
    x, y = lot.at(0.0, t)
    a, b = half_u * dice.u(1.05, 1.35), half_v * dice.u(1.05, 1.35)
    kind = dice.u()
    if kind < 0.45:
        tone = dice.u(0.85, 1.2)
        patch = (
            box(x, y, lot.ux, lot.uy, a, b)
            if dice.chance(0.4)
            else blob(dice.rng, x, y, a, b, 0.14)
        )
        bare = dice.u(0.4, 1.0)
        ground = world.grass(tone, bare)
        world.sketch.polygon(PATCH + 2, patch, DIRT, ground, dates)
    elif kind < 0.5:
        slab = box(x, y, lot.ux, lot.uy, half_u * 0.9, half_v * 0.9)
        world.sketch.flat(PATCH + 2, slab, CONCRETE, dice.pick(_PAVING), dates)
    elif kind < 0.8:
        for _ in range(dice.i(2, 9)):
            px, py = lot.at(dice.u(-a, a), t + dice.u(-b, b))
            radius = dice.u(0.9, 3.2)
            world.sketch.tree(px, py, radius, 2 * radius, dice.i(0, 256), dates)


def house(world: World, lot: Lot, rate: float, fixed: int = BOTH) -> None:
    """Add a detached house with its garden.

    Args:
        world: where to.
        lot: the ground.
        rate: probability that the house was built or torn down between the dates.
        fixed: dates on which the settlement exists at all (a new one: ``T2``).
    """
    dice = world.dice
    sketch = world.sketch
    dates = fixed & world.fate(rate)
    tone = dice.u(0.86, 1.14)
    lawn = box(*lot.at(0, lot.depth / 2), lot.ux, lot.uy, lot.width / 2, lot.depth / 2)
    if dice.chance(0.75):
        soil = max(0.0, dice.u(-0.4, 0.6))
        sketch.polygon(PATCH, lawn, GRASS, world.grass(tone, soil), fixed)
    setback = dice.u(3.5, 8.0)
    length = min(dice.u(9.0, 17.0), lot.width - 3.0)
    width = min(dice.u(8.0, 13.5), lot.depth - setback - 4.0)
    t = setback + width / 2
    shift = dice.u(-0.5, 0.5) * (lot.width - length - 2.5)
    if length < 5 or width < 5:
        return
    x, y = lot.at(shift, t)
    if dates:
        wings = house_wings(dice, x, y, lot.ux, lot.uy, length, width)
        u = dice.u()
        style = "gable" if u < 0.5 else ("hip" if u < 0.88 else "flat")
        family = FLAT_ROOFS if style == "flat" else PITCHED_ROOFS
        colours = world.renewed(jitter(dice, _near(world, family)), family)
        raise_building(sketch, dice, wings, dice.u(3.2, 7.0), style, colours, dates)
    vacant(world, lot, t, length / 2, width / 2, fixed & ~dates)
    _drive(world, lot, shift, length, setback, dates)
    _garden(world, lot, t + width / 2 + 2, dates, fixed)


def _near(world: World, family: tuple[RGB, ...]) -> RGB:
    """A roof colour; neighbourhoods have a favourite, so two draws of three agree."""
    favourite = family[int(world.theme * len(family))]
    return favourite if world.dice.chance(0.55) else world.dice.pick(family)


def _drive(world: World, lot: Lot, shift: float, length: float, setback: float, dates: int) -> None:
    """Driveway from the street to the house, with a car on it now and then."""
    dice = world.dice
    side = math.copysign(length / 2 - 1.5, shift if dice.chance(0.7) else -shift)
    s = shift + side
    half = dice.u(1.3, 2.9)
    reach = (setback + 1.5) / 2
    x, y = lot.at(s, reach - 0.7)
    rgb = jitter(dice, dice.pick(_PAVING), 0.12)
    drive = box(x, y, lot.vx, lot.vy, reach + 0.7, half)
    world.sketch.flat(LOT, drive, CONCRETE, rgb, dates)
    for date in (T1, T2):
        if dates & date and dice.chance(0.45):
            cx, cy = lot.at(s, reach - dice.u(-0.5, 1.0))
            car(world, cx, cy, lot.vx, lot.vy, date)


def _garden(world: World, lot: Lot, back: float, dates: int, fixed: int) -> None:
    """Trees, a pool, a patio, a shed, a hedge or fence around the lot."""
    dice = world.dice
    sketch = world.sketch
    half = lot.width / 2
    room = lot.depth - back
    if room > 4 and dice.chance(0.13) and dates:
        x, y = lot.at(dice.u(-0.4, 0.4) * lot.width, back + dice.u(0.3, 0.6) * room)
        deck = jitter(dice, (186, 178, 164))
        sketch.flat(LOT, box(x, y, lot.ux, lot.uy, 4.0, 2.8), CONCRETE, deck, dates)
        pool = (
            blob(dice.rng, x, y, 2.6, 1.7, 0.1)
            if dice.chance(0.5)
            else box(x, y, lot.ux, lot.uy, 2.8, 1.6)
        )
        sketch.flat(LOT, pool, OBJECT, jitter(dice, _POOL, 0.15), dates)
    elif room > 3 and dice.chance(0.3):
        x, y = lot.at(dice.u(-0.3, 0.3) * lot.width, back + 0.5)
        patio = box(x, y, lot.ux, lot.uy, dice.u(1.5, 4), dice.u(1.2, 2.2))
        sketch.flat(LOT, patio, CONCRETE, jitter(dice, dice.pick(_PAVING)), dates)
    if room > 5 and dice.chance(0.22) and dates:
        s = dice.sign() * (half - 2.6)
        x, y = lot.at(s, lot.depth - dice.u(2.4, 3.5))
        shed = [Wing(x, y, lot.ux, lot.uy, dice.u(1.3, 2.2), dice.u(1.1, 1.8))]
        rgb = jitter(dice, dice.pick(PITCHED_ROOFS + METAL_ROOFS))
        raise_building(sketch, dice, shed, 2.4, "gable", (rgb, rgb), dates)
    if dice.chance(0.4):  # fence or hedge behind and beside the lot
        hedge = dice.chance(0.4)
        width = 0.5 if hedge else 0.16
        border: tuple[RGB, RGB] = ((96, 84, 72), (96, 84, 72))
        if hedge:
            border = world.grass(0.62)
        x, y = lot.at(0, lot.depth)
        sketch.polygon(LOT, box(x, y, lot.ux, lot.uy, half, width), GRASS, border, fixed)
        x, y = lot.at(half, (lot.depth + back) / 2)
        sketch.polygon(LOT, box(x, y, lot.vx, lot.vy, room / 2, width), GRASS, border, fixed)
    for _ in range(int(dice.u(0, 1) ** 1.5 * world.greenery * 10)):
        x, y = lot.at(dice.u(-half, half), min(lot.depth, back + 2.5 + dice.u(0, max(room, 1))))
        garden_tree(world, x, y)
    if dice.chance(0.3 * world.greenery):
        x, y = lot.at(dice.sign() * (half - 1), dice.u(1.0, 3.0))
        garden_tree(world, x, y, 0.9)


def shop(world: World, lot: Lot, rate: float, fixed: int = BOTH) -> None:
    """Add a hall, warehouse or store with yard, parking, lorries and containers."""
    dice = world.dice
    sketch = world.sketch
    dates = fixed & world.fate(rate)
    half = lot.width / 2
    yard = box(*lot.at(0, lot.depth / 2), lot.ux, lot.uy, half - 1.5, lot.depth / 2 - 1)
    if dice.chance(0.6):
        sketch.polygon(PATCH, yard, ASPHALT, world.asphalt(dice.u(98, 150)), fixed)
    elif dice.chance(0.5):
        sketch.polygon(PATCH, yard, SOIL, world.soil(dice.u(0.9, 1.15)), fixed)
    front = dice.u(0.1, 0.42) * lot.depth
    a = half * dice.u(0.55, 0.86)
    b = (lot.depth - front) / 2 * dice.u(0.6, 0.88)
    t = front + (lot.depth - front) / 2
    s = dice.u(-1, 1) * (half - a - 2)
    x, y = lot.at(s, t)
    if dates:
        wings = [Wing(x, y, lot.ux, lot.uy, a, b)]
        if dice.chance(0.4):
            wing_a, wing_b = a * dice.u(0.2, 0.5), min(front * 0.35, b * 0.6) + 1
            offset = dice.u(-1, 1) * (a - wing_a)
            wx, wy = lot.at(s + offset, t - b - wing_b + 1)
            wings.append(Wing(wx, wy, lot.ux, lot.uy, wing_a, wing_b))
        metal = dice.chance(0.45)
        family = METAL_ROOFS if metal else FLAT_ROOFS
        colours = world.renewed(jitter(dice, dice.pick(family)), family)
        style = "metal" if metal else "flat"
        raise_building(sketch, dice, wings, dice.u(5, 11), style, colours, dates)
    vacant(world, lot, t, a, b, fixed & ~dates)
    if front > 14:
        parking(world, lot, 0, front / 2 - 1, half * 0.85, front / 2 - 2.5)
    for _ in range(dice.i(0, 7)):  # lorries, containers, stacks of goods beside the hall
        px, py = lot.at(s + dice.sign() * (a + dice.u(2, 4)), t + dice.u(-b, b))
        rgb = jitter(dice, dice.pick(METAL_ROOFS + CARS), 0.15)
        when = dice.pick((BOTH, T1, T2))
        length = dice.u(1.5, 6.1)
        sketch.prism(px, py, lot.vx, lot.vy, length, 1.2, 2.5, when, building=False)
        sketch.flat(THING, box(px, py, lot.vx, lot.vy, length, 1.2), OBJECT, rgb, when)
    for _ in range(dice.i(0, 5)):
        px, py = lot.at(dice.sign() * (half - 1), dice.u(0, lot.depth))
        garden_tree(world, px, py)


def court(world: World, x: float, y: float, ux: float, uy: float) -> None:
    """Add a sports court or pitch: coloured, marked and as rectangular as a roof."""
    dice = world.dice
    big = dice.chance(0.4)
    a, b = (dice.u(30, 50), dice.u(20, 32)) if big else (dice.u(12, 17), dice.u(6, 9))
    rgb = world.grass(1.12) if big else (jitter(dice, dice.pick(_COURTS)),) * 2
    sketch = world.sketch
    sketch.polygon(LOT, box(x, y, ux, uy, a + 2, b + 2), GRASS if big else CONCRETE, rgb)
    white = mixed(rgb[0], (236, 236, 232), 0.75)
    for s in (-1.0, 0.0, 1.0):
        line = box(x + ux * a * s, y + uy * a * s, -uy, ux, b, 0.12)
        sketch.flat(LOT, line, CONCRETE, white)
    for t in (-1.0, 1.0):
        line = box(x - uy * b * t, y + ux * b * t, ux, uy, a, 0.12)
        sketch.flat(LOT, line, CONCRETE, white)
