"""How each kind of district fills its cell of the street grid."""

import math

from rsmamba_cli.datasets.scenery.buildings import (
    FLAT_ROOFS,
    METAL_ROOFS,
    PITCHED_ROOFS,
    Wing,
    jitter,
    raise_building,
)
from rsmamba_cli.datasets.scenery.countryside import farmland, woodland
from rsmamba_cli.datasets.scenery.frame import box
from rsmamba_cli.datasets.scenery.lots import (
    court,
    garden_tree,
    house,
    parking,
    shop,
    vacant,
)
from rsmamba_cli.datasets.scenery.roads import traffic
from rsmamba_cli.datasets.scenery.sketch import (
    BOTH,
    CONCRETE,
    DIRT,
    GRASS,
    LAND,
    PATCH,
    SOIL,
    STREET,
    T1,
    T2,
)
from rsmamba_cli.datasets.scenery.world import Cell, Lot, World

# Weights of (suburb, terraces, estate, works, centre, farmland, woodland) by surroundings.
MOODS: tuple[tuple[float, ...], ...] = (
    (0.64, 0.08, 0.06, 0.08, 0.00, 0.08, 0.06),
    (0.30, 0.20, 0.16, 0.12, 0.10, 0.04, 0.08),
    (0.10, 0.18, 0.18, 0.22, 0.24, 0.02, 0.06),
    (0.22, 0.05, 0.08, 0.45, 0.02, 0.12, 0.06),
    (0.34, 0.08, 0.04, 0.06, 0.00, 0.34, 0.14),
)


def fill_cell(world: World, cell: Cell, mood: tuple[float, ...]) -> None:
    """Fill one cell with a district drawn from ``mood``."""
    world.theme = world.dice.u()
    world.activity = world.pace * world.dice.pick((0.3, 0.8, 1.0, 1.6))
    world.greenery = world.dice.u(0.15, 1.2)
    u = world.dice.u() * sum(mood)
    chosen = 0
    while chosen < len(_FILLERS) - 1 and u >= mood[chosen]:
        u -= mood[chosen]
        chosen += 1
    _FILLERS[chosen](world, cell)


def _ground(world: World, cell: Cell, factor: float, soil: float) -> None:
    world.sketch.polygon(LAND + 1, world.outline(cell), GRASS, world.grass(factor, soil))


def _streets(
    world: World, cell: Cell, depth: float, width: float, walk: float, dates: int = BOTH
) -> tuple[bool, float, float, list[tuple[float, float]], float]:
    """Lay parallel streets through a cell, as many as lots of about ``depth`` allow.

    Returns:
        Whether they run along p; the range of s they span; (t of the frontage, side) of every
        row of lots; the depth of the lots.
    """
    dice = world.dice
    along = dice.chance(0.5)
    s0, s1, t0, t1 = (
        (cell.p0, cell.p1, cell.q0, cell.q1) if along else (cell.q0, cell.q1, cell.p0, cell.p1)
    )
    count = max(1, round((t1 - t0) / (2 * depth + width + 2 * walk)))
    pitch = (t1 - t0) / count
    depth = min(1.35 * depth, (pitch - width - 2 * walk) / 2)
    first = t0 + pitch / 2
    grey = dice.u(96, 152)
    rows: list[tuple[float, float]] = []
    for k in range(count):
        t = first + k * pitch
        ends = (s0 - 4, t, s1 + 4, t) if along else (t, s0 - 4, t, s1 + 4)
        line = world.line(*ends)
        if walk > 0.5:
            paving = (170.0, 166.0, 158.0)
            world.road(line, width + 2 * walk, (paving, paving), STREET - 1, CONCRETE, dates)
        world.road(line, width, world.asphalt(grey), STREET, dates=dates)
        if dates == T2:
            world.road(line, width + 1, world.soil(1.15), STREET - 2, DIRT, T1)
        if line is not None and dates == BOTH:
            traffic(world, *ends, width / 2 - 1.2, dice.u(15, 90))
        edge = width / 2 + walk
        rows += [(t - edge, -1.0), (t + edge, 1.0)]
        if line is not None and walk > 0.5 and dates == BOTH and dice.chance(0.4 * world.greenery):
            _avenue(world, along, s0, s1, t, edge - 0.5)
    return along, s0, s1, rows, depth


def _avenue(world: World, along: bool, s0: float, s1: float, t: float, edge: float) -> None:
    """Trees on both pavements."""
    dice = world.dice
    gap, radius, tint = dice.u(8, 16), dice.u(1.2, 2.8), dice.i(0, 190)
    s = s0 + dice.u(0, gap)
    while s < s1:
        for side in (-edge, edge):
            x, y = world.place(along, s, t + side)
            p, q = (s, t) if along else (t, s)
            if dice.chance(0.8) and not world.wet(p, q, 2):
                r = radius * dice.u(0.8, 1.2)
                world.sketch.tree(x, y, r, 2.2 * r, tint + dice.i(0, 10))
        s += gap


