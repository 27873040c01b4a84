"""Procedural pairs of aerial photographs with exact building and change labels.

The demonstration, the embedded checkpoints and many tests run on these scenes. They are drawn, not
photographed: a model trained on them knows nothing of the real world.

What counts as change: a pixel is changed when it was building on one date and not on the other, in
the ground truth itself. Seasons, crops, light, shadows, haze, cars, felled trees, renewed roofs and
a misregistration of a fraction of a pixel are no change. ``building2`` follows the second image;
``building`` and ``change`` follow the grid of the first one. So ``change`` differs from
``building ^ building2`` only within ``ceil(shift) + 1`` pixels of the outline of a building or of
the scene.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rsmamba_cli.datasets.scenery.conditions import draw_conditions
from rsmamba_cli.datasets.scenery.layout import lay_out
from rsmamba_cli.datasets.scenery.render import BUILDING_CLASS, Photograph, View
from rsmamba_cli.errors import InputError

CLASS_NAMES = ("other", "building", "road", "tree", "water", "field")
DEFAULT_SHIFT = 0.6
GSD_RANGE = (0.3, 1.0)
_CHUNK = 512

Seed = int | Sequence[int]


@dataclass(frozen=True, slots=True)
class GeneratedScene:
    """Two photographs of one place and the truth about it.

    Attributes:
        t1, t2: (3, H, W) uint8 red, green, blue of the first and second date.
        building: (H, W) uint8, 1 where the first date shows a building.
        building2: likewise for the second date.
        change: (H, W) uint8, 1 where a building appeared or vanished (see the module's text).
        classes: (H, W) uint8 land cover of the first date, an index into ``CLASS_NAMES``.
        gsd: metres a pixel.
        shift: (rows, columns) in pixels by which the second image is misregistered.
    """

    t1: np.ndarray
    t2: np.ndarray
    building: np.ndarray
    building2: np.ndarray
    change: np.ndarray
    classes: np.ndarray
    gsd: float
    shift: tuple[float, float]


class Place:
    """A drawn piece of land that can be photographed on two dates, at any position and resolution.

    Args:
        seed: a non-negative integer or several.
        width: extent in metres towards the right.
        height: extent in metres downwards.

    Raises:
        InputError: for a seed that is none.
    """

    def __init__(self, seed: Seed, width: float, height: float) -> None:
        self._entropy = _entropy(seed)
        rng = np.random.Generator(np.random.PCG64([*self._entropy, 1]))
        dates = draw_conditions(rng), draw_conditions(rng)
        self._sketch = lay_out(rng, dates, (0.0, 0.0, width, height))
        self._dates = tuple(Photograph(self._sketch, date) for date in (0, 1))

    def photograph(self, date: int, view: View) -> tuple[np.ndarray, np.ndarray]:
        """Take a picture.

        Args:
            date: 0 or 1.
            view: which pixels; what lies outside the place is empty meadow.

        Returns:
            (3, H, W) uint8 image and (H, W) uint8 land cover, an index into ``CLASS_NAMES``.
        """
        image = np.empty((3, view.height, view.width), np.uint8)
        classes = np.empty((view.height, view.width), np.uint8)
        for row, col, part in _chunks(view):
            here = (slice(row, row + part.height), slice(col, col + part.width))
            seed = [*self._entropy, 3 + date]
            image[:, *here], cover = self._dates[date].render(row, col, part, seed)
            cover[self._dates[date].building(part) == 1] = BUILDING_CLASS
            classes[here] = cover
        return image, classes

    def building(self, date: int, view: View) -> np.ndarray:
        """(H, W) uint8, 1 where at least half a pixel is building on that date."""
        out = np.empty((view.height, view.width), np.uint8)
        for row, col, part in _chunks(view):
            here = (slice(row, row + part.height), slice(col, col + part.width))
            out[here] = self._dates[date].building(part)
        return out


def _chunks(view: View) -> Iterator[tuple[int, int, View]]:
    """The view in squares that fit a processor's cache: (first row, first column, part)."""
    for row in range(0, view.height, _CHUNK):
        for col in range(0, view.width, _CHUNK):
            yield (
                row,
                col,
                View(
                    view.x + col * view.gsd,
                    view.y + row * view.gsd,
                    view.gsd,
                    min(_CHUNK, view.height - row),
                    min(_CHUNK, view.width - col),
                ),
            )


def make_scene(
    seed: Seed, height: int, width: int, gsd: float = 0.5, *, shift: float = DEFAULT_SHIFT
) -> GeneratedScene:
    """Draw a scene pair.

    The same arguments give the same scene (numpy's PCG64; another release of numpy or Pillow may
    move single pixels by rounding).

    Args:
        seed: a non-negative integer or several.
        height: rows in pixels, at least 1.
        width: columns in pixels, at least 1.
        gsd: metres a pixel, 0.1 to 5.
        shift: largest misregistration of the second date in pixels, 0 for none.

    Returns:
        The images and labels.

    Raises:
        InputError: for a seed, size or pixel size out of range.
    """
    _check(height, width, gsd)
    rng = np.random.Generator(np.random.PCG64([*_entropy(seed), 5]))
    dy, dx = rng.uniform(-shift, shift, 2).tolist() if shift else (0.0, 0.0)
    place = Place(seed, width * gsd, height * gsd)
    first = View(0.0, 0.0, gsd, height, width)
    second = View(dx * gsd, dy * gsd, gsd, height, width)
    t1, classes = place.photograph(0, first)
    t2, _ = place.photograph(1, second)
    building = place.building(0, first)
    building2 = place.building(1, second)
    change = building ^ (place.building(1, first) if shift else building2)
    return GeneratedScene(t1, t2, building, building2, change, classes, gsd, (dy, dx))


def make_tile(seed: Seed, size: int = 256, gsd: float | None = None) -> GeneratedScene:
    """Draw one square training pair with the statistics of :func:`make_scene`.

    Args:
        seed: a non-negative integer or several, for example (seed, epoch, index).
        size: pixels a side.
        gsd: metres a pixel; None draws one between 0.3 and 1.0 (more small ones than large).

    Returns:
        The images and labels.
    """
    if gsd is None:
        u = np.random.Generator(np.random.PCG64([*_entropy(seed), 2])).random()
        low, high = GSD_RANGE
        gsd = low * math.exp(u * math.log(high / low))
    return make_scene(seed, size, size, gsd)


def _check(height: int, width: int, gsd: float) -> None:
    if height < 1 or width < 1:
        raise InputError(f"a scene needs at least 1 x 1 pixels, not {height} x {width}")
    if not 0.1 <= gsd <= 5.0:
        raise InputError(f"gsd must be 0.1 to 5 metres a pixel, not {gsd}")


def _entropy(seed: Seed) -> tuple[int, ...]:
    """The seed as non-negative integers (numpy's own integers included)."""
    numbers = tuple(map(int, seed)) if isinstance(seed, Sequence) else (int(seed),)
    if min(numbers, default=-1) < 0:
        raise InputError(f"a seed is one or more integers from 0 up, not {seed}")
    return numbers
