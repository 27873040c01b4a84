"""The state all fillers share: street grid, dice, colours of both dates, lines and lots."""

import math
from dataclasses import dataclass

import numpy as np

from rsmamba_cli.datasets.scenery.conditions import RGB, Conditions
from rsmamba_cli.datasets.scenery.dice import Dice
from rsmamba_cli.datasets.scenery.frame import Frame, ribbon
from rsmamba_cli.datasets.scenery.sketch import (
    ASPHALT,
    BOTH,
    STREET,
    T1,
    T2,
    Points,
    Sketch,
    mixed,
    scaled,
)


@dataclass(frozen=True, slots=True)
class Cell:
    """A rectangle of the lattice (metres) that one district fills."""

    p0: float
    q0: float
    p1: float
    q1: float

    def turned(self) -> "Cell":
        """The cell with the roles of p and q exchanged."""
        return Cell(self.q0, self.p0, self.q1, self.p1)


@dataclass(frozen=True, slots=True)
class Lot:
    """Frontage centre, unit vectors along the street (u) and into the lot (v), size in metres."""

    x: float
    y: float
    ux: float
    uy: float
    vx: float
    vy: float
    width: float
    depth: float

    def at(self, s: float, t: float) -> tuple[float, float]:
        """Ground point ``s`` metres along the street and ``t`` into the lot."""
        return self.x + s * self.ux + t * self.vx, self.y + s * self.uy + t * self.vy


@dataclass(frozen=True, slots=True)
class River:
    """A bent band of water along p at lattice coordinate ``q`` of half width ``half``."""

    q: float
    half: float
    bend: float
    length: float
    phase: float

    def centre(self, p: np.ndarray) -> np.ndarray:
        """Lattice q of the middle of the river at each p."""
        bend: np.ndarray = self.bend * np.sin(p * (2 * math.pi / self.length) + self.phase)
        return self.q + bend

    def centre_at(self, p: float) -> float:
        """Lattice q of the middle of the river at one p."""
        return self.q + self.bend * math.sin(p * (2 * math.pi / self.length) + self.phase)