def _lots(
    world: World, along: bool, s0: float, s1: float, t: float, side: float,
    width: float, depth: float, spread: float = 0.15,
) -> list[Lot]:  # fmt: skip
    """The visible dry lots of one row, of about ``width`` each."""
    out: list[Lot] = []
    s = s0 + 2
    while True:
        w = width * world.dice.u(1 - spread, 1 + spread)
        if s + w > s1:
            return out
        lot = world.lot(along, s + w / 2, t, side, w, depth)
        if lot is not None:
            out.append(lot)
        s += w


def suburb(world: World, cell: Cell) -> None:
    """Detached houses on lots along local streets; sometimes still scrub on the first date."""
    dice = world.dice
    depth, width = dice.u(22, 36), dice.u(13.5, 24)
    fresh = T2 if dice.chance(0.25 * min(1.0, world.activity * 4)) else BOTH
    _ground(world, cell, dice.u(0.85, 1.1), dice.u(0.0, 0.4))
    walk = dice.pick((0.0, 1.2, 1.6))
    along, s0, s1, rows, depth = _streets(world, cell, depth, dice.u(5.5, 8.5), walk, fresh)
    rate = world.activity * dice.u(0.3, 1.3)
    empty = dice.pick((0.02, 0.05, 0.2))
    for t, side in rows:
        row_rate = rate * dice.pick((0.3, 1.0, 2.0))
        for lot in _lots(world, along, s0, s1, t, side, width, depth):
            if dice.chance(empty):
                vacant(world, lot, depth * 0.5, width * 0.3, depth * 0.3, BOTH)
                continue
            house(world, lot, row_rate if fresh == BOTH else 0.08, fresh)
            if fresh == T2:
                _scrub(world, lot)


def _scrub(world: World, lot: Lot) -> None:
    """Bushes on the first date where houses will stand on the second."""
    dice = world.dice
    for _ in range(int(dice.u(0, 9) * world.greenery)):
        x, y = lot.at(dice.u(-0.5, 0.5) * lot.width, dice.u(0, lot.depth))
        radius = dice.u(0.8, 3.4)
        world.sketch.tree(x, y, radius, 2 * radius, dice.i(0, 256), T1)


def terraces(world: World, cell: Cell) -> None:
    """Rows of joined houses with back gardens."""
    dice = world.dice
    sketch = world.sketch
    depth = dice.u(22, 32)
    _ground(world, cell, dice.u(0.85, 1.05), dice.u(0.1, 0.5))
    along, s0, s1, rows, depth = _streets(world, cell, depth, dice.u(6, 9), dice.u(1.2, 2.2))
    rate = world.activity * dice.u(0.2, 1.0)
    for t, side in rows:
        body, setback, height = dice.u(8.5, 12), dice.u(0.5, 5), dice.u(5, 9)
        style = dice.pick(("gable", "gable", "flat"))
        family = FLAT_ROOFS if style == "flat" else PITCHED_ROOFS
        base = dice.pick(family)
        lots = _lots(world, along, s0, s1, t, side, dice.u(18, 44), depth, 0.35)
        for lot in lots:
            dates = world.fate(rate)
            half = lot.width / 2 - (dice.u(1.2, 3.0) if dice.chance(0.5) else 0.0)
            units = max(1, int(lot.width / dice.u(5.5, 9)))
            tone = jitter(dice, base)
            for k in range(units):
                s = -half + (k + 0.5) * 2 * half / units
                x, y = lot.at(s, setback + body / 2)
                rgb = tone if dice.chance(0.7) else jitter(dice, dice.pick(family))
                wings = [Wing(x, y, lot.ux, lot.uy, half / units, body / 2)]
                if dice.chance(0.25):
                    bx, by = lot.at(s, setback + body + 1.2)
                    wings.append(Wing(bx, by, lot.vx, lot.vy, 1.8, half / units * 0.6))
                colours = world.renewed(rgb, family)
                # The ridge follows the street even when a unit is narrower than deep.
                raise_building(sketch, dice, wings, height, style, colours, dates, turn=False)
                for date in (T1, T2):
                    back = setback + body + 3
                    if dice.chance(0.35):
                        gx, gy = lot.at(s, back + dice.u(0, depth - back))
                        if date == T1:
                            garden_tree(world, gx, gy, 0.7)
                        elif dates and dice.chance(0.4):
                            shed = [Wing(gx, gy, lot.ux, lot.uy, 1.3, 1.1)]
                            grey = (jitter(dice, (132, 126, 120)),) * 2
                            raise_building(sketch, dice, shed, 2.2, "gable", grey, dates)
            vacant(world, lot, setback + body / 2, half, body / 2, BOTH & ~dates)


