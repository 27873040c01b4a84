"""The finished map, row by row: blocks as they are, or brought back to the grid of the scene."""

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from rsmamba_cli.inference.emit import SCORES, output_arrays, scores_of
from rsmamba_cli.inference.prepare import Prepared
from rsmamba_cli.raster.blocks import Blocks
from rsmamba_cli.raster.resample import Axis, resample

_COLUMNS = 4096
"""That are brought back at a time: the inputs are read again, for what is valid."""


class FinishedRows(Protocol):
    """Where outputs are read from."""

    def read_rows(
        self, name: str, first: int, last: int, left: int = 0, right: int | None = None
    ) -> npt.NDArray[Any]:
        """Part of a layer, (count, rows, columns)."""
        ...


def finished_rows(prepared: Prepared, store: Blocks) -> FinishedRows:
    """What the outputs of a run are made of, when every block is finished."""
    return store if prepared.plan.stored is None else _BroughtBack(prepared, store)


class _BroughtBack:
    """Probabilities of a working grid on the grid of the scene, and classes chosen there."""

    def __init__(self, prepared: Prepared, store: Blocks) -> None:
        self._prepared = prepared
        self._store = store
        height, width = prepared.grid.shape
        self._rows = Axis(prepared.plan.rows.length, height)
        self._cols = Axis(prepared.plan.cols.length, width)

    def read_rows(
        self, name: str, first: int, last: int, left: int = 0, right: int | None = None
    ) -> npt.NDArray[Any]:
        right = self._prepared.grid.width if right is None else right
        parts = [
            self._piece(name, first, last, start, min(start + _COLUMNS, right))
            for start in range(left, right, _COLUMNS)
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)

    def _piece(self, name: str, first: int, last: int, left: int, right: int) -> npt.NDArray[Any]:
        plan, source = self._prepared.plan, self._prepared.map_source
        shape = last - first, right - left
        layer = plan.layers[name]
        if not source.touches(first, left, *shape):
            return np.full((layer.count, *shape), layer.fill, dtype=layer.dtype)
        _, wanted = source.read(first, left, *shape)
        top, bottom = self._rows.reach(first, last)
        start, stop = self._cols.reach(left, right)
        scores, known = scores_of(self._store.read_rows(SCORES, top, bottom, start, stop))
        probabilities, found = resample(
            scores, known, self._rows, self._cols, (first, last), (left, right), top, start
        )
        return output_arrays(plan, probabilities, wanted & found)[name]
