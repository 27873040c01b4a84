"""Random changes to a training sample; geometry moves images and label together.

Everything is drawn from one generator a sample, seeded with (seed, epoch, sample), so that a sample
does not depend on workers, on how processes share the work, or on what was drawn before it.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsmamba_cli.training.crops import Image, Label, Planes
from rsmamba_cli.training.recipe import AugmentPart, ChangePart


def orient(
    rng: np.random.Generator, images: tuple[Image, ...], label: Label, options: ChangePart
) -> Planes:
    """Flip and transpose a square sample, the same for every date and the label."""
    flips = 0
    if rng.random() < options.flip:
        flips = 2 if options.flip_axes == "horizontal" else int(rng.integers(1, 4))
    transpose = bool(rng.random() < options.transpose)
    axes = tuple(axis for bit, axis in ((1, -2), (2, -1)) if flips & bit)

    def turn(array: NDArray[Any]) -> NDArray[Any]:
        turned = np.flip(array, axes) if axes else array
        return np.ascontiguousarray(np.swapaxes(turned, -1, -2) if transpose else turned)

    return tuple(turn(image) for image in images), turn(label)


def shift_colors(
    rng: np.random.Generator, image: Image, options: ChangePart, factor: float = 1.0
) -> Image:
    """Change light, spread, colour and noise of a normalised image (C, H, W), any bands.

    Args:
        rng: the sample's generator.
        image: what is changed.
        options: ranges.
        factor: of all ranges.
    """
    bands = len(image)
    gain = 1 + rng.uniform(-1, 1) * options.contrast * factor
    shift = rng.uniform(-1, 1) * options.brightness * factor
    by_band = rng.uniform(-1, 1, bands) * options.band_shift * factor
    spread = rng.uniform(0, 1) * options.noise * factor
    if options.brightness or options.contrast or options.band_shift:
        mean = image.mean(axis=(1, 2), keepdims=True)
        moved = (image - mean) * gain + mean + (shift + by_band)[:, None, None]
        image = moved.astype(np.float32)
    if options.saturation:
        grey = image.mean(axis=0, keepdims=True)
        purity = np.float32(1 + rng.uniform(-1, 1) * options.saturation * factor)
        image = grey + (image - grey) * purity
    if options.noise:
        image = image + rng.standard_normal(image.shape, dtype=np.float32) * np.float32(spread)
    return image


def augment(
    rng: np.random.Generator, images: tuple[Image, ...], label: Label, options: AugmentPart
) -> Planes:
    """Apply orientation, exchange of dates and colour changes to a square sample.

    Args:
        rng: the sample's generator.
        images: normalised arrays (C, S, S), one a date or modality; each gets its own colour
            change.
        label: class indices (..., S, S).
        options: what to do.
    """
    images, label = orient(rng, images, label, options)
    if len(images) == 2 and rng.random() < options.swap_dates:
        images = (images[1], images[0])
    factors = (1.0, options.sar_colors)
    images = tuple(shift_colors(rng, i, options, f) for i, f in zip(images, factors, strict=False))
    return images, label
