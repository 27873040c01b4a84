"""The list of things to paint: polygons, shadows, trees, fields and building footprints."""

import math
from dataclasses import dataclass

from rsmamba_cli.datasets.scenery.conditions import RGB, Conditions
from rsmamba_cli.datasets.scenery.frame import box, swept_box

T1, T2, BOTH = 1, 2, 3

# What a painted polygon is made of: chooses texture, and the land-cover class of its pixels.
GRASS, SOIL, ASPHALT, CONCRETE, WATER, OBJECT, DIRT = range(7)
ROOF, ROOF_METAL = 16, 17
FIELD = 128
FIELD_CODES = 120

# Painter's order. Buildings add height / 1000 so that taller ones come later.
LAND, PATCH, STREET, ROAD, MARK, LOT, THING, BUILDING = range(0, 80, 10)

Points = tuple[float, ...]
Fill = tuple[int, int, int, int]


@dataclass(slots=True)
class Tree:
    """One crown: position, radius and height in metres, a row of ``Conditions.crowns``."""

    x: float
    y: float
    radius: float
    height: float
    tint: int
    dates: int


@dataclass(slots=True)
class Field:
    """Row texture of a field: its material code, row direction, spacing (m), strength a date."""

    code: int
    nx: float
    ny: float
    spacing: float
    strength: tuple[float, float]
    bounds: tuple[float, float, float, float]


def fill(rgb: RGB, material: int) -> Fill:
    """``rgb`` rounded and clipped to bytes, with the material as fourth channel."""
    r, g, b = rgb
    return (
        min(255, max(0, int(r))),
        min(255, max(0, int(g))),
        min(255, max(0, int(b))),
        material,
    )


def scaled(rgb: RGB, factor: float) -> RGB:
    """``rgb`` times ``factor``."""
    return rgb[0] * factor, rgb[1] * factor, rgb[2] * factor


def mixed(a: RGB, b: RGB, share: float) -> RGB:
    """``a`` with ``share`` of ``b``."""
    k = 1.0 - share
    return a[0] * k + b[0] * share, a[1] * k + b[1] * share, a[2] * k + b[2] * share


class Sketch:
    """Everything both photographs will show, in ground metres, ready to be painted in order.

    Args:
        dates: the conditions of the two acquisitions.
        window: (x0, y0, x1, y1) of the ground that will be rendered; callers may skip what is
            further away than :meth:`near` says.
    """

    def __init__(
        self, dates: tuple[Conditions, Conditions], window: tuple[float, float, float, float]
    ) -> None:
        self.dates = dates
        self.window = window
        self.paint: tuple[list[tuple[float, Points, Fill]], list[tuple[float, Points, Fill]]] = (
            [],
            [],
        )
        self.shade: tuple[list[tuple[float, Points, int]], list[tuple[float, Points, int]]] = (
            [],
            [],
        )
        self.footprints: tuple[list[Points], list[Points]] = ([], [])
        self.trees: list[Tree] = []
        self.fields: list[Field] = []

    def near(self, x: float, y: float, reach: float) -> bool:
        """Whether a thing of radius ``reach`` metres at (x, y) can be seen."""
        x0, y0, x1, y1 = self.window
        return x0 - reach < x < x1 + reach and y0 - reach < y < y1 + reach

    def polygon(
        self, layer: float, points: Points, material: int, rgb: tuple[RGB, RGB], dates: int = BOTH
    ) -> None:
        """Add one flat polygon with a colour for each date."""
        if dates & T1:
            self.paint[0].append((layer, points, fill(rgb[0], material)))
        if dates & T2:
            self.paint[1].append((layer, points, fill(rgb[1], material)))

    def flat(
        self, layer: float, points: Points, material: int, rgb: RGB, dates: int = BOTH
    ) -> None:
        """Add one polygon with the same colour on both dates."""
        item = (layer, points, fill(rgb, material))
        if dates & T1:
            self.paint[0].append(item)
        if dates & T2:
            self.paint[1].append(item)

    def face(
        self,
        layer: float,
        points: Points,
        material: int,
        rgb: tuple[RGB, RGB],
        normal: tuple[float, float, float],
        dates: int,
    ) -> None:
        """Add one tilted roof face, shaded for the sun of each date."""
        for date in (0, 1):
            if dates >> date & 1:
                tone = scaled(rgb[date], self.dates[date].lit(*normal))
                self.paint[date].append((layer, points, fill(tone, material)))

    def prism(
        self,
        cx: float,
        cy: float,
        ux: float,
        uy: float,
        half_u: float,
        half_v: float,
        height: float,
        dates: int,
        building: bool = True,
    ) -> None:
        """Add the shadow of a box of ``height`` metres and, for a building, its footprint."""
        top = box(cx, cy, ux, uy, half_u, half_v)
        for date in (0, 1):
            if dates >> date & 1:
                dx, dy = self.dates[date].shadow_offset(height)
                swept = swept_box(cx, cy, ux, uy, half_u, half_v, dx, dy)
                # Shadows first, then all roofs: what falls on a roof would be much shorter.
                self.shade[date].append((0, swept, 255))
                self.shade[date].append((1, top, 0))
                if building:
                    self.footprints[date].append(top)

    def tree(
        self, x: float, y: float, radius: float, height: float, tint: int, dates: int = BOTH
    ) -> None:
        """Add a tree with its shadow, when it can be seen."""
        if not self.near(x, y, 4 * radius + 6):
            return
        self.trees.append(Tree(x, y, radius, height, tint, dates))
        for date in (0, 1):
            if dates >> date & 1:
                dx, dy = self.dates[date].shadow_offset(0.62 * height)
                ux, uy = dx / (math.hypot(dx, dy) + 1e-9), dy / (math.hypot(dx, dy) + 1e-9)
                a, b = radius + 0.5 * math.hypot(dx, dy), radius * 0.92
                # An eight-sided outline of the swept crown, centred half way to its far end.
                cx, cy = x + dx * 0.55, y + dy * 0.55
                points: list[float] = []
                for s, t in _OCTAGON:
                    points += (cx + ux * a * s - uy * b * t, cy + uy * a * s + ux * b * t)
                shade = int(255 * min(1.0, 0.25 + 0.7 * float(self.dates[date].leaf[tint])))
                self.shade[date].append((0, tuple(points), shade))


_OCTAGON = tuple(
    (math.cos(math.pi * (k + 0.5) / 4) * 1.05, math.sin(math.pi * (k + 0.5) / 4) * 1.05)
    for k in range(8)
)
