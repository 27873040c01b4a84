"""Pictures of predictions: image(s), truth and prediction side by side, a tile a row."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rsmamba_cli.datasets import IGNORE, Sample
from rsmamba_cli.datasets.info import Color

Picture = NDArray[np.uint8]

_GAP = 4
_SIDE = 320
_IGNORED: Color = (128, 128, 128)
_RIGHT: Color = (245, 245, 245)
_RIGHT_POSITIVE: Color = (190, 190, 190)
_MISSED: Color = (0, 90, 200)
_TOO_MUCH: Color = (210, 50, 30)


def picture_of(image: NDArray[Any]) -> Picture:
    """Show up to three bands of a tile (C, H, W) as 8-bit RGB (H, W, 3).

    8-bit images are shown as they are; others are stretched from their 2nd to 98th percentile.
    One or two bands are shown in grey (the first).
    """
    shown = image[:3] if len(image) >= 3 else np.repeat(image[:1], 3, axis=0)
    if shown.dtype != np.uint8:
        flat = shown.reshape(3, -1).astype(np.float64)
        low, high = np.percentile(flat, [2, 98], axis=1)[..., None, None]
        shown = (shown - low) / np.maximum(high - low, 1e-9) * 255
    return np.ascontiguousarray(np.moveaxis(shown.clip(0, 255).astype(np.uint8), 0, -1))


def paint(label: NDArray[Any], colors: Sequence[Color]) -> Picture:
    """Paint class indices (H, W) in their colours; ignored pixels are grey."""
    table = np.full((256, 3), _IGNORED, np.uint8)
    table[: len(colors)] = colors
    table[IGNORE] = _IGNORED
    painted: Picture = table[label.clip(0, 255).astype(np.uint8)]
    return painted


def paint_errors(label: NDArray[Any], prediction: NDArray[Any], colors: Sequence[Color]) -> Picture:
    """Show where a prediction (H, W) differs from the label (H, W).

    Right pixels are pale (darker for the second of two classes), ignored ones grey. Of two classes,
    what was missed is blue and what is too much red; of more, a wrong pixel has the colour of the
    class that was predicted.
    """
    out = np.full((*label.shape, 3), _RIGHT, np.uint8)
    wrong = label != prediction
    if len(colors) == 2:
        out[(label == 1) & ~wrong] = _RIGHT_POSITIVE
        out[(label == 1) & wrong] = _MISSED
        out[(label == 0) & wrong] = _TOO_MUCH
    else:
        out[wrong] = paint(prediction, colors)[wrong]
    out[label == IGNORE] = _IGNORED
    return out


def row_of(
    sample: Sample, prediction: NDArray[Any], colors: Sequence[Color], errors: bool = False
) -> Picture:
    """One row: the image or both dates, the truth, the prediction and, if wanted, its errors."""
    panels = [picture_of(image) for image in sample.images]
    panels += [paint(sample.label, colors), paint(prediction, colors)]
    if errors:
        panels.append(paint_errors(sample.label, prediction, colors))
    return side_by_side(panels)


def side_by_side(panels: Sequence[Picture]) -> Picture:
    """Panels in a row, made small enough for a page."""
    return _join([_shrink(panel) for panel in panels], axis=1)


def write_grid(rows: Sequence[Picture], path: Path) -> None:
    """Write rows below each other as a PNG."""
    Image.fromarray(_join(rows, axis=0)).save(path, format="PNG")


def _shrink(panel: Picture) -> Picture:
    """Make a panel small enough for a page; colours stay pure (nearest neighbour)."""
    if max(panel.shape[:2]) <= _SIDE:
        return panel
    step = _SIDE / max(panel.shape[:2])
    size = (max(1, round(panel.shape[1] * step)), max(1, round(panel.shape[0] * step)))
    return np.asarray(Image.fromarray(panel).resize(size, Image.Resampling.NEAREST))


def _join(panels: Sequence[Picture], axis: int) -> Picture:
    """Put pictures beside (axis 1) or below (axis 0) each other, with white gaps."""
    across = 1 - axis
    extent = max(p.shape[across] for p in panels)
    pieces: list[Picture] = []
    for panel in panels:
        if pieces:
            pieces.append(_white(axis, _GAP, extent))
        if (short := extent - panel.shape[across]) > 0:
            filler = _white(across, short, panel.shape[axis])
            panel = np.concatenate([panel, filler], axis=across)
        pieces.append(panel)
    return np.concatenate(pieces, axis=axis)


def _white(axis: int, thick: int, long: int) -> Picture:
    shape = (thick, long, 3) if axis == 0 else (long, thick, 3)
    return np.full(shape, 255, np.uint8)
