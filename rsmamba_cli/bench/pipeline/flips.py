"""How many labels another batch size or number of threads moves, with a real model.

Both change in which order a matrix product adds up, hence the last bits of a probability.
"""

from pathlib import Path

import numpy as np
import rasterio
from rasterio.windows import Window

from rsmamba_cli.bench.pipeline.records import Flips
from rsmamba_cli.demo import write_scene_pair
from rsmamba_cli.events import EventHandler, ignore_events
from rsmamba_cli.inference import PredictOptions, predict

SETTINGS = tuple((batch, threads) for threads in (1, 2) for batch in (1, 4, 16))
"""(windows a forward pass, CPU threads); the others are held against the first."""
_ROWS = 512


def label_flips(
    folder: Path, side: int, memory: str, on_event: EventHandler = ignore_events
) -> tuple[Flips, ...]:
    """Map a drawn scene with the embedded demonstration model in several ways and compare.

    Args:
        folder: for the scene and the maps; they stay.
        side: of the scene in pixels.
        memory: bound, as `--memory` takes it.
        on_event: told what goes on.
    """
    scene = write_scene_pair(folder, side, seed=36).t1
    found = []
    first: tuple[Path, Path] | None = None
    for batch, threads in SETTINGS:
        mask, scores = folder / "mask.tif", folder / "probabilities.tif"
        if first is not None:
            mask, scores = folder / "other.tif", folder / "other_probabilities.tif"
        options = PredictOptions(
            batch_size=batch,
            threads=threads,
            device="cpu",
            memory=memory,
            probabilities=scores,
            overwrite=True,
        )
        seconds = predict(scene, mask, options, on_event).seconds
        first = first or (mask, scores)
        found.append(
            Flips(
                batch_size=batch,
                threads=threads,
                pixels=side * side,
                labels=_differing(mask, first[0]),
                probabilities=_differing(scores, first[1]),
                seconds=seconds,
            )
        )
    return tuple(found)


def _differing(one: Path, other: Path) -> int:
    count = 0
    with rasterio.open(one) as a, rasterio.open(other) as b:
        for row in range(0, a.height, _ROWS):
            window = Window(0, row, a.width, min(_ROWS, a.height - row))
            count += int(np.count_nonzero(a.read(window=window) != b.read(window=window)))
    return count
