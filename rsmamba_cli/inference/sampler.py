"""Diffusion models: the sampler's settings, and starting noise that belongs to a place.

A model that samples has an attribute ``sampler`` (its settings, JSON values), takes ``noise=`` and
says by ``noise_shape(batch, height, width)`` what noise it wants. The noise of a window follows
from the seed and the window's place in the lattice alone, so that a map depends neither on the
order of windows nor on batches, workers or interruptions.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from rsmamba_cli.errors import CheckpointError, InputError
from rsmamba_cli.inference.options import PredictOptions
from rsmamba_models import CheckpointMeta, ModelsError

Floats = npt.NDArray[np.float32]
Place = tuple[int, ...]
"""Numbers that tell a window from all others: row and column in the lattice of a scene."""


def resolve_sampler(meta: CheckpointMeta, options: PredictOptions) -> dict[str, Any] | None:
    """The settings that a run samples with, "seed" among them; None for a model that does not.

    Raises:
        InputError: settings were asked for and there is no sampler.
    """
    settings = meta.sampler or meta.arguments.get("sampler")
    asked = {"name": options.sampler, "steps": options.steps}
    asked = {name: value for name, value in asked.items() if value is not None}
    if settings is None:
        if asked or options.seed is not None:
            raise InputError(
                "--sampler, --steps and --seed are for diffusion models, which sample their "
                f"answer; {meta.architecture} computes it: leave them out"
            )
        return None
    return {**settings, **asked, "seed": options.seed or 0}


def set_sampler(model: nn.Module, settings: dict[str, Any]) -> None:
    """Make a model sample with these settings.

    Raises:
        CheckpointError: the model refuses them, or has no sampler.
    """
    sampled: Any = model
    if not samples(model):
        raise CheckpointError("the checkpoint names a sampler, and its model has none")
    try:
        sampled.sampler = {name: value for name, value in settings.items() if name != "seed"}
    except ModelsError as error:
        raise CheckpointError(str(error)) from error


def samples(model: nn.Module) -> bool:
    """Whether a model starts from noise."""
    return hasattr(model, "noise_shape")


def window_noise(
    model: nn.Module, seed: int, places: Sequence[Place], height: int, width: int
) -> Floats:
    """Starting noise of a batch of windows.

    Args:
        model: one that samples.
        seed: of the run.
        places: one for each window.
        height: of the windows, in pixels.
        width: of the windows, in pixels.

    Returns:
        float32 standard normal numbers of the shape ``model.noise_shape(len(places), height,
        width)``; the numbers of a window depend on nothing but seed, place and size.
    """
    shape_of: Any = model.noise_shape
    one, two = shape_of(1, height, width), shape_of(2, height, width)
    axis = next(i for i, (a, b) in enumerate(zip(one, two, strict=True)) if a != b)
    return np.concatenate(
        [
            np.random.default_rng(np.random.SeedSequence((seed, *place))).standard_normal(
                one, dtype=np.float32
            )
            for place in places
        ],
        axis=axis,
    )