def estate(world: World, cell: Cell) -> None:
    """Slab and tower blocks between lawns and parking lots."""
    dice = world.dice
    depth = dice.u(30, 48)
    _ground(world, cell, dice.u(0.9, 1.1), dice.u(0.0, 0.3))
    along, s0, s1, rows, depth = _streets(world, cell, depth, dice.u(6, 8), dice.u(1, 2))
    rate = world.activity * dice.u(0.3, 1.2)
    upright = dice.chance(0.5)
    for t, side in rows:
        for lot in _lots(world, along, s0, s1, t, side, dice.u(30, 58), depth):
            dates = world.fate(rate)
            a, b = lot.width / 2 * dice.u(0.65, 0.88), dice.u(5.5, 8.5)
            height = dice.u(8, 17)
            s, tt = 0.0, depth - b - 6
            if upright:
                a, s = depth / 2 * dice.u(0.55, 0.8), dice.u(-0.25, 0.25) * lot.width
                tt = depth / 2
            if dice.chance(0.2):
                a, b, height = dice.u(9, 13), dice.u(9, 13), dice.u(18, 30)
            x, y = lot.at(s, tt)
            ux, uy = (lot.vx, lot.vy) if upright else (lot.ux, lot.uy)
            wings = [Wing(x, y, ux, uy, a, b)]
            if dice.chance(0.3):
                end = wings[0].at((a - b) * dice.sign(), b + 5)
                wings.append(Wing(*end, -uy, ux, 7.5, b))
            style = "flat" if dice.chance(0.75) else "hip"
            family = FLAT_ROOFS if style == "flat" else PITCHED_ROOFS
            colours = world.renewed(jitter(dice, dice.pick(family)), family)
            raise_building(world.sketch, dice, wings, height, style, colours, dates)
            vacant(world, lot, tt, min(a, lot.width / 2), b, BOTH & ~dates)
            if dice.chance(0.6) and not upright:
                parking(world, lot, 0, 8, lot.width * 0.4, 6.5)
            elif dice.chance(0.2) and not upright:
                court(world, *lot.at(0, 12), lot.ux, lot.uy)
            for _ in range(int(dice.u(2, 14) * world.greenery)):
                px, py = lot.at(dice.u(-0.5, 0.5) * lot.width, dice.u(0, depth))
                if max(abs(px - x), abs(py - y)) > a + 4:
                    garden_tree(world, px, py, 1.2)


def works(world: World, cell: Cell) -> None:
    """Halls, stores and warehouses with yards and parking."""
    dice = world.dice
    depth = dice.u(45, 85)
    _ground(world, cell, dice.u(0.9, 1.1), dice.u(0.1, 0.7))
    along, s0, s1, rows, depth = _streets(world, cell, depth, dice.u(7, 10), dice.u(0, 1.5))
    rate = world.activity * dice.u(0.5, 1.3)
    for t, side in rows:
        for lot in _lots(world, along, s0, s1, t, side, dice.u(34, 74), depth, 0.3):
            if dice.chance(0.1):
                parking(world, lot, 0, depth / 2, lot.width * 0.45, depth * 0.4)
            else:
                shop(world, lot, rate)


def centre(world: World, cell: Cell) -> None:
    """Closed perimeter blocks with courtyards and many different roofs."""
    dice = world.dice
    sketch = world.sketch
    depth = dice.u(22, 34)
    paving = jitter(dice, (152, 148, 142))
    sketch.polygon(LAND + 1, world.outline(cell), CONCRETE, (paving, paving))
    along, s0, s1, rows, depth = _streets(world, cell, depth, dice.u(7, 11), dice.u(2, 3.5))
    rate = world.activity * dice.u(0.2, 0.8)
    pitched = dice.u()
    for t, side in rows:
        block = 0
        for lot in _lots(world, along, s0, s1, t, side, dice.u(11, 22), depth, 0.4):
            block += 1
            if block % dice.i(5, 9) == 0:  # side street or yard
                if dice.chance(0.5):
                    green = box(*lot.at(0, depth / 2), lot.ux, lot.uy, lot.width / 2, depth / 2)
                    sketch.polygon(PATCH, green, GRASS, world.grass())
                    for _ in range(dice.i(2, 7)):
                        garden_tree(world, *lot.at(dice.u(-5, 5), dice.u(2, depth)), 1.2)
                else:
                    parking(world, lot, 0, depth / 2, lot.width / 2 - 1, depth / 2 - 2)
                continue
            dates = world.fate(rate)
            body = dice.u(10, 15)
            style = "gable" if dice.chance(pitched) else "flat"
            family = PITCHED_ROOFS if style == "gable" else FLAT_ROOFS + METAL_ROOFS[:3]
            colours = world.renewed(jitter(dice, dice.pick(family)), family)
            x, y = lot.at(0, body / 2)
            wings = [Wing(x, y, lot.ux, lot.uy, lot.width / 2 - 0.1, body / 2)]
            height = dice.u(7, 14)
            raise_building(sketch, dice, wings, height, style, colours, dates, turn=False)
            if dice.chance(0.55) and dates:
                reach = (depth - body) * dice.u(0.4, 0.9) / 2
                bx, by = lot.at(dice.u(-0.2, 0.2) * lot.width, body + reach - 0.5)
                back = [Wing(bx, by, lot.vx, lot.vy, reach, lot.width * dice.u(0.15, 0.3))]
                raise_building(sketch, dice, back, height * 0.7, style, colours, dates)
            elif dice.chance(0.5):
                gx, gy = lot.at(dice.u(-4, 4), dice.u(body + 3, depth))
                garden_tree(world, gx, gy, 1.2)
            vacant(world, lot, body / 2, lot.width / 2, body / 2, BOTH & ~dates)


