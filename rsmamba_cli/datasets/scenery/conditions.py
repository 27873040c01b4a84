"""Light, season, air and camera of one acquisition date."""

import math
from dataclasses import dataclass

import numpy as np

RGB = tuple[float, float, float]

SEASONS = ("summer", "dry", "autumn", "winter")

# Mean surface colours (8-bit reflectance-like values) a season; picked by eye from orthophotos.
_GRASS: dict[str, RGB] = {
    "summer": (92, 108, 66),
    "dry": (146, 134, 98),
    "autumn": (112, 108, 74),
    "winter": (112, 104, 82),
}
_CROWN: dict[str, RGB] = {
    "summer": (60, 80, 46),
    "dry": (78, 86, 54),
    "autumn": (128, 100, 52),
    "winter": (98, 88, 74),
}
_CONIFER: RGB = (44, 62, 48)
_CROPS: dict[str, tuple[RGB, ...]] = {
    "summer": ((98, 124, 62), (124, 136, 72), (166, 150, 96), (84, 106, 60), (140, 120, 92)),
    "dry": ((178, 158, 108), (166, 140, 102), (136, 128, 84), (190, 172, 128), (112, 118, 72)),
    "autumn": ((134, 112, 84), (150, 132, 92), (104, 116, 66), (118, 98, 78), (168, 148, 104)),
    "winter": ((118, 102, 84), (98, 112, 70), (132, 116, 94), (108, 96, 80), (140, 126, 104)),
}


@dataclass(frozen=True, slots=True)
class Conditions:
    """How one date looks.

    Attributes:
        sun: unit vector towards the sun in image axes (x right, y down, z up).
        ambient: share of light that reaches a shaded horizontal surface, 0..1.
        grass: mean grass colour; soil, water: likewise.
        crops: colours fields are drawn from on this date.
        crowns: (256, 3) float32 tree crown colours; rows 200..255 are conifers.
        leaf: (256,) float32 opacity of a crown (bare trees let the ground through).
        asphalt: factor on asphalt albedo (wet or freshly laid surfaces are darker).
        haze: share of the haze colour mixed in, 0..0.3; ``haze_rgb`` is its colour.
        saturation: 1 keeps colours, less greys them.
        gain, offset: (3,) float32 camera response a channel; ``gamma`` its exponent.
        noise: standard deviation of the sensor noise in 8-bit counts.
        blur: weight of the two neighbours in the 3-tap point spread function, 0..0.25.
    """

    sun: tuple[float, float, float]
    ambient: float
    grass: RGB
    soil: RGB
    water: RGB
    crops: tuple[RGB, ...]
    crowns: np.ndarray
    leaf: np.ndarray
    asphalt: float
    haze: float
    haze_rgb: RGB
    saturation: float
    gain: np.ndarray
    offset: np.ndarray
    gamma: float
    noise: float
    blur: float

    def lit(self, nx: float, ny: float, nz: float) -> float:
        """Brightness of a surface with this unit normal, relative to flat ground in the sun."""
        direct = nx * self.sun[0] + ny * self.sun[1] + nz * self.sun[2]
        level = self.ambient + (1.0 - self.ambient) * max(0.0, direct) / self.sun[2]
        return min(1.5, max(0.35, level))

    def shadow_offset(self, height: float) -> tuple[float, float]:
        """Ground displacement (metres, x right, y down) of the shadow of a point at ``height``."""
        reach = height / self.sun[2]
        return -self.sun[0] * reach, -self.sun[1] * reach


def _vary(rng: np.random.Generator, rgb: RGB, common: float, hue: float) -> RGB:
    """``rgb`` times one random factor near 1 and one a channel (half widths given)."""
    level = 1.0 + rng.uniform(-common, common)
    r, g, b = (c * level * (1.0 + rng.uniform(-hue, hue)) for c in rgb)
    return r, g, b


def draw_conditions(rng: np.random.Generator) -> Conditions:
    """Draw the conditions of one date.

    Args:
        rng: source of randomness.

    Returns:
        A date: sun 30 to 60 degrees high and south of the scene, any season, haze, camera.
    """
    azimuth = math.radians(rng.uniform(100.0, 260.0))
    elevation = math.radians(rng.uniform(30.0, 60.0))
    # Azimuth is counted clockwise from north, which is up: east is +x, north is -y.
    flat = math.cos(elevation)
    sun = (math.sin(azimuth) * flat, -math.cos(azimuth) * flat, math.sin(elevation))
    season = SEASONS[int(rng.choice(4, p=(0.45, 0.2, 0.2, 0.15)))]

    crown = np.array(_vary(rng, _CROWN[season], 0.12, 0.05), np.float32)
    spread = rng.uniform(-1.0, 1.0, (256, 1)).astype(np.float32)
    hue = rng.uniform(-0.1, 0.1, (256, 3)).astype(np.float32)
    if season == "autumn":
        hue *= np.float32(2.5)
    crowns = crown * (1.0 + np.float32(0.25) * spread) * (1.0 + hue)
    crowns[200:] = np.array(_CONIFER, np.float32) * (1.0 + np.float32(0.2) * spread[200:])
    leaf = np.ones(256, np.float32)
    if season == "winter":
        leaf[:200] = np.float32(0.55) + np.float32(0.2) * spread[:200, 0]
    elif season == "autumn":
        leaf[:200] = np.float32(0.85) + np.float32(0.15) * spread[:200, 0]

    contrast = rng.uniform(0.95, 1.15)
    warmth = rng.uniform(-0.05, 0.05)
    gain = np.array([1 + warmth, 1 + rng.uniform(-0.03, 0.03), 1 - warmth]) * contrast
    offset = np.array([0.0, 0.0, rng.uniform(-4, 8)]) + rng.uniform(-8, 8) + 110 * (1 - contrast)
    bluish = rng.uniform(0.0, 22.0)
    level = rng.uniform(165.0, 215.0)
    return Conditions(
        sun=sun,
        ambient=rng.uniform(0.34, 0.48),
        grass=_vary(rng, _GRASS[season], 0.12, 0.06),
        soil=_vary(rng, (164, 140, 110), 0.15, 0.06),
        water=_vary(rng, (60, 76, 76), 0.25, 0.12),
        crops=tuple(_vary(rng, c, 0.1, 0.05) for c in _CROPS[season]),
        crowns=crowns,
        leaf=np.clip(leaf, 0.3, 1.0),
        asphalt=rng.uniform(0.86, 1.1),
        haze=max(0.0, rng.uniform(-0.1, 0.17)),
        haze_rgb=(level, level + bluish / 2, level + bluish),
        saturation=rng.uniform(0.65, 0.95),
        gain=gain.astype(np.float32),
        offset=offset.astype(np.float32),
        gamma=rng.uniform(0.88, 1.12),
        noise=rng.uniform(1.0, 3.5),
        blur=rng.uniform(0.05, 0.24),
    )
