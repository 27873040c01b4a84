"""Fields with row textures, orchards, solar farms, hedgerows; forests, parks, ponds and paths."""

import math

from rsmamba_cli.datasets.scenery.conditions import RGB
from rsmamba_cli.datasets.scenery.frame import blob, box
from rsmamba_cli.datasets.scenery.sketch import (
    BOTH,
    CONCRETE,
    DIRT,
    FIELD,
    FIELD_CODES,
    GRASS,
    LAND,
    OBJECT,
    PATCH,
    STREET,
    THING,
    WATER,
    Field,
    scaled,
)
from rsmamba_cli.datasets.scenery.world import Cell, World


def farmland(world: World, cell: Cell) -> None:
    """Divide a cell into one to four fields with tracks and hedgerows between them."""
    dice = world.dice
    pm, qm = (cell.p0 + cell.p1) / 2, (cell.q0 + cell.q1) / 2
    pm += dice.u(-0.2, 0.2) * (cell.p1 - cell.p0)
    qm += dice.u(-0.2, 0.2) * (cell.q1 - cell.q0)
    ps = (cell.p0, pm, cell.p1) if dice.chance(0.7) else (cell.p0, cell.p1)
    qs = (cell.q0, qm, cell.q1) if dice.chance(0.7) else (cell.q0, cell.q1)
    world.sketch.polygon(LAND + 1, world.outline(cell), GRASS, world.grass(0.95, 0.2))
    for i in range(len(ps) - 1):
        for j in range(len(qs) - 1):
            plot = Cell(ps[i] + 2.5, qs[j] + 2.5, ps[i + 1] - 2.5, qs[j + 1] - 2.5)
            if world.visible(plot):
                _field(world, plot)
    if len(qs) == 3:
        _track(world, cell.p0, qm, cell.p1, qm)
    if len(ps) == 3:
        _track(world, pm, cell.q0, pm, cell.q1)


def _track(world: World, p0: float, q0: float, p1: float, q1: float) -> None:
    dice = world.dice
    if dice.chance(0.6):
        line = world.line(p0 - 3 * (q0 == q1), q0, p1 + 3 * (q0 == q1), q1)
        world.road(line, dice.u(2.5, 4.5), world.soil(dice.u(0.95, 1.2)), STREET, DIRT)
    else:
        hedge(world, p0, q0, p1, q1)


def hedge(world: World, p0: float, q0: float, p1: float, q1: float) -> None:
    """Add a line of trees and bushes."""
    dice = world.dice
    length = math.hypot(p1 - p0, q1 - q0)
    s = 0.0
    gap = dice.u(2.0, 7.0)
    while s < length:
        x, y = world.frame.point(p0 + (p1 - p0) * s / length, q0 + (q1 - q0) * s / length)
        radius = dice.u(1.0, 3.6)
        world.sketch.tree(x + dice.u(-1, 1), y + dice.u(-1, 1), radius, 2 * radius, dice.i(0, 200))
        s += gap * dice.u(0.5, 1.5)


def _field(world: World, plot: Cell) -> None:
    """One field: crop colour of each date and rows; or pasture, orchard, or solar panels."""
    dice = world.dice
    sketch = world.sketch
    points = world.outline(plot)
    kind = dice.u()
    a, b = world.dates
    if kind < 0.12:
        sketch.polygon(PATCH, points, GRASS, world.grass(dice.u(0.9, 1.15)))
        for _ in range(dice.i(0, 12)):
            p, q = dice.u(plot.p0, plot.p1), dice.u(plot.q0, plot.q1)
            radius = dice.u(1.0, 4.0)
            sketch.tree(*world.frame.point(p, q), radius, 2 * radius, dice.i(0, 256))
        return
    code = FIELD + len(sketch.fields) % FIELD_CODES
    rgb = dice.pick(a.crops), dice.pick(b.crops)
    sketch.polygon(PATCH, points, code, (scaled(rgb[0], dice.u(0.9, 1.1)), rgb[1]))
    angle = world.frame.angle + (0.0 if dice.chance(0.5) else math.pi / 2) + dice.u(-0.05, 0.05)
    strength = (dice.u(0.0, 0.13), dice.u(0.0, 0.13))
    bounds = min(points[::2]), min(points[1::2]), max(points[::2]), max(points[1::2])
    spacing = dice.pick((0.9, 1.6, 3.0, 6.0, 9.0)) * dice.u(0.8, 1.2)
    sketch.fields.append(Field(code, math.cos(angle), math.sin(angle), spacing, strength, bounds))
    if kind < 0.24:
        _orchard(world, plot)
    elif kind < 0.29:
        _solar_farm(world, plot)
    elif kind < 0.4:
        for _ in range(dice.i(3, 15)):  # bales
            x, y = world.frame.point(dice.u(plot.p0, plot.p1), dice.u(plot.q0, plot.q1))
            if sketch.near(x, y, 5):
                when = dice.pick((1, 2))
                sketch.prism(x, y, 1, 0, 0.7, 0.6, 1.3, when, building=False)
                sketch.flat(THING, box(x, y, 1, 0, 0.7, 0.6), OBJECT, (196, 180, 132), when)


def _orchard(world: World, plot: Cell) -> None:
    dice = world.dice
    step, gap = dice.u(4.0, 7.5), dice.u(2.5, 5.0)
    radius, tint = dice.u(0.9, 2.0), dice.i(0, 180)
    p = plot.p0 + step
    while p < plot.p1 - 2:
        q = plot.q0 + gap
        while q < plot.q1 - 2:
            if dice.chance(0.95):
                x, y = world.frame.point(p, q)
                world.sketch.tree(
                    x, y, radius * dice.u(0.8, 1.2), 2.2 * radius, tint + dice.i(0, 20)
                )
            q += gap
        p += step


