"""Photometric distortion of 8-bit RGB: brightness, contrast, saturation and hue (SSD, Liu 2016)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsmamba_cli.training.recipe import PhotometricPart

Image = NDArray[np.float32]


def fits(image: NDArray[Any]) -> bool:
    """Whether an image (C, H, W) can be distorted: three bands in 8 bits."""
    return image.dtype == np.uint8 and len(image) == 3


def distort(rng: np.random.Generator, image: NDArray[np.uint8], options: PhotometricPart) -> Image:
    """Change the colours of an image as mmsegmentation's PhotoMetricDistortion does.

    Each change is made with ``options.probability``, in the order brightness, contrast, saturation,
    hue, contrast, where the contrast is either before or after the colours. Values stay within
    0..255 after each.

    Args:
        rng: the sample's generator.
        image: (3, H, W), red, green, blue.
        options: ranges.

    Returns:
        float32 (3, H, W), values 0..255.
    """
    contrast_first = bool(rng.integers(2))
    brightness, contrast, saturation, hue = rng.random(4) < options.probability
    shift = np.float32(rng.uniform(-1, 1) * options.brightness)
    gain = np.float32(rng.uniform(*options.contrast))
    colour = np.float32(rng.uniform(*options.saturation))
    turn = np.float32(rng.uniform(-1, 1) * options.hue)
    out = image.astype(np.float32)
    if brightness:
        out = (out + shift).clip(0, 255)
    if contrast and contrast_first:
        out = (out * gain).clip(0, 255)
    if saturation or hue:
        angle, purity, value = rgb_to_hsv(out)
        if saturation:
            purity = (purity * colour).clip(0, 1)
        if hue:
            angle = (angle + turn) % 360
        out = hsv_to_rgb(angle, purity, value)
    if contrast and not contrast_first:
        out = (out * gain).clip(0, 255)
    return out


def rgb_to_hsv(image: Image) -> tuple[Image, Image, Image]:
    """Hue in degrees, saturation 0..1 and value 0..255 of (3, H, W)."""
    red, green, blue = image
    value = image.max(axis=0)
    spread = value - image.min(axis=0)
    step = np.where(spread > 0, spread, 1)
    hue = np.where(
        value == red,
        (green - blue) / step,
        np.where(value == green, 2 + (blue - red) / step, 4 + (red - green) / step),
    )
    saturation = np.where(value > 0, spread / np.where(value > 0, value, 1), 0)
    return np.where(spread > 0, hue * 60 % 360, 0), saturation, value


def hsv_to_rgb(hue: Image, saturation: Image, value: Image) -> Image:
    """The inverse of `rgb_to_hsv`, (3, H, W)."""
    sector = np.stack([n + hue / 60 for n in (5, 3, 1)]) % 6
    rgb = value - value * saturation * np.minimum(sector, 4 - sector).clip(0, 1)
    out: Image = rgb.astype(np.float32)
    return out
