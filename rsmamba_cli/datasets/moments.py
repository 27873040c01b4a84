"""Mean and spread of bands, added up piece by piece."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Moments:
    """What mean and spread of an image's bands follow from, (C,) each, valid pixels only."""

    count: NDArray[np.float64]
    total: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray[Any], valid: NDArray[np.bool_]) -> "Moments":
        """Of an image (C, H, W)."""
        flat = values[:, valid].astype(np.float64)
        count = np.full(len(values), float(flat.shape[1]))
        return cls(count, flat.sum(axis=1), (flat**2).sum(axis=1))

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.count + other.count, self.total + other.total, self.squares + other.squares
        )

    def mean_and_std(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of each band; 0 without a pixel."""
        count = np.maximum(self.count, 1)
        mean = self.total / count
        return mean, np.sqrt(np.maximum(self.squares / count - mean**2, 0))