def _solar_farm(world: World, plot: Cell) -> None:
    """Rows of panels: dark, rectangular, with shadows, and not buildings."""
    dice = world.dice
    dates = world.fate(0.4)
    step = dice.u(5.0, 8.0)
    q = plot.q0 + 8
    while q < plot.q1 - 8:
        p = plot.p0 + 8
        while p < plot.p1 - 26:
            x, y = world.frame.point(p + 8, q)
            if world.sketch.near(x, y, 12):
                xb, yb = world.frame.point(p + 9, q)
                ux, uy = xb - x, yb - y
                norm = math.hypot(ux, uy)
                half = 7.6, 1.4
                ux, uy = ux / norm, uy / norm
                world.sketch.prism(x, y, ux, uy, *half, 1.5, dates, building=False)
                panel = box(x, y, ux, uy, *half)
                world.sketch.flat(THING, panel, OBJECT, (44, 52, 80), dates)
            p += 16
        q += step


def woodland(world: World, cell: Cell) -> list[tuple[float, float]]:
    """Fill a cell with trees around clearings; add a path and sometimes a pond.

    Returns:
        Ground centres of the clearings that hold no pond.
    """
    dice = world.dice
    sketch = world.sketch
    sketch.polygon(
        LAND + 1, world.outline(cell), GRASS, world.grass(dice.u(0.8, 1.0), dice.u(0.0, 0.3))
    )
    spacing = dice.pick((3.4, 4.5, 8.0, 14.0))
    area = (cell.p1 - cell.p0) * (cell.q1 - cell.q0)
    holes: list[tuple[float, float, float]] = []
    free: list[tuple[float, float]] = []
    for _ in range(max(1, int(area / 9000))):
        p, q = dice.u(cell.p0, cell.p1), dice.u(cell.q0, cell.q1)
        x, y = world.frame.point(p, q)
        if world.wet(p, q, 14) or not _inside(cell, p, q, 14):
            continue
        radius = dice.u(13, 34)
        holes.append((x, y, radius + 4))
        if dice.chance(0.3):
            water: tuple[RGB, RGB] = (world.dates[0].water, world.dates[1].water)
            ua, ub = radius * dice.u(0.6, 1.0), radius * dice.u(0.6, 1.0)
            sketch.polygon(PATCH + 1, blob(dice.rng, x, y, ua + 2, ub + 2, 0.05), DIRT,
                           world.soil(0.9))  # fmt: skip
            sketch.polygon(PATCH + 2, blob(dice.rng, x, y, ua, ub, 0.05), WATER, water)
        else:
            free.append((x, y))
    if dice.chance(0.7):
        p = dice.u(cell.p0, cell.p1)
        line = world.line(p, cell.q0 - 4, dice.u(cell.p0, cell.p1), cell.q1 + 4)
        material, rgb = (DIRT, world.soil(1.1))
        if dice.chance(0.4):
            material, rgb = CONCRETE, ((158, 154, 148), (158, 154, 148))
        world.road(line, dice.u(1.8, 3.5), rgb, PATCH + 3, material)
    conifers = dice.chance(0.3)
    felled = dice.u(0.0, 0.12)
    cut = _Clump(dice.u(0, 6), dice.u(0, 6), dice.u(14, 40))
    x0, y0, x1, y1 = sketch.window
    p0, q0, p1, q1 = world.frame.cover(x0 - 12, y0 - 12, x1 + 12, y1 + 12)
    p = max(cell.p0, p0)
    while p < min(cell.p1, p1):
        q = max(cell.q0, q0)
        while q < min(cell.q1, q1):
            pa, qa = p + dice.u(-0.5, 0.5) * spacing, q + dice.u(-0.5, 0.5) * spacing
            q += spacing
            if cut.thin(pa, qa) > 0.55 and dice.chance(0.9):
                continue
            x, y = world.frame.point(pa, qa)
            if not sketch.near(x, y, 10) or world.wet(pa, qa, 2):
                continue
            if any((x - hx) ** 2 + (y - hy) ** 2 < r * r for hx, hy, r in holes):
                continue
            radius = 1.2 + dice.u(0.3, 0.95) * (1.6 + 0.35 * min(spacing, 8))
            tint = dice.i(200, 256) if dice.chance(0.85 if conifers else 0.12) else dice.i(0, 200)
            dates = dice.pick((1, 2)) if dice.chance(felled) else BOTH
            sketch.tree(x, y, radius, radius * dice.u(1.9, 2.9), tint, dates)
        p += spacing
    return free


class _Clump:
    """A smooth field in [-1, 1] that thins trees out in patches."""

    def __init__(self, phase_p: float, phase_q: float, length: float) -> None:
        self.phase_p, self.phase_q, self.length = phase_p, phase_q, length

    def thin(self, p: float, q: float) -> float:
        a = math.sin(p / self.length + self.phase_p + math.sin(q / (1.7 * self.length)))
        return a * math.sin(q / (1.3 * self.length) + self.phase_q)


def _inside(cell: Cell, p: float, q: float, margin: float) -> bool:
    return cell.p0 + margin < p < cell.p1 - margin and cell.q0 + margin < q < cell.q1 - margin