def fields(world: World, cell: Cell) -> None:
    """Farmland with a farmstead now and then."""
    farmland(world, cell)
    dice = world.dice
    if dice.chance(0.65):
        _farmstead(world, cell)


def _farmstead(world: World, cell: Cell) -> None:
    """A yard with a house and barns around it."""
    dice = world.dice
    sketch = world.sketch
    p = dice.u(cell.p0 + 40, max(cell.p0 + 41, cell.p1 - 40))
    q = dice.pick((cell.q0 + 4, cell.q1 - 4))
    side = 1.0 if q < (cell.q0 + cell.q1) / 2 else -1.0
    lot = world.lot(True, p, q, side, 80, 70)
    if lot is None:
        return
    yard = box(*lot.at(0, 30), lot.ux, lot.uy, 34, 29)
    sketch.polygon(PATCH + 4, yard, GRASS, world.grass(0.95, 0.25))
    core = box(*lot.at(0, 24), lot.ux, lot.uy, dice.u(12, 20), dice.u(14, 22))
    sketch.polygon(PATCH + 5, core, SOIL, world.soil(dice.u(0.85, 1.05)))
    rate = world.activity * dice.u(0.5, 1.4)
    spots = [(-22.0, 14.0), (20.0, 16.0), (-20.0, 44.0), (20.0, 46.0), (0.0, 50.0)]
    for s, t in spots[: dice.i(2, 6)]:
        dates = world.fate(rate)
        x, y = lot.at(s + dice.u(-2, 2), t + dice.u(-2, 2))
        ux, uy = (lot.ux, lot.uy) if dice.chance(0.5) else (lot.vx, lot.vy)
        barn = dice.chance(0.65)
        a, b = (dice.u(8, 14), dice.u(5, 8)) if barn else (dice.u(5, 8), dice.u(4, 5.5))
        family = METAL_ROOFS + PITCHED_ROOFS[:3] if barn else PITCHED_ROOFS
        colours = world.renewed(jitter(dice, dice.pick(family)), family)
        style = "metal" if barn and dice.chance(0.6) else dice.pick(("gable", "hip"))
        wings = [Wing(x, y, ux, uy, a, b)]
        raise_building(sketch, dice, wings, dice.u(4, 8), style, colours, dates)
    for _ in range(int(16 * world.greenery)):
        angle = dice.u(0, 2 * math.pi)
        x, y = lot.at(36 * math.cos(angle), 30 + 30 * math.sin(angle))
        garden_tree(world, x, y, 1.3)


def wood(world: World, cell: Cell) -> None:
    """Forest or park, with a clearing, a cabin or a few houses at the edge."""
    dice = world.dice
    clear = woodland(world, cell)
    for x, y in clear:
        if dice.chance(0.5) and world.sketch.near(x, y, 30):
            angle = dice.u(0, 2 * math.pi)
            ux, uy = math.cos(angle), math.sin(angle)
            if dice.chance(0.35):
                court(world, x, y, ux, uy)
                continue
            dates = world.fate(world.activity)
            style = dice.pick(("gable", "hip", "flat"))
            family = FLAT_ROOFS if style == "flat" else PITCHED_ROOFS
            colours = world.renewed(jitter(dice, dice.pick(family)), family)
            wings = [Wing(x, y, ux, uy, dice.u(4, 9), dice.u(3.5, 6))]
            raise_building(world.sketch, dice, wings, dice.u(3, 6), style, colours, dates)


_FILLERS = (suburb, terraces, estate, works, centre, fields, wood)
