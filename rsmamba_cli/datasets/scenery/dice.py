"""Cheap scalar random numbers: one vectorised draw feeds thousands of small decisions."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


class Dice:
    """Scalar draws from a numpy generator, buffered (a scalar call would cost ten times more)."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self._buffer: list[float] = []

    def u(self, low: float = 0.0, high: float = 1.0) -> float:
        """Uniform number in [low, high)."""
        if not self._buffer:
            self._buffer = self.rng.random(512).tolist()
        return low + (high - low) * self._buffer.pop()

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.u() < probability

    def i(self, low: int, high: int) -> int:
        """Uniform integer in [low, high)."""
        return low + int(self.u() * (high - low))

    def pick(self, options: Sequence[T]) -> T:
        """One of the options, all equally likely."""
        return options[int(self.u() * len(options))]

    def sign(self) -> float:
        """-1.0 or 1.0."""
        return 1.0 if self.u() < 0.5 else -1.0
