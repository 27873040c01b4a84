"""From a sketch to two photographs and their labels, chunk by chunk."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Generic, TypeVar

import numpy as np
from PIL import Image, ImageDraw

from rsmamba_cli.datasets.scenery.conditions import Conditions
from rsmamba_cli.datasets.scenery.sketch import (
    ASPHALT,
    CONCRETE,
    DIRT,
    FIELD,
    GRASS,
    OBJECT,
    ROOF,
    ROOF_METAL,
    SOIL,
    WATER,
    Field,
    Points,
    Sketch,
    Tree,
)
from rsmamba_cli.datasets.scenery.textures import CROWN_VARIANTS, crown, noise

SUPERSAMPLING = 2
HALO = 2

F = TypeVar("F")


@dataclass(frozen=True, slots=True)
class View:
    """A window of pixels on the ground: position of its corner and pixel size in metres."""

    x: float
    y: float
    gsd: float
    height: int
    width: int


class Pile(Generic[F]):
    """Polygons in painter's order with their bounding boxes.

    Args:
        items: (order, points, value); equal orders keep their sequence.
    """

    def __init__(self, items: Sequence[tuple[float, Points, F]]) -> None:
        ordered = sorted(items, key=lambda item: item[0])
        self.points = [item[1] for item in ordered]
        self.values = [item[2] for item in ordered]
        self.bounds = np.zeros((0, 4))
        if ordered:
            flat = np.fromiter(chain.from_iterable(self.points), np.float64).reshape(-1, 2)
            sizes = np.fromiter((len(p) // 2 for p in self.points), np.intp, len(ordered))
            starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
            low, high = np.minimum.reduceat(flat, starts), np.maximum.reduceat(flat, starts)
            self.bounds = np.concatenate([low, high], 1)

    def draw(self, canvas: Image.Image, view: View) -> None:
        """Paint the polygons that touch ``view`` on a canvas ``SUPERSAMPLING`` times as large."""
        if not self.points:
            return
        b = self.bounds
        seen = np.flatnonzero(
            (b[:, 2] > view.x)
            & (b[:, 0] < view.x + view.width * view.gsd)
            & (b[:, 3] > view.y)
            & (b[:, 1] < view.y + view.height * view.gsd)
        ).tolist()
        if not seen:
            return
        chosen = [self.points[k] for k in seen]
        flat = np.fromiter(chain.from_iterable(chosen), np.float64).reshape(-1, 2)
        flat -= (view.x, view.y)
        flat *= SUPERSAMPLING / view.gsd
        # Pillow counts whole pixels and fills the outline's pixels too: half a pixel is taken off.
        corners = np.clip(np.rint(flat - 0.5), -30000, 30000).astype(np.int32).ravel().tolist()
        polygon = ImageDraw.Draw(canvas).polygon
        start = 0
        for k, points in zip(seen, chosen, strict=True):
            end = start + len(points)
            polygon(corners[start:end], fill=self.values[k])  # type: ignore[arg-type]
            start = end


def _by_material(**amounts: float) -> np.ndarray:
    table = np.zeros(256, np.float32)
    codes = {
        "grass": GRASS, "soil": SOIL, "asphalt": ASPHALT, "concrete": CONCRETE, "water": WATER,
        "thing": OBJECT, "dirt": DIRT, "roof": ROOF, "metal": ROOF_METAL,
    }  # fmt: skip
    for name, amount in amounts.items():
        if name == "field":
            table[FIELD:] = amount
        else:
            table[codes[name]] = amount
    return table


# Relative brightness variation of each material: pixel-fine, mottled (patches of metres), cloudy.
_FINE = _by_material(grass=0.055, soil=0.05, asphalt=0.028, concrete=0.03, water=0.012, dirt=0.07,
                     roof=0.032, metal=0.018, field=0.04)  # fmt: skip
_MOTTLED = _by_material(grass=0.07, soil=0.08, asphalt=0.03, concrete=0.035, water=0.012,
                        dirt=0.10, roof=0.022, metal=0.018, field=0.05)  # fmt: skip
_CLOUDY = _by_material(grass=0.07, soil=0.05, asphalt=0.03, concrete=0.02, water=0.05,
                       dirt=0.06, roof=0.0, metal=0.0, field=0.05)  # fmt: skip
_HUE = _by_material(grass=0.035, soil=0.02, dirt=0.02, field=0.02)

OTHER_CLASS, BUILDING_CLASS, ROAD_CLASS, TREE_CLASS, WATER_CLASS, FIELD_CLASS = range(6)
_CLASS = np.zeros(256, np.uint8)
_CLASS[ASPHALT] = ROAD_CLASS
_CLASS[WATER] = WATER_CLASS
_CLASS[FIELD:] = FIELD_CLASS


class Photograph:
    """One date of a sketch, ready to be rendered in any window.

    Args:
        sketch: the scene.
        date: 0 or 1.
    """

    def __init__(self, sketch: Sketch, date: int) -> None:
        self.conditions: Conditions = sketch.dates[date]
        self.paint = Pile(sketch.paint[date])
        self.shade = Pile(sketch.shade[date])
        self.footprints = Pile([(0.0, points, 255) for points in sketch.footprints[date]])
        self.fields = sketch.fields
        self.strengths = [field.strength[date] for field in sketch.fields]
        trees = [tree for tree in sketch.trees if tree.dates >> date & 1]
        trees.sort(key=lambda tree: tree.height)
        self.trees = trees
        self.tree_x = np.array([tree.x for tree in trees])
        self.tree_y = np.array([tree.y for tree in trees])
        self.tree_reach = max((tree.radius for tree in trees), default=0.0) * 1.4

    def building(self, view: View) -> np.ndarray:
        """Pixels of which at least half is building, (h, w) uint8 0/1."""
        canvas = Image.new("L", (view.width * SUPERSAMPLING, view.height * SUPERSAMPLING))
        self.footprints.draw(canvas, view)
        return (np.asarray(canvas.reduce(SUPERSAMPLING)) >= 128).astype(np.uint8)

    def render(
        self, row: int, col: int, view: View, noise_seed: Sequence[int]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Take the photograph of one window.

        Args:
            row: first row of the window in the scene (for texture and noise).
            col: first column of the window in the scene.
            view: the window.
            noise_seed: seeds the sensor noise, together with ``row`` and ``col``.

        Returns:
            (3, h, w) uint8 image and (h, w) uint8 land cover without buildings.
        """
        wide = View(
            view.x - HALO * view.gsd, view.y - HALO * view.gsd, view.gsd,
            view.height + 2 * HALO, view.width + 2 * HALO,
        )  # fmt: skip
        size = (wide.width * SUPERSAMPLING, wide.height * SUPERSAMPLING)
        # Four channels without meaning to Pillow: red, green, blue, material.
        canvas = Image.new("CMYK", size)
        self.paint.draw(canvas, wide)
        shade = Image.new("L", size)
        self.shade.draw(shade, wide)
        material = np.ascontiguousarray(np.asarray(canvas)[::2, ::2, 3])
        small = np.asarray(canvas.reduce(SUPERSAMPLING))[..., :3]
        rgb = np.ascontiguousarray(small.transpose(2, 0, 1)).astype(np.float32)
        dark = np.asarray(shade.reduce(SUPERSAMPLING)).astype(np.float32)
        dark *= np.float32(1 / 255)

        self._texture(rgb, material, row - HALO, col - HALO)
        self._rows(rgb, material, wide)
        ambient = self.conditions.ambient
        for band, tint in enumerate((0.94, 1.0, 1.1)):  # the sky that lights a shadow is blue
            rgb[band] *= 1 - dark * np.float32(1 - min(0.9, ambient * tint))
        cover = self._canopy(rgb, dark, wide)
        image = self._camera(rgb, [*noise_seed, row, col])
        inner = (slice(HALO, -HALO), slice(HALO, -HALO))
        classes = _CLASS[material[inner]]
        classes[cover[inner] > 0.5] = TREE_CLASS
        return image, classes

    def _texture(self, rgb: np.ndarray, material: np.ndarray, row: int, col: int) -> None:
        h, w = material.shape
        cloudy = noise(2, row + 300, col + 700, h, w)
        factor = _FINE.take(material)
        factor *= noise(0, row, col, h, w)
        mottled = noise(1, row + 77, col + 31, h, w)
        factor += _MOTTLED.take(material) * mottled
        factor += _CLOUDY.take(material) * cloudy
        factor += 1
        rgb *= factor
        hue = _HUE.take(material)
        hue *= mottled + noise(2, row + 900, col + 100, h, w)
        rgb[0] *= 1 + hue
        rgb[2] *= 1 + hue * np.float32(0.6)

    def _rows(self, rgb: np.ndarray, material: np.ndarray, view: View) -> None:
        """Plough and crop rows: a sine across each field."""
        for field, strength in zip(self.fields, self.strengths, strict=True):
            window = _pixels(field, view)
            if window is None or strength < 0.01:
                continue
            r0, r1, c0, c1 = window
            inside = material[r0:r1, c0:c1] == field.code
            # Rows finer than two pixels would alias: they fade, as they do in a real camera.
            fade = min(1.0, max(0.0, field.spacing / view.gsd / 2 - 0.9))
            if fade == 0.0 or not inside.any():
                continue
            k = 2 * np.pi / field.spacing
            xs = (view.x + view.gsd * (np.arange(c0, c1) + 0.5)) * (k * -field.ny)
            ys = (view.y + view.gsd * (np.arange(r0, r1) + 0.5)) * (k * field.nx)
            wave = np.sin((ys[:, None] + xs[None, :]).astype(np.float32))
            wave *= inside * np.float32(strength * fade)
            wave += 1
            rgb[:, r0:r1, c0:c1] *= wave

    def _canopy(self, rgb: np.ndarray, dark: np.ndarray, view: View) -> np.ndarray:
        """Paint the tree crowns over ``rgb``; returns their opacity, (h, w) float32."""
        h, w = dark.shape
        height = np.zeros((h, w), np.float32)
        reach = self.tree_reach + 2 * view.gsd
        seen = np.flatnonzero(
            (self.tree_x > view.x - reach)
            & (self.tree_x < view.x + w * view.gsd + reach)
            & (self.tree_y > view.y - reach)
            & (self.tree_y < view.y + h * view.gsd + reach)
        ).tolist()
        if not seen:
            return height
        tint = np.zeros((h, w), np.uint8)
        for k in seen:
            _stamp(self.trees[k], height, tint, view)
        cover = np.minimum(height, 1)
        sun = self.conditions.sun
        slope = np.zeros_like(height)
        slope[:, 1:-1] = (height[:, :-2] - height[:, 2:]) * np.float32(sun[0] * 0.5)
        slope[1:-1] += (height[:-2] - height[2:]) * np.float32(sun[1] * 0.5)
        shading = np.clip(np.float32(0.9) + np.float32(0.42) * slope, 0.42, 1.5)
        shading *= 1 - dark * np.float32(0.3)
        opacity = cover * self.conditions.leaf.take(tint)
        colours = self.conditions.crowns
        for band in range(3):
            crown_rgb = colours[:, band].take(tint)
            crown_rgb *= shading
            crown_rgb -= rgb[band]
            crown_rgb *= opacity
            rgb[band] += crown_rgb
        return cover

    def _camera(self, rgb: np.ndarray, noise_seed: Sequence[int]) -> np.ndarray:
        """Point spread, haze, tone curve and sensor noise; (3, h, w) uint8 without the halo."""
        c = self.conditions
        a, b = np.float32(c.blur), np.float32(1 - 2 * c.blur)
        out = rgb[:, :, 1:-1] * b
        out += (rgb[:, :, :-2] + rgb[:, :, 2:]) * a
        soft = out[:, 1:-1] * b
        soft += (out[:, :-2] + out[:, 2:]) * a
        soft = np.ascontiguousarray(soft[:, HALO - 1 : 1 - HALO, HALO - 1 : 1 - HALO])
        grey = soft.mean(0) * np.float32(1 - c.saturation)
        soft *= np.float32(c.saturation)
        soft += grey
        haze = np.array(c.haze_rgb, np.float32) * c.haze
        gain = c.gain * np.float32((1 - c.haze) / 255)
        soft *= gain[:, None, None]
        soft += ((haze * c.gain + c.offset) / 255).astype(np.float32)[:, None, None]
        np.clip(soft, 0, 1, out=soft)
        # A quadratic stands in for the power law: one multiplication, same ends.
        bend = np.float32(1.35 * (1 - c.gamma))
        soft += soft * (1 - soft) * bend
        soft *= 255
        rng = np.random.Generator(np.random.PCG64(list(noise_seed)))
        grain = rng.standard_normal(soft.shape, dtype=np.float32)
        grain *= np.float32(c.noise)
        soft += grain
        soft += np.float32(0.5)
        image: np.ndarray = np.clip(soft, 0, 255).astype(np.uint8)
        return image


