"""From blended probabilities to the arrays of a block."""

from typing import Any

import numpy as np
import numpy.typing as npt

from rsmamba_cli.inference.plan import Plan
from rsmamba_cli.raster.output import FULL

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
QUANTITY_NODATA = 255
"""Of probabilities and uncertainty, whose values end at 250."""


SCORES = "scores"
"""The layer of probabilities that are still to be brought on to another grid."""
SCORE_FULL = 65534
SCORE_NODATA = 65535


def block_arrays(plan: Plan, probabilities: Floats, wanted: Bools) -> dict[str, npt.NDArray[Any]]:
    """What a block holds; see `output_arrays`.

    Where windows lie on another grid than the outputs, that is the probabilities in 65534 steps.
    """
    if plan.stored is None:
        return output_arrays(plan, probabilities, wanted)
    scaled = np.rint(np.clip(probabilities, 0, 1) * np.float32(SCORE_FULL)).astype(np.uint16)
    scaled[:, ~wanted] = SCORE_NODATA
    return {SCORES: scaled}


def scores_of(stored: npt.NDArray[np.uint16]) -> tuple[Floats, Bools]:
    """Probabilities (channels, h, w) and where there are any, from a stored layer of scores."""
    return stored.astype(np.float32) / np.float32(SCORE_FULL), stored[0] != SCORE_NODATA


def output_arrays(plan: Plan, probabilities: Floats, wanted: Bools) -> dict[str, npt.NDArray[Any]]:
    """All layers that a part of the map holds.

    Args:
        plan: says which layers, and how a class is chosen.
        probabilities: (channels, h, w) in 0..1 up to rounding; one channel stands for two classes.
        wanted: (h, w); other pixels get the nodata value of each layer.

    Returns:
        For each layer (count, h, w) in its dtype.
    """
    arrays: dict[str, npt.NDArray[Any]] = {}
    unwanted = None if wanted.all() else ~wanted
    for name, layer in plan.layers.items():
        if name == "mask":
            values = classes(plan, probabilities)[None]
        elif name == "probabilities":
            values = quantise(probabilities)
        else:
            values = quantise(entropy(probabilities))[None]
        out = values.astype(layer.dtype, copy=False)
        if unwanted is not None:
            np.copyto(out, np.asarray(layer.fill, dtype=layer.dtype), where=unwanted)
        arrays[name] = out
    return arrays


def classes(plan: Plan, probabilities: Floats) -> npt.NDArray[Any]:
    """Mask values (h, w): the most probable class, ties to the lowest.

    Of two classes the second is taken where its probability is above the threshold.
    """
    dtype = plan.layers["mask"].dtype
    values = np.array(plan.class_values, dtype=dtype)
    if plan.threshold is not None:
        above = probabilities[0] > np.float32(plan.threshold)
        return np.asarray(np.where(above, values[1], values[0]))
    best = probabilities[0].copy()
    number = np.uint8 if len(values) <= 256 else np.uint16
    label = np.zeros(best.shape, dtype=number)
    better = np.empty(best.shape, dtype=np.bool_)
    for i, candidate in enumerate(probabilities[1:], start=1):
        np.greater(candidate, best, out=better)
        np.maximum(best, candidate, out=best)
        # The later of two winners has the higher number: arithmetic is quicker than a selection.
        np.maximum(label, better * number(i), out=label)
    if values.tolist() == list(range(len(values))):
        return label.astype(dtype, copy=False)
    return np.asarray(values[label])


def quantise(quantity: Floats) -> npt.NDArray[np.uint8]:
    """0..1 to 0..250 in uint8 (scale 0.004), rounded to the nearest."""
    return np.asarray(np.clip(np.rint(quantity * np.float32(FULL)), 0, FULL), dtype=np.uint8)


def entropy(probabilities: Floats) -> Floats:
    """Entropy of the class probabilities over that of a uniform guess: 0 sure, 1 clueless.

    Args:
        probabilities: (channels, h, w); one channel stands for two classes.

    Returns:
        (h, w) in 0..1.
    """
    if len(probabilities) == 1:
        probabilities = np.concatenate([1 - probabilities, probabilities])
    total = np.zeros(probabilities.shape[1:], dtype=np.float32)
    for p in probabilities:
        safe = np.clip(p, np.float32(1e-12), np.float32(1))
        total -= safe * np.log(safe)
    return total / np.float32(np.log(len(probabilities)))
