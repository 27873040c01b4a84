"""What the engine reads: normalised inputs and the pixels that want an answer."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from rsmamba_cli.inference.normalise import normalise
from rsmamba_cli.raster.grid import Grid
from rsmamba_models import InputSpec

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]


class Reader(Protocol):
    """One date or sensor on the grid of the run (a `Scene`, or one that was aligned to it)."""

    grid: Grid

    def read(self, row: int, col: int, height: int, width: int) -> tuple[Floats, Bools]:
        """Raw values (bands, height, width) and validity (height, width)."""
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
    """

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
        values: list[Floats | None] = []
        wanted = np.ones((height, width), dtype=np.bool_)
        for reader in self._readers:
            if reader is None:
                values.append(None)
                continue
            raw, valid = reader.read(row, col, height, width)
            values.append(raw)
            wanted &= valid
        inputs = tuple(
            np.zeros((transform.bands, height, width), dtype=np.float32)
            if raw is None
            else normalise(raw, wanted, transform)
            for raw, transform in zip(values, self._transforms, strict=True)
        )
        if self._selection is not None:
            wanted = wanted & self._selection.read(row, col, height, width)
        return inputs, wanted
