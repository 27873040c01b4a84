"""What the engine reads: normalised inputs and the pixels that want an answer."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from rsmamba_cli.inference.normalise import normalise
from rsmamba_cli.raster.grid import Grid
from rsmamba_models import InputSpec

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]

_AT_ONCE = 1 << 21
"""Values that are read at a time: what lies between file and buffer stays small."""
ROWS_AT_LEAST = 16


def rows_at_once(bands: int, width: int) -> int:
    """Rows that are read at a time.

    Args:
        bands: of all inputs together.
        width: of the window that is read.
    """
    return max(ROWS_AT_LEAST, _AT_ONCE // (bands * width))


class Reader(Protocol):
    """One date or sensor on the grid of the run (a `Scene`, or one that was aligned to it)."""

    grid: Grid

    def read(self, row: int, col: int, height: int, width: int) -> tuple[Floats, Bools]:
        """Raw values (bands, height, width) and validity (height, width)."""
        ...


@runtime_checkable
class Native(Protocol):
    """A reader that has the values as they are stored."""

    def read_native(
        self, row: int, col: int, height: int, width: int
    ) -> tuple[npt.NDArray[Any], Bools]:
        """As `Reader.read`, in the file's type."""
        ...


@runtime_checkable
class Touching(Protocol):
    """What knows without reading that a window holds nothing."""

    def touches(self, row: int, col: int, height: int, width: int) -> bool:
        """Whether a window may hold something."""
        ...


class Wanted(Touching, Protocol):
    """Which pixels of the run's grid are asked for (a `Selection`)."""

    def read(self, row: int, col: int, height: int, width: int) -> Bools:
        """True where a pixel is asked for, (height, width)."""
        ...


class Source:
    """All inputs of a run on one grid.

    Invalid pixels (of any input: the masks are united) are 0 after normalisation, and so is all of
    an input that is missing (None in place of its reader).

    Attributes:
        bands: bands of each input.
        rows_at_once: rows that are read at a time; None goes by the width.
    """

    rows_at_once: int | None = None

    def __init__(
        self,
        readers: Sequence[Reader | None],
        specs: Sequence[InputSpec],
        selection: Wanted | None,
    ) -> None:
        self._readers = tuple(readers)
        self._transforms = tuple(spec.transform for spec in specs)
        self._selection = selection
        self.bands = tuple(len(spec.bands) for spec in specs)

    def touches(self, row: int, col: int, height: int, width: int) -> bool:
        """Whether any pixel of a window may want an answer; False costs no reading."""
        askable = (self._selection, *self._readers)
        return all(x.touches(row, col, height, width) for x in askable if isinstance(x, Touching))

    def read(self, row: int, col: int, height: int, width: int) -> tuple[tuple[Floats, ...], Bools]:
        """Read a window inside the grid.

        Returns:
            For each input (bands, height, width) as the model wants it, and wanted (height, width):
            valid in every input and selected.
        """
        inputs = tuple(np.empty((n, height, width), dtype=np.float32) for n in self.bands)
        wanted = np.empty((height, width), dtype=np.bool_)
        self.read_into(inputs, wanted, row, col)
        return inputs, wanted

    def read_into(self, inputs: Sequence[Floats], wanted: Bools, row: int, col: int) -> None:
        """Read a window inside the grid into arrays of its size, laid out as `read` returns them.

        Args:
            inputs: one for each input.
            wanted: pixels that want an answer.
            row: first row.
            col: first column.
        """
        height, width = wanted.shape
        step = self.rows_at_once or rows_at_once(sum(self.bands), width)
        for first in range(0, height, step):
            rows = slice(first, first + step)
            self._read_rows([into[:, rows] for into in inputs], wanted[rows], row + first, col)

    def _read_rows(self, inputs: Sequence[Floats], wanted: Bools, row: int, col: int) -> None:
        height, width = wanted.shape
        wanted[...] = True
        raw: list[npt.NDArray[Any] | None] = []
        for reader in self._readers:
            if reader is None:
                raw.append(None)
                continue
            # The transform makes float32 of what is stored in one go.
            read = reader.read_native if isinstance(reader, Native) else reader.read
            values, valid = read(row, col, height, width)
            raw.append(values)
            wanted &= valid
        for into, given, transform in zip(inputs, raw, self._transforms, strict=True):
            if given is None:
                into[...] = 0
            else:
                normalise(given, wanted, transform, into)
        if self._selection is not None:
            wanted &= self._selection.read(row, col, height, width)
