"""Roofs: gabled, hipped and flat ones over one or more rectangular wings, with their shadows."""

import math
from dataclasses import dataclass

from rsmamba_cli.datasets.scenery.conditions import RGB
from rsmamba_cli.datasets.scenery.dice import Dice
from rsmamba_cli.datasets.scenery.frame import box
from rsmamba_cli.datasets.scenery.sketch import BUILDING, ROOF, ROOF_METAL, Sketch, mixed, scaled

PITCHED_ROOFS: tuple[RGB, ...] = (
    (168, 98, 76),  # clay tiles
    (152, 86, 68),
    (180, 116, 90),
    (116, 88, 74),  # brown shingles
    (138, 62, 54),
    (96, 96, 102),  # slate, grey shingles
    (80, 80, 86),
    (122, 120, 122),
    (68, 70, 78),
)
FLAT_ROOFS: tuple[RGB, ...] = (
    (208, 206, 200),  # membranes, gravel
    (230, 230, 226),
    (190, 188, 184),
    (216, 210, 198),
    (172, 170, 170),
    (196, 176, 150),
    (110, 110, 116),
)
METAL_ROOFS: tuple[RGB, ...] = (
    (204, 206, 208),
    (174, 178, 184),
    (112, 136, 168),
    (88, 114, 156),
    (106, 138, 112),
    (164, 88, 72),
    (220, 216, 208),
    (146, 150, 156),
)
_SOLAR: RGB = (38, 46, 74)
_DARK: RGB = (54, 54, 58)


@dataclass(frozen=True, slots=True)
class Wing:
    """A rectangle of a building: centre, unit vector of its ridge, half length and half width."""

    x: float
    y: float
    ux: float
    uy: float
    half_u: float
    half_v: float

    def at(self, s: float, t: float) -> tuple[float, float]:
        """Ground point at ``s`` metres along and ``t`` across the ridge from the centre."""
        return self.x + s * self.ux - t * self.uy, self.y + s * self.uy + t * self.ux

    def patch(self, s: float, t: float, half_u: float, half_v: float) -> tuple[float, ...]:
        """Outline of a rectangle parallel to the wing, centred at (s, t)."""
        cx, cy = self.at(s, t)
        return box(cx, cy, self.ux, self.uy, half_u, half_v)

    def turned(self) -> "Wing":
        """The same rectangle with its ridge along the longer side."""
        if self.half_u >= self.half_v:
            return self
        return Wing(self.x, self.y, -self.uy, self.ux, self.half_v, self.half_u)


def jitter(dice: Dice, rgb: RGB, level: float = 0.1, hue: float = 0.03) -> RGB:
    """A slightly different colour of the same kind."""
    k = 1.0 + dice.u(-level, level)
    return (
        rgb[0] * k * (1 + dice.u(-hue, hue)),
        rgb[1] * k,
        rgb[2] * k * (1 + dice.u(-hue, hue)),
    )


def raise_building(
    sketch: Sketch,
    dice: Dice,
    wings: list[Wing],
    height: float,
    style: str,
    colours: tuple[RGB, RGB],
    dates: int,
    turn: bool = True,
) -> None:
    """Add a building: shadow, footprint label and roof.

    Args:
        sketch: where to.
        dice: randomness of the details.
        wings: the rectangles it consists of.
        height: metres, of the eaves for pitched roofs.
        style: "gable", "hip", "flat" or "metal" (a large low gable with ribs).
        colours: of the roof on the two dates (differ when it was renewed).
        dates: on which dates it stands (bits ``T1``, ``T2``).
        turn: let ridges follow the longer side of a wing (terraces keep theirs).
    """
    main = wings[0]
    if dates == 0 or not sketch.near(main.x, main.y, 1.6 * main.half_u + 14 + 2 * height):
        return
    for wing in wings:
        sketch.prism(wing.x, wing.y, wing.ux, wing.uy, wing.half_u, wing.half_v, height, dates)
    layer = BUILDING + height / 1000
    pitch = dice.u(0.3, 0.62)
    for wing in wings:
        ridge = wing.turned() if turn else wing
        if style == "gable":
            _gable(sketch, layer, ridge, pitch, colours, dates, ROOF)
        elif style == "hip":
            _hip(sketch, layer, ridge, pitch, colours, dates)
        elif style == "metal":
            _gable(sketch, layer, ridge, 0.14, colours, dates, ROOF_METAL)
            _ribs(sketch, dice, layer, ridge, colours, dates)
        else:
            _flat(sketch, dice, layer, wing, colours, dates)
    if style in ("gable", "hip"):
        _house_details(sketch, dice, layer, wings[0].turned() if turn else wings[0], dates)


