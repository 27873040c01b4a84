"""A gently curved street grid: lattice coordinates (p, q) in metres to ground coordinates (x, y).

Everything is laid out on straight lines in (p, q) and bent by one smooth map, so roads curve and
the lots, fields and houses along them follow.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Frame:
    """Rotation by ``angle`` of a grid bent by one sine a direction.

    Attributes:
        angle: radians.
        amp_p, amp_q: amplitude of the bend (metres); len_p, len_q: its wavelength (metres);
            phase_p, phase_q: its phase (radians).
    """

    angle: float
    amp_p: float
    len_p: float
    phase_p: float
    amp_q: float
    len_q: float
    phase_q: float

    @staticmethod
    def draw(rng: np.random.Generator) -> "Frame":
        """Draw a frame whose bends never turn a street by more than about 15 degrees."""
        lengths = rng.uniform(380.0, 900.0, 2)
        slopes = rng.uniform(0.0, 0.26, 2) * (rng.random(2) < 0.8)
        amps = slopes * lengths / (2 * math.pi)
        phases = rng.uniform(0.0, 2 * math.pi, 2)
        angle = rng.uniform(0.0, 2 * math.pi)
        return Frame(
            angle,
            float(amps[0]), float(lengths[0]), float(phases[0]),
            float(amps[1]), float(lengths[1]), float(phases[1]),
        )  # fmt: skip

    def points(
        self, p: np.ndarray | Sequence[float], q: np.ndarray | Sequence[float]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Ground coordinates of lattice points (arrays that broadcast, metres)."""
        p, q = np.asarray(p, np.float64), np.asarray(q, np.float64)
        a = p + self.amp_p * np.sin(q * (2 * math.pi / self.len_p) + self.phase_p)
        b = q + self.amp_q * np.sin(p * (2 * math.pi / self.len_q) + self.phase_q)
        c, s = math.cos(self.angle), math.sin(self.angle)
        return c * a - s * b, s * a + c * b

    def point(self, p: float, q: float) -> tuple[float, float]:
        """Ground coordinates of one lattice point."""
        a = p + self.amp_p * math.sin(q * (2 * math.pi / self.len_p) + self.phase_p)
        b = q + self.amp_q * math.sin(p * (2 * math.pi / self.len_q) + self.phase_q)
        c, s = math.cos(self.angle), math.sin(self.angle)
        return c * a - s * b, s * a + c * b

    def cover(
        self, x0: float, y0: float, x1: float, y1: float
    ) -> tuple[float, float, float, float]:
        """Lattice box (p0, q0, p1, q1) that certainly contains a ground rectangle."""
        c, s = math.cos(self.angle), math.sin(self.angle)
        a = [c * x + s * y for x in (x0, x1) for y in (y0, y1)]
        b = [-s * x + c * y for x in (x0, x1) for y in (y0, y1)]
        return (
            min(a) - self.amp_p,
            min(b) - self.amp_q,
            max(a) + self.amp_p,
            max(b) + self.amp_q,
        )


def box(
    cx: float, cy: float, ux: float, uy: float, half_u: float, half_v: float
) -> tuple[float, ...]:
    """Corners (x0, y0, ..., x3, y3) of a rectangle; (ux, uy) is the unit vector of its length."""
    ax, ay = ux * half_u, uy * half_u
    bx, by = -uy * half_v, ux * half_v
    return (
        cx - ax - bx, cy - ay - by,
        cx + ax - bx, cy + ay - by,
        cx + ax + bx, cy + ay + by,
        cx - ax + bx, cy - ay + by,
    )  # fmt: skip


def swept_box(
    cx: float, cy: float, ux: float, uy: float, half_u: float, half_v: float, dx: float, dy: float
) -> tuple[float, ...]:
    """Hexagon covered by a rectangle while it moves by (dx, dy): the shadow of a prism."""
    a = math.copysign(half_u, dx * ux + dy * uy)
    b = math.copysign(half_v, -dx * uy + dy * ux)
    ax, ay = ux * a, uy * a
    bx, by = -uy * b, ux * b
    ex, ey = cx + dx, cy + dy
    return (
        cx - ax - bx, cy - ay - by,
        cx + ax - bx, cy + ay - by,
        ex + ax - bx, ey + ay - by,
        ex + ax + bx, ey + ay + by,
        ex - ax + bx, ey - ay + by,
        cx - ax + bx, cy - ay + by,
    )  # fmt: skip


def ribbon(x: np.ndarray, y: np.ndarray, width: float) -> tuple[float, ...]:
    """Outline of a line of constant ``width`` along the points (x, y), at least two of them."""
    tx, ty = np.gradient(x), np.gradient(y)
    norm = np.maximum(np.hypot(tx, ty), 1e-9)
    nx, ny = -ty / norm * (width / 2), tx / norm * (width / 2)
    out = np.empty((2 * len(x), 2))
    out[: len(x), 0], out[: len(x), 1] = x + nx, y + ny
    out[len(x) :, 0], out[len(x) :, 1] = (x - nx)[::-1], (y - ny)[::-1]
    return tuple(out.ravel().tolist())


_RING = [(math.cos(2 * math.pi * k / 20), math.sin(2 * math.pi * k / 20)) for k in range(20)]


def blob(
    rng: np.random.Generator, cx: float, cy: float, radius_u: float, radius_v: float, rough: float
) -> tuple[float, ...]:
    """A closed wobbly outline of 20 points around (cx, cy); ``rough`` 0 is an ellipse."""
    a, b, c, d = rng.uniform(-rough, rough, 4).tolist()
    out: list[float] = []
    for k, (x, y) in enumerate(_RING):
        t = 2 * math.pi * k / 20
        r = 1 + a * math.sin(2 * t) + b * math.cos(3 * t) + 0.6 * c * math.sin(5 * t + 6 * d)
        out += (cx + radius_u * r * x, cy + radius_v * r * y)
    return tuple(out)
