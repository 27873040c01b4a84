"""The diffusion on mask codes: noise schedules, the times of a sampler, and its steps.

A noisy mask is ``z_t = alpha z_0 + sigma eps`` with ``alpha^2 = sigmoid(l)``,
``sigma^2 = sigmoid(-l)`` and ``l`` the log-SNR at time t in [0, 1] (Variational Diffusion Models,
arXiv 2107.00630, in the form of DDP, arXiv 2303.17559).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from rsmamba_models.errors import ArgumentsError

SCHEDULES = ("cosine", "linear")
SAMPLERS = ("ddim", "ddpm")


def log_snr(t: Tensor, schedule: str = "cosine") -> Tensor:
    """Log signal-to-noise ratio at times t.

    At t = 1 the cosine's value is good to about 3e-3 in float32 only, and weights have been trained
    with exactly that rounding: the order of operations is the official code's.

    Args:
        t: Times in [0, 1], any shape, float32.
        schedule: ``cosine`` or ``linear``.
    """
    if schedule == "cosine":
        return -torch.log((torch.cos((t + 0.0002) / 1.00025 * math.pi * 0.5) ** -2 - 1).clamp(1e-5))
    return -torch.log(torch.expm1(1e-4 + 10 * t**2))


def alpha_sigma(level: Tensor) -> tuple[Tensor, Tensor]:
    """What is left of the signal, and how much noise there is, at a log-SNR."""
    return level.sigmoid().sqrt(), (-level).sigmoid().sqrt()


@dataclass(frozen=True)
class Sampler:
    """How a mask is made from noise.

    Attributes:
        name: ``ddim`` (deterministic but for its start, arXiv 2010.02502) or ``ddpm`` (new noise in
            every step, arXiv 2006.11239).
        steps: Passes of the denoiser, T.
        starts: Independent starts whose results are averaged.
        accumulate: Average the probabilities of all steps, not the scores of the last one.
        time_difference: How many steps further than its own a step jumps.
        end: The time at which sampling ends.
        as_probabilities: With ``accumulate``, return the mean probabilities themselves in the place
            of logits, as the official code does; what takes their softmax then flattens them.
    """

    name: str = "ddim"
    steps: int = 3
    starts: int = 1
    accumulate: bool = False
    time_difference: int = 1
    end: float = 0.0
    as_probabilities: bool = False

    @classmethod
    def of(cls, *parts: Mapping[str, Any] | None) -> "Sampler":
        """From settings, later ones first in force.

        Raises:
            ArgumentsError: Unknown settings, or values that make no sampler.
        """
        if wrong := [p for p in parts if p is not None and not isinstance(p, Mapping)]:
            raise ArgumentsError(f"a sampler is a table of settings, not {wrong[0]!r}")
        given = {key: value for part in parts for key, value in (part or {}).items()}
        if unknown := sorted(given.keys() - cls.__dataclass_fields__.keys()):
            raise ArgumentsError(
                f"a sampler has no setting {unknown[0]!r}; known: "
                f"{', '.join(cls.__dataclass_fields__)}"
            )
        sampler = cls(**given)
        if sampler.name not in SAMPLERS:
            raise ArgumentsError(f"a sampler is {' or '.join(SAMPLERS)}, not {sampler.name!r}")
        for key, least in (("steps", 1), ("starts", 1), ("time_difference", 0)):
            value = getattr(sampler, key)
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= 1000:
                raise ArgumentsError(
                    f"a sampler's {key}: a whole number from {least} to 1000, not {value!r}"
                )
        for key in ("accumulate", "as_probabilities"):
            if not isinstance(getattr(sampler, key), bool):
                raise ArgumentsError(f"a sampler's {key} is true or false")
        if not isinstance(sampler.end, int | float) or not 0.0 <= sampler.end < 1.0:
            raise ArgumentsError(f"a sampler's end is a time in [0, 1), not {sampler.end!r}")
        return sampler

    def settings(self) -> dict[str, Any]:
        """All settings, as a checkpoint keeps them."""
        return asdict(self)

    def times(self) -> list[tuple[float, float]]:
        """The time of each step, and the time it goes to."""
        return [
            (1 - s / self.steps, max(1 - (s + 1 + self.time_difference) / self.steps, self.end))
            for s in range(self.steps)
        ]

    @property
    def noisy(self) -> list[int]:
        """Steps after which noise is added; the last is none, for its scores are the result."""
        if self.name == "ddim":
            return []
        return [s for s, (_, after) in enumerate(self.times()[:-1]) if after > 0]

    @property
    def draws(self) -> int:
        """Noise maps an image needs: its starts, and one for each of them after noisy steps."""
        return self.starts * (1 + len(self.noisy))


def ddim_step(z: Tensor, z0: Tensor, now: Tensor, after: Tensor) -> Tensor:
    """Go from one log-SNR to the next, along the noise that ``z`` and ``z0`` imply."""
    (alpha, sigma), (alpha_after, sigma_after) = alpha_sigma(now), alpha_sigma(after)
    eps = (z - alpha * z0) / sigma.clamp(min=1e-8)
    return alpha_after * z0 + sigma_after * eps


def ddpm_step(z: Tensor, z0: Tensor, now: Tensor, after: Tensor, noise: Tensor | None) -> Tensor:
    """Draw from the posterior at the next log-SNR; ``noise`` None for its mean."""
    (alpha, _), (alpha_after, sigma_after) = alpha_sigma(now), alpha_sigma(after)
    c = -torch.expm1(now - after)
    mean = alpha_after * (z * (1 - c) / alpha + c * z0)
    return mean if noise is None else mean + (sigma_after**2 * c).sqrt() * noise
