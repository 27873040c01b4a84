"""Noise fields and tree crowns, made once a process from fixed seeds."""

from functools import lru_cache

import numpy as np

BANK = 1024
CROWN_VARIANTS = 6
_RADIUS_STEP = 1.15


def _tiled_noise(rng: np.random.Generator, cell: int) -> np.ndarray:
    """Noise of unit variance that repeats every ``BANK`` pixels, smooth over ~2 ``cell`` pixels.

    White noise on a grid of ``cell`` pixels is blurred there, enlarged bilinearly and averaged over
    a cell (a quadratic spline in all), so that no squares show.
    """
    n = BANK // cell
    grid = rng.standard_normal((n, n)).astype(np.float32)
    if cell == 1:
        return grid
    for axis in (0, 1, 0, 1):
        grid = np.roll(grid, 1, axis) + 2 * grid + np.roll(grid, -1, axis)
    grid /= grid.std()
    t = (np.arange(cell, dtype=np.float32) + np.float32(0.5)) / np.float32(cell)
    across = np.roll(grid, -1, 1)
    rows = grid[:, :, None] * (1 - t) + across[:, :, None] * t
    rows = rows.reshape(n, BANK)
    down = np.roll(rows, -1, 0)
    out: np.ndarray = rows[:, None, :] * (1 - t[:, None]) + down[:, None, :] * t[:, None]
    return _rolling_mean(_rolling_mean(out.reshape(BANK, BANK), cell).T, cell).T


def _rolling_mean(field: np.ndarray, length: int) -> np.ndarray:
    """Mean over ``length`` pixels along each row, which is taken as a ring."""
    total = np.cumsum(np.concatenate([field, field[:, :length]], 1), 1, dtype=np.float64)
    return np.asarray((total[:, length:] - total[:, :-length]) / length, np.float32)


@lru_cache(maxsize=1)
def noise_bank() -> np.ndarray:
    """Three (BANK, BANK) float32 fields of unit variance: fine (1-2 px), mottled, cloudy."""
    rng = np.random.Generator(np.random.PCG64(20240601))
    fine = _tiled_noise(rng, 1)
    fine = fine + 0.8 * (np.roll(fine, 1, 0) + np.roll(fine, 1, 1)) + 1.2 * _tiled_noise(rng, 2)
    mottled = _tiled_noise(rng, 2) + _tiled_noise(rng, 4) + 1.4 * _tiled_noise(rng, 8)
    cloudy = 0.8 * _tiled_noise(rng, 8) + 1.3 * _tiled_noise(rng, 32) + 1.5 * _tiled_noise(rng, 64)
    bank = np.stack([fine, mottled, cloudy])
    bank /= bank.std(axis=(1, 2), keepdims=True)
    out: np.ndarray = np.clip(bank, -2.6, 2.6).astype(np.float32)
    return out


def noise(field: int, row: int, col: int, height: int, width: int) -> np.ndarray:
    """A (height, width) float32 window of a noise field at any position (it repeats)."""
    rows = np.arange(row, row + height) % BANK
    cols = np.arange(col, col + width) % BANK
    window: np.ndarray = noise_bank()[field].take(rows, 0).take(cols, 1)
    return window


@lru_cache(maxsize=512)
def _crown(step: int, variant: int, conifer: bool) -> np.ndarray:
    rng = np.random.Generator(np.random.PCG64([step + 99, variant, int(conifer)]))
    radius = _RADIUS_STEP**step
    reach = int(np.ceil(radius * 1.2)) + 1
    axis = np.arange(-reach, reach + 1, dtype=np.float32)
    dy, dx = axis[:, None] / np.float32(radius), axis[None, :] / np.float32(radius)
    if conifer:
        angle = np.arctan2(dy, dx)
        ragged = 1 + 0.12 * np.sin(7 * angle + rng.uniform(0, 6)) + 0.08 * np.sin(12 * angle)
        height = np.asarray(1.5 * np.maximum(0.0, 1 - np.hypot(dx, dy) / ragged), np.float32)
        height *= radius
        return height
    height = np.maximum(0.0, 0.8 - (dx * dx + dy * dy))
    for _ in range(9):  # lobes: hemispheres scattered over the crown
        r = rng.uniform(0.28, 0.5)
        angle, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 0.72)
        ox, oy = np.cos(angle) * far, np.sin(angle) * far
        inside = np.maximum(0.0, r * r - (dx - ox) ** 2 - (dy - oy) ** 2)
        lobe = np.where(inside > 0, np.sqrt(inside) + 0.55 * (1 - far), 0)
        height = np.maximum(height, lobe)
    if radius > 2.5:
        height *= 1 + 0.16 * rng.standard_normal(height.shape)
    return np.asarray(height * radius, np.float32)


def crown(radius: float, variant: int, conifer: bool) -> np.ndarray:
    """Height in pixels of a crown above its lower edge, (n, n) float32 with odd n, 0 outside.

    Args:
        radius: pixels; rounded to a geometric ladder of 15 %.
        variant: 0 .. ``CROWN_VARIANTS`` - 1.
        conifer: a ragged cone instead of a lumpy dome.
    """
    step = round(float(np.log(max(radius, 0.7))) / float(np.log(_RADIUS_STEP)))
    return _crown(min(step, 28), variant, conifer)