def _gable(
    sketch: Sketch,
    layer: float,
    wing: Wing,
    pitch: float,
    colours: tuple[RGB, RGB],
    dates: int,
    material: int,
) -> None:
    up = math.sqrt(1 - pitch * pitch)
    half = wing.half_v / 2
    for side in (-1.0, 1.0):
        normal = (-wing.uy * side * pitch, wing.ux * side * pitch, up)
        points = wing.patch(0, side * half, wing.half_u, half)
        sketch.face(layer, points, material, colours, normal, dates)
    ridge = (scaled(colours[0], 1.12), scaled(colours[1], 1.12))
    sketch.polygon(layer, wing.patch(0, 0, wing.half_u, 0.12), material, ridge, dates)


def _hip(
    sketch: Sketch,
    layer: float,
    wing: Wing,
    pitch: float,
    colours: tuple[RGB, RGB],
    dates: int,
) -> None:
    up = math.sqrt(1 - pitch * pitch)
    a, b = wing.half_u, wing.half_v
    r = max(0.0, a - b)
    ux, uy = wing.ux, wing.uy
    faces = (
        (((-a, -b), (a, -b), (r, 0.0), (-r, 0.0)), (uy, -ux)),
        (((a, b), (-a, b), (-r, 0.0), (r, 0.0)), (-uy, ux)),
        (((a, -b), (a, b), (r, 0.0)), (ux, uy)),
        (((-a, b), (-a, -b), (-r, 0.0)), (-ux, -uy)),
    )
    for corners, (nx, ny) in faces:
        points: list[float] = []
        for s, t in corners:
            points += wing.at(s, t)
        sketch.face(layer, tuple(points), ROOF, colours, (nx * pitch, ny * pitch, up), dates)


def _ribs(
    sketch: Sketch,
    dice: Dice,
    layer: float,
    wing: Wing,
    colours: tuple[RGB, RGB],
    dates: int,
) -> None:
    """Strips of skylights or seams across a large metal roof."""
    step = dice.u(4.0, 9.0)
    bright = dice.chance(0.5)
    tone = 1.18 if bright else 0.86
    lines = (scaled(colours[0], tone), scaled(colours[1], tone))
    width = dice.u(0.25, 0.7)
    for k in range(1, int(2 * wing.half_u / step)):
        s = -wing.half_u + k * step
        for side in (-1, 1):
            points = wing.patch(s, side * wing.half_v * 0.5, width, wing.half_v * 0.36)
            sketch.polygon(layer, points, ROOF_METAL, lines, dates)