class World:
    """The state shared by all district fillers.

    Args:
        rng: source of all layout decisions.
        dates: the two acquisitions.
        window: ground rectangle (x0, y0, x1, y1) in metres that will be rendered.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        dates: tuple[Conditions, Conditions],
        window: tuple[float, float, float, float],
    ) -> None:
        self.dice = Dice(rng)
        self.dates = dates
        self.window = window
        self.frame = Frame.draw(rng)
        self.sketch = Sketch(dates, window)
        self.rivers: list[River] = []
        # How much is built or torn down varies from place to place; a few scenes are calm.
        self.pace = self.dice.pick((0.0, 0.25, 0.35, 0.45, 0.6, 0.75))
        # Set for each district: the same there, which roof colour is common, how green it is.
        self.activity = self.pace
        self.theme = 0.0
        self.greenery = 1.0

    # -- chance ---------------------------------------------------------------------------

    def fate(self, rate: float) -> int:
        """On which dates a thing stands: both, unless it is built or torn down in between."""
        if not self.dice.chance(rate):
            return BOTH
        return T2 if self.dice.chance(0.68) else T1

    def renewed(self, rgb: RGB, options: tuple[RGB, ...]) -> tuple[RGB, RGB]:
        """Roof colour on both dates: weathered a little, rarely replaced altogether."""
        if self.dice.chance(0.07):
            return rgb, self.dice.pick(options)
        return rgb, scaled(rgb, self.dice.u(0.93, 1.07))

    # -- colours --------------------------------------------------------------------------

    def grass(self, factor: float = 1.0, soil: float = 0.0) -> tuple[RGB, RGB]:
        """Grass on both dates, with a share of bare soil."""
        a, b = self.dates
        return (
            scaled(mixed(a.grass, a.soil, soil), factor),
            scaled(mixed(b.grass, b.soil, soil), factor),
        )

    def soil(self, factor: float = 1.0) -> tuple[RGB, RGB]:
        """Bare soil on both dates."""
        return scaled(self.dates[0].soil, factor), scaled(self.dates[1].soil, factor)

    def asphalt(self, grey: float) -> tuple[RGB, RGB]:
        """Asphalt of a given age (grey level) on both dates."""
        base = (grey, grey * 0.995, grey * 0.985)
        return scaled(base, self.dates[0].asphalt), scaled(base, self.dates[1].asphalt)

    # -- lines ----------------------------------------------------------------------------

    def line(
        self, p0: float, q0: float, p1: float, q1: float, shift: float = 0.0
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Ground points every ~12 m of a lattice line moved sideways by ``shift``; None if unseen.

        Only the part near the window is returned.
        """
        length = math.hypot(p1 - p0, q1 - q0)
        if length < 1.0:
            return None
        if shift:
            p0, p1 = p0 - (q1 - q0) / length * shift, p1 - (q1 - q0) / length * shift
            q0, q1 = q0 + (p1 - p0) / length * shift, q1 + (p1 - p0) / length * shift
        t = np.linspace(0.0, 1.0, max(2, int(length / 12) + 1))
        x, y = self.frame.points(p0 + t * (p1 - p0), q0 + t * (q1 - q0))
        x0, y0, x1, y1 = self.window
        seen = np.flatnonzero((x > x0 - 45) & (x < x1 + 45) & (y > y0 - 45) & (y < y1 + 45))
        if len(seen) == 0:
            return None
        part = slice(max(0, int(seen[0]) - 1), int(seen[-1]) + 2)
        if len(x[part]) < 2:
            return None
        return x[part], y[part]

    def road(
        self,
        line: tuple[np.ndarray, np.ndarray] | None,
        width: float,
        rgb: tuple[RGB, RGB],
        layer: float = STREET,
        material: int = ASPHALT,
        dates: int = BOTH,
    ) -> None:
        """Add a road along ``line`` (nothing when it is None)."""
        if line is not None:
            self.sketch.polygon(layer, ribbon(*line, width), material, rgb, dates)

    def outline(self, cell: Cell) -> Points:
        """The bent outline of a lattice rectangle."""
        n = max(2, int(max(cell.p1 - cell.p0, cell.q1 - cell.q0) / 15))
        t = np.linspace(0.0, 1.0, n)
        p, q = cell.p0 + t * (cell.p1 - cell.p0), cell.q0 + t * (cell.q1 - cell.q0)
        one = np.ones(n)
        ring_p = np.concatenate([p, cell.p1 * one, p[::-1], cell.p0 * one])
        ring_q = np.concatenate([cell.q0 * one, q, cell.q1 * one, q[::-1]])
        return tuple(np.stack(self.frame.points(ring_p, ring_q), 1).ravel().tolist())

    def visible(self, cell: Cell, margin: float = 40.0) -> bool:
        """Whether any part of a lattice rectangle may lie within ``margin`` of the window."""
        p = np.linspace(cell.p0, cell.p1, 5)[:, None]
        q = np.linspace(cell.q0, cell.q1, 5)[None, :]
        x, y = self.frame.points(p, q)
        reach = margin + 0.15 * max(cell.p1 - cell.p0, cell.q1 - cell.q0)
        x0, y0, x1, y1 = self.window
        return bool(
            x.max() > x0 - reach
            and x.min() < x1 + reach
            and y.max() > y0 - reach
            and y.min() < y1 + reach
        )

    # -- lots -----------------------------------------------------------------------------

    def place(self, along: bool, s: float, t: float) -> tuple[float, float]:
        """Ground point; ``s`` counts along p when ``along`` is true, else along q."""
        return self.frame.point(s, t) if along else self.frame.point(t, s)

    def lot(
        self, along: bool, s: float, t: float, side: float, width: float, depth: float
    ) -> Lot | None:
        """The lot whose frontage is centred at (s, t); None when far from the window or wet."""
        x, y = self.place(along, s, t)
        if not self.sketch.near(x, y, 12.0 + depth + 0.6 * width):
            return None
        xa, ya = self.place(along, s - 1.0, t)
        xb, yb = self.place(along, s + 1.0, t)
        norm = math.hypot(xb - xa, yb - ya)
        ux, uy = (xb - xa) / norm, (yb - ya) / norm
        xc, yc = self.place(along, s, t + side)
        # Square to the street, on the asked side of it.
        turn = math.copysign(1.0, -(xc - x) * uy + (yc - y) * ux)
        lot = Lot(x, y, ux, uy, -uy * turn, ux * turn, width, depth)
        p, q = (s, t + side * depth / 2) if along else (t + side * depth / 2, s)
        return None if self.wet(p, q, depth / 2 + 5.0) else lot

    def wet(self, p: float, q: float, margin: float) -> bool:
        """Whether a lattice point lies in a river or within ``margin`` metres of one."""
        return any(
            abs(q - river.centre_at(p)) < river.half * 1.25 + margin for river in self.rivers
        )
