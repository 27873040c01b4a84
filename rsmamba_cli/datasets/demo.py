"""The ``demo`` dataset: scenes drawn by the generator when they are read."""

from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rsmamba_cli.datasets.files import Box, TileHeader
from rsmamba_cli.datasets.info import INPUTS, SPLITS, DatasetClass, DatasetInfo
from rsmamba_cli.datasets.inputs import DatasetInput
from rsmamba_cli.datasets.splits import Sample
from rsmamba_cli.errors import DatasetError

Drawn = tuple[tuple[NDArray[np.uint8], ...], NDArray[np.uint8]]

_CACHE_BYTES = 256 << 20
_SEED_SPACE = 0x5EED
"""Keeps the seeds of this dataset apart from those a user passes to the generator."""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """How much is drawn.

    Attributes:
        scenes: number of training scenes; validation and test have ``held_out`` each.
        held_out: number of validation scenes, and of test scenes.
        size: side of a scene in pixels.
        gsd: ground sample distances in metres, taken in turn; () draws them from 0.3 to 1.0.
        seed: another number gives other scenes throughout.
        fresh: draw new training scenes in every epoch.
    """

    scenes: int = 256
    held_out: int = 32
    size: int = 256
    gsd: tuple[float, ...] = ()
    seed: int = 0
    fresh: bool = False

    def __post_init__(self) -> None:
        if min(self.scenes, self.held_out, self.size, *self.gsd) <= 0:
            raise DatasetError(
                "The demo dataset's scenes, held_out, size and gsd must be above 0; "
                f"they are {self}."
            )


@dataclass(frozen=True)
class DemoSplit:
    """Scenes with seeds that no other split uses."""

    name: str
    dataset: "DemoDataset"
    # Drawing a scene takes longer than training on it, and an epoch reads each once: keep them.
    _kept: OrderedDict[int, Drawn] = field(default_factory=OrderedDict, repr=False)

    def __len__(self) -> int:
        options = self.dataset.options
        return options.scenes if self.name == "train" else options.held_out

    def __getitem__(self, index: int) -> Sample:
        return self.read(index)

    def header(self, index: int) -> TileHeader:
        """Size of a scene; the tiles of this dataset lie nowhere on Earth."""
        size = self.dataset.options.size
        return TileHeader(size, size, self.dataset.info.bands, "uint8", None, None)

    def stem(self, index: int) -> str:
        """Name of scene ``index``."""
        return f"{self.name}_{index:05d}"

    def read(self, index: int, box: Box | None = None, epoch: int = 0) -> Sample:
        """Draw scene ``index``; with ``fresh``, a new one in every epoch of training."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        fresh = self.dataset.options.fresh and self.name == "train"
        if fresh:
            images, label = self._draw(index, epoch)
        elif index in self._kept:
            self._kept.move_to_end(index)
            images, label = self._kept[index]
        else:
            images, label = self._kept[index] = self._draw(index, 0)
            size = label.nbytes + sum(image.nbytes for image in images)
            while len(self._kept) > max(1, _CACHE_BYTES // size):
                self._kept.popitem(last=False)
        if box is not None:
            rows, columns = slice(box[0], box[0] + box[2]), slice(box[1], box[1] + box[3])
            label = label[rows, columns]
            images = tuple(image[:, rows, columns] for image in images)
        return Sample(images, label.astype(np.int64), self.stem(index))

    def class_counts(self) -> None:
        """Nothing has been counted."""

    def moments(self) -> None:
        """Nothing has been measured."""

    def _draw(self, index: int, epoch: int) -> Drawn:
        """Draw one scene and its label."""
        from rsmamba_cli.datasets.generator import make_tile

        options = self.dataset.options
        seed = (_SEED_SPACE, options.seed, SPLITS.index(self.name), index, epoch)
        gsd = options.gsd[index % len(options.gsd)] if options.gsd else None
        scene = make_tile(seed, options.size, gsd)
        if self.dataset.task == "change":
            return (scene.t1, scene.t2), scene.change
        # Both dates serve: the second has another season, haze and sun.
        if index % 2:
            return (scene.t2,), scene.building2
        return (scene.t1,), scene.building


@dataclass(frozen=True)
class DemoDataset:
    """The three splits of the generated scenes."""

    info: DatasetInfo
    task: str
    options: DemoOptions
    _opened: dict[str, DemoSplit] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.task not in self.info.tasks:
            raise DatasetError(f"{self.info.title}: for {self.info.task}, not for {self.task}.")

    @property
    def root(self) -> None:
        """Nothing lies on disk."""
        return None

    @property
    def inputs(self) -> tuple[DatasetInput, ...]:
        """8-bit red, green, blue of one date or two."""
        bands = self.info.bands
        return tuple(DatasetInput(name, name, bands, "uint8") for name in INPUTS[self.task])

    @property
    def classes(self) -> tuple[DatasetClass, ...]:
        """Background and building, or background and change."""
        background, building = self.info.classes
        if self.task == "change":
            return background, DatasetClass(1, "change", (230, 40, 40))
        return background, building

    @property
    def gsd(self) -> float | None:
        """The middle one of the distances drawn."""
        distances = sorted(self.options.gsd)
        return distances[len(distances) // 2] if distances else self.info.gsd

    @property
    def notes(self) -> tuple[str, ...]:
        """The catalogue's remarks."""
        return self.info.notes

    @property
    def licence(self) -> str:
        """None is needed."""
        return ""

    @property
    def citation(self) -> str:
        """Nothing to cite."""
        return ""

    @property
    def splits(self) -> tuple[str, ...]:
        """All three."""
        return SPLITS

    def split(self, name: str) -> DemoSplit:
        """Open one split.

        Raises:
            DatasetError: there is no such split.
        """
        if name not in SPLITS:
            raise DatasetError(f"demo has no split {name!r}; it has: {', '.join(SPLITS)}.")
        return self._opened.setdefault(name, DemoSplit(name, self))
