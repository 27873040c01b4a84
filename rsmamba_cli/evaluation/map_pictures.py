"""Blocks of maps for the eye: the truth, the map and its errors."""

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rsmamba_cli.datasets.info import IGNORE, Color
from rsmamba_cli.datasets.labels import default_color
from rsmamba_cli.evaluation.map_counts import Block, Counted, Question, open_maps, read_window
from rsmamba_cli.evaluation.map_sides import Side, truth_reader, vector_reader
from rsmamba_cli.evaluation.map_values import Meaning
from rsmamba_cli.evaluation.results import Shown
from rsmamba_cli.report.pictures import paint, paint_errors, side_by_side

_BINARY: tuple[Color, ...] = ((0, 0, 0), (255, 255, 255))


def map_pictures(
    asked: Question, counted: Counted, meaning: Meaning, count: int, seed: int
) -> tuple[tuple[Shown, ...], tuple[Shown, ...]]:
    """Paint the blocks with the largest share of wrong pixels, and some at random.

    Args:
        asked: what was compared; of several maps the first is shown.
        counted: what was counted.
        meaning: of its values.
        count: of the worst, and of random ones; points have none.
        seed: of the choice.
    """
    blocks = [block for block in counted.blocks if block.joint]
    wrong = np.array([_share_wrong(block, meaning) for block in blocks])
    worst = np.argsort(-wrong, kind="stable")[:count]
    generator = np.random.default_rng(seed)
    random = np.sort(generator.choice(len(blocks), min(count, len(blocks)), replace=False))
    painted: dict[int, Shown] = {}
    wanted = sorted({*worst.tolist(), *random.tolist()}, key=lambda place: blocks[place].file)
    for number in dict.fromkeys(blocks[place].file for place in wanted):
        here = [place for place in wanted if blocks[place].file == number]
        pictures = _paint_blocks(asked, counted, meaning, [blocks[place] for place in here])
        for place, (name, picture) in zip(here, pictures, strict=True):
            painted[place] = Shown(name, float(wrong[place]), picture)
    return tuple(painted[i] for i in worst.tolist()), tuple(painted[i] for i in random.tolist())


def _share_wrong(block: Block, meaning: Meaning) -> float:
    """The share of the pixels of a block that the first map has wrong."""
    wrong = sum(n for k, n in block.joint.items() if meaning.place[k[0]] != meaning.place[k[1]])
    return wrong / block.joint.total()


def _paint_blocks(
    asked: Question, counted: Counted, meaning: Meaning, blocks: Sequence[Block]
) -> list[tuple[str, NDArray[np.uint8]]]:
    """The names and pictures of blocks of one file."""
    paths = counted.paths[blocks[0].file]
    sides = [replace(s, path=p, notes=[]) for s, p in zip(counted.sides, paths, strict=True)]
    # What does not count was added up when it was counted.
    again = replace(counted, sides=[sides[0], sides[-1]], left_out=Counter())
    colors = [default_color(i) for i in range(len(meaning.classes))]
    colors = list(_BINARY) if len(colors) == 2 else colors
    out = []
    with ExitStack() as stack:
        source, readers = open_maps(sides[:1], stack)
        readers.append(truth_reader(sides[-1], source, asked.attribute, stack))
        area = None if asked.aoi is None else Side("area", asked.aoi)
        inside = None if area is None else vector_reader(area, source, None)
        for block in blocks:
            values, keep = read_window(again, readers, inside, block.window, asked.ignore)
            truth, guess = (_indices(array, keep, meaning) for array in values)
            panels = [
                paint(truth, colors),
                paint(guess, colors),
                paint_errors(truth, guess, colors),
            ]
            row, column = int(block.window.row_off), int(block.window.col_off)
            out.append((f"{paths[0].stem}, row {row}, column {column}", side_by_side(panels)))
    return out


def _indices(
    values: NDArray[np.int64], keep: NDArray[np.bool_], meaning: Meaning
) -> NDArray[np.int64]:
    """Class indices of values; `IGNORE` where they do not count."""
    out = np.full(values.shape, IGNORE, np.int64)
    for value, index in meaning.place.items():
        out[keep & (values == value)] = index
    return out