def _flat(
    sketch: Sketch,
    dice: Dice,
    layer: float,
    wing: Wing,
    colours: tuple[RGB, RGB],
    dates: int,
) -> None:
    a, b = wing.half_u, wing.half_v
    rim = dice.u(0.68, 0.84) if dice.chance(0.5) else dice.u(1.12, 1.22)
    edge = (scaled(colours[0], rim), scaled(colours[1], rim))
    sketch.polygon(layer, wing.patch(0, 0, a, b), ROOF, edge, dates)
    parapet = min(0.45, 0.2 * min(a, b))
    sketch.polygon(layer, wing.patch(0, 0, a - parapet, b - parapet), ROOF, colours, dates)
    if min(a, b) < 3.5:
        return
    if dice.chance(0.35):  # another surface on a part of the roof
        other = scaled(colours[0], dice.u(0.8, 1.15)), scaled(colours[1], dice.u(0.8, 1.15))
        s = dice.u(-0.4, 0.4) * a
        sketch.polygon(layer, wing.patch(s, 0, a * 0.4, b - 0.6), ROOF, other, dates)
    if dice.chance(0.3) and a > 8:  # rows of skylights or solar panels
        panel = _SOLAR if dice.chance(0.4) else mixed(colours[0], (236, 240, 244), 0.6)
        n = min(12, int(2 * a / 4.5))
        for k in range(n):
            s = -a + (k + 0.5) * 2 * a / n
            for t in (-0.4, 0.4):
                sketch.flat(layer, wing.patch(s, t * b, 1.0, 0.25 * b), ROOF, panel, dates)
    for _ in range(min(10, int(dice.u(0.4, 1.6) * math.sqrt(4 * a * b) / 8))):
        s, t = dice.u(-0.8, 0.8) * a, dice.u(-0.75, 0.75) * b
        w, h = dice.u(0.7, 1.9), dice.u(0.6, 1.4)
        unit = scaled((190, 190, 188), dice.u(0.6, 1.15))
        for date in (0, 1):
            if dates >> date & 1:
                dx, dy = sketch.dates[date].shadow_offset(1.1)
                cx, cy = wing.at(s, t)
                shadow = box(cx + dx * 0.6, cy + dy * 0.6, wing.ux, wing.uy, w, h)
                dark = scaled(colours[date], 0.55)
                sketch.polygon(layer, shadow, ROOF, (dark, dark), 1 << date)
        sketch.flat(layer, wing.patch(s, t, w, h), ROOF, unit, dates)


def _house_details(sketch: Sketch, dice: Dice, layer: float, wing: Wing, dates: int) -> None:
    """Chimney, skylight or solar panels of a pitched roof."""
    a, b = wing.half_u, wing.half_v
    if dice.chance(0.4):
        spot = wing.patch(dice.u(-0.7, 0.7) * a, dice.u(-0.3, 0.3) * b, 0.45, 0.35)
        sketch.flat(layer, spot, ROOF, _DARK if dice.chance(0.5) else (186, 170, 158), dates)
    if dice.chance(0.14):
        side = dice.sign() * 0.5 * b
        panels = wing.patch(dice.u(-0.3, 0.3) * a, side, a * dice.u(0.25, 0.55), b * 0.3)
        when = dates if dice.chance(0.6) else dates & 2
        sketch.flat(layer, panels, ROOF, _SOLAR, when)


def house_wings(
    dice: Dice, x: float, y: float, ux: float, uy: float, length: float, width: float
) -> list[Wing]:
    """A detached house of about ``length`` x ``width`` metres as one, two or three wings."""
    main = Wing(x, y, ux, uy, length / 2, width / 2)
    kind = dice.u()
    wings = [main]
    if kind < 0.62:  # an arm at a right angle: L or T
        depth = dice.u(2.0, 4.2)
        breadth = dice.u(0.3, 0.5) * length
        s = dice.sign() * (length - breadth) / 2 * dice.pick((1.0, 1.0, 0.3))
        t = dice.sign() * (width / 2 + depth / 2 - 1.0)
        cx, cy = main.at(s, t)
        wings.append(Wing(cx, cy, -uy, ux, (depth + 2.0) / 2, breadth / 2))
    if kind < 0.3:  # a garage or bay at one end
        s = dice.sign() * (length / 2 + 1.2)
        cx, cy = main.at(s, dice.u(-0.2, 0.2) * width)
        wings.append(Wing(cx, cy, ux, uy, 1.9, width * dice.u(0.25, 0.38)))
    return wings