def _pixels(field: Field, view: View) -> tuple[int, int, int, int] | None:
    x0, y0, x1, y1 = field.bounds
    c0 = max(0, int((x0 - view.x) / view.gsd) - 1)
    r0 = max(0, int((y0 - view.y) / view.gsd) - 1)
    c1 = min(view.width, int((x1 - view.x) / view.gsd) + 2)
    r1 = min(view.height, int((y1 - view.y) / view.gsd) + 2)
    return (r0, r1, c0, c1) if r1 > r0 and c1 > c0 else None


def _stamp(tree: Tree, height: np.ndarray, tint: np.ndarray, view: View) -> None:
    """Put one crown into the canopy where it is the highest."""
    h, w = height.shape
    col = int(np.floor((tree.x - view.x) / view.gsd))
    row = int(np.floor((tree.y - view.y) / view.gsd))
    # The variant hangs on the tree alone, so that neighbouring windows draw the same crown.
    variant = int(tree.radius * 1000) % CROWN_VARIANTS
    sprite = crown(tree.radius / view.gsd, variant, tree.tint >= 200)
    reach = sprite.shape[0] // 2
    r0, c0 = row - reach, col - reach
    a0, a1 = max(0, -r0), min(sprite.shape[0], h - r0)
    b0, b1 = max(0, -c0), min(sprite.shape[1], w - c0)
    if a1 <= a0 or b1 <= b0:
        return
    part = sprite[a0:a1, b0:b1]
    ground = height[r0 + a0 : r0 + a1, c0 + b0 : c0 + b1]
    higher = part > ground
    np.copyto(ground, part, where=higher)
    np.copyto(tint[r0 + a0 : r0 + a1, c0 + b0 : c0 + b1], np.uint8(tree.tint), where=higher)
