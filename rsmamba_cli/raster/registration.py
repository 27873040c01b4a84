"""How far two dates look shifted against each other: phase correlation, reported, never applied.

The shift that maximises the correlation of two images is where the inverse transform of their
normalised cross-power spectrum peaks (Kuglin and Hines, 1975). The spectra of several tiles are
added before the inverse, so that tiles with real change in them do not decide alone; the peak is
refined below a pixel by evaluating the transform on a finer lattice around it (Guizar-Sicairos et
al., Optics Letters 33, 2008).
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rsmamba_cli.raster.grid import Grid

_SIDE = 512
_LEAST_SIDE = 32
_TILES_A_SIDE = 3
_FINER = 20


class Reader(Protocol):
    """Anything that reads windows of raw values and validity."""

    def read(
        self, row: int, col: int, height: int, width: int
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]:
        """Values (bands, height, width), valid (height, width)."""
        ...


@dataclass(frozen=True)
class Shift:
    """Where the second date's content lies relative to the first's.

    Attributes:
        rows: pixels down.
        cols: pixels to the right.
        metres: length of the shift on the ground, or None without a CRS.
        confidence: 1 minus the second highest peak over the highest, 0 to 1; below about 0.3 the
            two images share too little for the figure to mean anything.
    """

    rows: float
    cols: float
    metres: float | None
    confidence: float

    @property
    def pixels(self) -> float:
        """Length in pixels."""
        return math.hypot(self.rows, self.cols)

    @property
    def reliable(self) -> bool:
        """Whether the figure is worth telling a user."""
        return self.confidence >= 0.3

    def to_json(self) -> dict[str, Any]:
        """JSON values, rounded to what the method can tell."""
        return {
            "rows": round(self.rows, 2),
            "cols": round(self.cols, 2),
            "metres": None if self.metres is None else round(self.metres, 3),
            "confidence": round(self.confidence, 3),
        }


def residual_shift(first: Reader, second: Reader, grid: Grid) -> Shift | None:
    """Estimate the shift between two readers on one grid.

    Args:
        first: the first date.
        second: the second date, already on the grid.
        grid: of both.

    Returns:
        The shift, or None when there is too little valid common ground to tell.
    """
    tall, wide = min(_SIDE, grid.height), min(_SIDE, grid.width)
    if min(tall, wide) < _LEAST_SIDE:
        return None
    total = np.zeros((tall, wide), dtype=np.complex128)
    taper = np.hanning(tall)[:, None] * np.hanning(wide)
    used = 0
    for row in np.unique(np.linspace(0, grid.height - tall, _TILES_A_SIDE).astype(int)):
        for col in np.unique(np.linspace(0, grid.width - wide, _TILES_A_SIDE).astype(int)):
            values1, valid1 = first.read(int(row), int(col), tall, wide)
            values2, valid2 = second.read(int(row), int(col), tall, wide)
            both = valid1 & valid2
            if both.mean() < 0.5:
                continue
            weight = taper * _soft(both)
            spectrum1 = np.fft.fft2(_grey(values1, both, weight))
            spectrum2 = np.fft.fft2(_grey(values2, both, weight))
            cross = spectrum2 * spectrum1.conj()
            strength = np.abs(cross)
            if strength.max() <= 1e-12:
                continue
            total += cross / np.maximum(strength, 1e-12 * strength.max())
            used += 1
    if not used:
        return None
    # The highest frequencies hold noise and what resampling left: let them count for less.
    fy, fx = np.fft.fftfreq(tall)[:, None], np.fft.fftfreq(wide)
    total *= np.exp(-(fy**2 + fx**2) / (2 * 0.2**2))
    surface = np.fft.ifft2(total).real
    peak = np.unravel_index(int(surface.argmax()), surface.shape)
    rows = _refined(total, int(peak[0]), int(peak[1]))
    confidence = _confidence(surface, int(peak[0]), int(peak[1]))
    metres = None
    gsd = grid.gsd_m()
    if gsd is not None:
        metres = gsd * math.hypot(*rows)
    return Shift(rows[0], rows[1], metres, confidence)


def _grey(
    values: npt.NDArray[np.float32],
    valid: npt.NDArray[np.bool_],
    weight: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Sum of the standardised bands, tapered by ``weight`` to a mean of 0; 0 where invalid."""
    grey = np.zeros(valid.shape, dtype=np.float64)
    for band in values.astype(np.float64):
        inside = band[valid]
        spread = inside.std()
        if spread > 0:
            grey[valid] += (inside - inside.mean()) / spread
    # What is left of the mean would bring in the taper's own shape, which has not moved.
    grey[valid] -= (grey * weight).sum() / max(weight.sum(), 1e-12)
    return grey * weight


def _soft(valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """1 well inside the valid pixels, falling to 0 at their border.

    A hard border lies in the same place in both images and would vote for no shift at all.
    """
    weight = valid.astype(np.float64)
    if valid.all():
        return weight
    reach = max(2, min(valid.shape) // 8)
    for axis in (0, 1):
        length = valid.shape[axis]
        pad = [(reach + 1, reach) if a == axis else (0, 0) for a in (0, 1)]
        total = np.cumsum(np.pad(weight, pad, mode="edge"), axis=axis)
        ends = np.arange(2 * reach + 1, 2 * reach + 1 + length)
        inside = np.take(total, ends, axis) - np.take(total, ends - 2 * reach - 1, axis)
        weight = inside / (2 * reach + 1)
    return np.where(valid, np.clip(2 * weight - 1, 0, 1), 0.0)


def _refined(spectrum: npt.NDArray[Any], row: int, col: int) -> tuple[float, float]:
    """The peak on a lattice `_FINER` times as fine, one pixel around (row, col), wrapped."""
    height, width = spectrum.shape
    offsets = np.arange(-_FINER, _FINER + 1) / _FINER
    y, x = _signed(row, height) + offsets, _signed(col, width) + offsets
    left = np.exp(2j * np.pi * y[:, None] * np.fft.fftfreq(height))
    right = np.exp(2j * np.pi * np.fft.fftfreq(width)[:, None] * x)
    fine = (left @ spectrum @ right).real
    best = np.unravel_index(int(fine.argmax()), fine.shape)
    return float(y[best[0]]), float(x[best[1]])


def _confidence(surface: npt.NDArray[np.float64], row: int, col: int) -> float:
    """1 - second peak / peak, the second sought outside a few pixels around the first."""
    height, width = surface.shape
    rolled = np.roll(surface, (height // 2 - row, width // 2 - col), axis=(0, 1))
    peak = rolled[height // 2, width // 2]
    reach = 6
    rolled[
        max(0, height // 2 - reach) : height // 2 + reach + 1,
        max(0, width // 2 - reach) : width // 2 + reach + 1,
    ] = -np.inf
    second = rolled.max()
    if not np.isfinite(second) or peak <= 0:
        return 0.0
    return float(np.clip(1 - second / peak, 0, 1))


def _signed(index: int, length: int) -> int:
    return index - length if index > length // 2 else index
