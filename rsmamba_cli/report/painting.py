"""Arrays to pictures: contrast, class colours over an image, checkered nodata, titles, legend."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

RGB = tuple[int, int, int]
Bytes = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]

_PAGE: RGB = (250, 250, 250)
_INK: RGB = (30, 30, 30)
_GAP = 8
_DARK_SQUARE, _LIGHT_SQUARE = np.uint8(150), np.uint8(190)

# For masks without a colour table: distinct, also for most colour-blind readers (Okabe and Ito,
# "Color Universal Design", 2008).
DISTINCT: tuple[RGB, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture of a sheet: its title and (H, W, 3) uint8 pixels."""

    title: str
    pixels: Bytes


def stretch(values: npt.NDArray[np.generic], valid: Bools) -> Bytes:
    """Bring bands to 8 bits for the eye.

    8-bit values stay as they are. Others are scaled a band at a time so that the 2nd and 98th
    percentile of the valid pixels become black and white.

    Args:
        values: (C, H, W) of any real dtype.
        valid: (H, W), the pixels that count.

    Returns:
        (C, H, W) uint8.
    """
    if values.dtype == np.uint8:
        return values.view(np.uint8)
    out = np.zeros(values.shape, np.uint8)
    for band, source in enumerate(values):
        numbers = source.astype(np.float64)
        chosen = numbers[valid & np.isfinite(numbers)]
        if chosen.size == 0:
            continue
        low, high = np.percentile(chosen, (2.0, 98.0))
        if high <= low:
            # A flat band is mid-grey rather than black, which would look like nodata.
            out[band] = 128
            continue
        scaled = (np.nan_to_num(numbers, nan=low) - low) * (255.0 / (high - low))
        out[band] = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
    return out


def checkered(pixels: Bytes, valid: Bools, square: int = 8) -> Bytes:
    """``pixels`` (H, W, 3) with a grey checkerboard where nothing is valid."""
    rows, cols = np.ogrid[: valid.shape[0], : valid.shape[1]]
    board = np.where((rows // square + cols // square) % 2 == 0, _DARK_SQUARE, _LIGHT_SQUARE)
    return np.where(valid[..., None], pixels, board[..., None]).astype(np.uint8)


def outlines(mask: npt.NDArray[np.integer]) -> Bools:
    """Pixels whose right, left, upper or lower neighbour is of another class."""
    edge = np.zeros(mask.shape, np.bool_)
    down, right = mask[1:] != mask[:-1], mask[:, 1:] != mask[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    return edge


def overlay(
    pixels: Bytes,
    mask: npt.NDArray[np.integer],
    colors: Mapping[int, RGB],
    opacity: float,
) -> Bytes:
    """Paint classes over an image, half transparent with an opaque outline.

    Args:
        pixels: (H, W, 3) uint8.
        mask: (H, W) class values.
        colors: what to paint; values that are not in it are left alone.
        opacity: of the areas, 0..1.

    Returns:
        (H, W, 3) uint8.
    """
    out = pixels.astype(np.float32)
    edge = outlines(mask)
    for value, color in colors.items():
        inside = mask == value
        paint = np.array(color, np.float32)
        out[inside] += (paint - out[inside]) * np.float32(opacity)
        out[inside & edge] = paint
    return np.rint(out).astype(np.uint8)


def greyed(pixels: Bytes) -> Bytes:
    """A pale grey version, as a ground for colours: (H, W, 3) uint8."""
    grey = pixels.astype(np.float32).mean(-1, keepdims=True) * np.float32(0.7) + np.float32(60)
    return np.repeat(np.rint(grey).astype(np.uint8), 3, axis=-1)


def compose(panels: Sequence[Panel], legend: Sequence[tuple[str, RGB | None]]) -> Image.Image:
    """Put panels side by side under their titles, above a legend.

    Args:
        panels: at least one; of equal height.
        legend: (text, colour); None as colour is the checkerboard of missing data.

    Returns:
        An RGB picture.
    """
    height, width = panels[0].pixels.shape[:2]
    size = int(np.clip(max(height, width) / 45, 11, 22))
    font = ImageFont.load_default(size)
    line = size + 8
    page_width = sum(panel.pixels.shape[1] for panel in panels) + _GAP * (len(panels) + 1)
    page_width = max(page_width, 10 * size)
    rows = _legend_rows(legend, font, page_width - 2 * _GAP, size)
    page_height = line + height + _GAP + len(rows) * line
    page = Image.new("RGB", (page_width, page_height), _PAGE)
    draw = ImageDraw.Draw(page)
    x = _GAP
    for panel in panels:
        draw.text((x, 2), panel.title, fill=_INK, font=font)
        page.paste(Image.fromarray(panel.pixels), (x, line))
        x += panel.pixels.shape[1] + _GAP
    y = line + height + _GAP // 2
    for row in rows:
        x = _GAP
        for text, color in row:
            box = (x, y + 2, x + size, y + 2 + size)
            if color is None:
                tile = checkered(np.zeros((size, size, 3), np.uint8), np.zeros((size, size), bool))
                page.paste(Image.fromarray(tile), box[:2])
            else:
                draw.rectangle(box, fill=color)
            draw.rectangle(box, outline=(90, 90, 90))
            draw.text((x + size + 5, y), text, fill=_INK, font=font)
            x += _entry_width(text, font, size)
        y += line
    return page


def _entry_width(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, size: int) -> int:
    return size + 5 + int(font.getlength(text)) + 2 * size


def _legend_rows(
    legend: Sequence[tuple[str, RGB | None]],
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    room: int,
    size: int,
) -> list[list[tuple[str, RGB | None]]]:
    """Legend entries broken into lines that fit."""
    rows: list[list[tuple[str, RGB | None]]] = []
    used = room
    for entry in legend:
        width = _entry_width(entry[0], font, size)
        if used + width > room:
            rows.append([])
            used = 0
        rows[-1].append(entry)
        used += width
    return rows
