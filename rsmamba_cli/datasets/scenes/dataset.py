"""The dataset ``scenes``: its samples are blocks of scenes, read when asked for."""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rsmamba_cli.datasets.files import Box, TileHeader
from rsmamba_cli.datasets.info import IGNORE, INPUTS, SPLITS, DatasetClass, DatasetInfo
from rsmamba_cli.datasets.inputs import Bands, DatasetInput, Nodata, bands_of_each, nodata_of_each
from rsmamba_cli.datasets.moments import Moments
from rsmamba_cli.datasets.scenes.description import ScenesFile, read_scenes_file
from rsmamba_cli.datasets.scenes.measure import Measured, measure
from rsmamba_cli.datasets.scenes.readers import FILES, Readers
from rsmamba_cli.errors import DatasetError
from rsmamba_cli.events import EventHandler, ignore_events

if TYPE_CHECKING:
    from rsmamba_cli.datasets.splits import Sample


@dataclass(frozen=True)
class ScenesSplit:
    """The blocks of one split.

    Attributes:
        name: "train", "val" or "test".
        dataset: what it is a part of.
        places: of its blocks among those of the dataset.
    """

    name: str
    dataset: "ScenesDataset"
    places: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> "Sample":
        return self.read(index)

    def _block(self, index: int) -> tuple[int, Box]:
        block = self.dataset.measured.blocks[self.places[index]]
        return block.scene, block.box

    def header(self, index: int) -> TileHeader:
        """Size and georeference of block ``index``."""
        scene, (row, col, height, width) = self._block(index)
        grid = self.dataset.readers[scene].grid.window(row, col, height, width)
        image = self.dataset.inputs[0]
        crs = grid.crs.to_wkt() if grid.crs else None
        return TileHeader(height, width, image.bands, image.dtype, crs, grid.transform)

    def stem(self, index: int) -> str:
        """Scene, row and column of block ``index``."""
        scene, box = self._block(index)
        return f"{self.dataset.scene_names[scene]}_{box[0]:06d}_{box[1]:06d}"

    def read(self, index: int, box: Box | None = None, epoch: int = 0) -> "Sample":
        """Read a block or a part of it; ``epoch`` makes no difference to files.

        Raises:
            DatasetError: a file is damaged there.
        """
        from rsmamba_cli.datasets.splits import Sample

        scene, (row, col, height, width) = self._block(index)
        top, left, tall, wide = box or (0, 0, height, width)
        images, valid, label = self.dataset.readers[scene].read(row + top, col + left, tall, wide)
        if valid.all():
            return Sample(images, label, self.stem(index))
        label[~valid] = IGNORE
        return Sample(images, label, self.stem(index), valid)

    def class_counts(self) -> NDArray[np.int64]:
        """Labelled pixels of each class in each block, (n, K)."""
        return self.dataset.measured.counts[list(self.places)]

    def moments(self) -> tuple[Moments, ...] | None:
        """What mean and spread of each image follow from; None but for the training split."""
        return (self.dataset.measured.moments or None) if self.name == "train" else None


@dataclass(frozen=True)
class ScenesDataset:
    """Scenes, their labels, and who learns from what."""

    info: DatasetInfo
    path: Path
    task: str
    described: ScenesFile
    readers: Readers
    inputs: tuple[DatasetInput, ...]
    measured: Measured

    @property
    def root(self) -> Path:
        """The describing file."""
        return self.path

    @property
    def classes(self) -> tuple[DatasetClass, ...]:
        """The classes in index order."""
        return self.described.named_classes()

    @property
    def gsd(self) -> float | None:
        """Ground sample distance in metres."""
        return self.described.gsd or self.readers[0].grid.gsd_m()

    @property
    def notes(self) -> tuple[str, ...]:
        """How the scenes were split."""
        splits = self.described.splits
        return (f"split by {splits.by}, {splits.buffer} pixels apart, seed {splits.seed}",)

    @property
    def licence(self) -> str:
        """The terms that a model trained on it inherits."""
        return self.described.licence

    @property
    def citation(self) -> str:
        """The paper to cite."""
        return self.described.citation

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that have a block."""
        there = {block.split for block in self.measured.blocks}
        return tuple(split for split in SPLITS if split in there)

    @cached_property
    def scene_names(self) -> tuple[str, ...]:
        """The stems of the images, numbered where two are alike."""
        stems = [scene.image.stem for scene in self.described.scenes]
        counts = Counter(stems)
        return tuple(f"{s}_{i}" if counts[s] > 1 else s for i, s in enumerate(stems))

    def split(self, name: str) -> ScenesSplit:
        """Open one split.

        Raises:
            DatasetError: no block is in it.
        """
        blocks = self.measured.blocks
        places = tuple(i for i, block in enumerate(blocks) if block.split == name)
        if not places:
            raise DatasetError(
                f"{self.path} has no split {name!r}; it has: {', '.join(self.splits)}. More or "
                "smaller blocks (splits.block), or a smaller buffer, make room for it."
            )
        return ScenesSplit(name, self, places)


def open_scenes(
    info: DatasetInfo,
    path: Path,
    task: str | None = None,
    bands: Bands | None = None,
    nodata: Nodata | None = None,
    on_event: EventHandler = ignore_events,
) -> ScenesDataset:
    """Open a dataset of scenes; the first time, everything in it is read and measured.

    Args:
        info: the catalogue's entry.
        path: the describing file.
        task: None takes what the scenes have: a second date, radar, or neither.
        bands: 1-based bands of every image or of each.
        nodata: a value without data that the files do not declare.
        on_event: told of every block that is measured.

    Raises:
        DatasetError: the description or a file is wrong, or the task lacks its images.
    """
    described = read_scenes_file(path)
    first = described.scenes[0]
    there = {"change": first.t2 is not None, "multimodal": first.sar is not None}
    chosen = task or next((t for t in ("multimodal", "change") if there[t]), "segmentation")
    if not there.get(chosen, True):
        raise DatasetError(
            f"The scenes of {path} have no {FILES[chosen][1]}, which {chosen} needs."
        )
    count = len(FILES[chosen])
    readers = Readers(
        described,
        chosen,
        tuple(bands_of_each(bands, count)),
        tuple(nodata_of_each(nodata, count)),
    )
    inputs = readers.inputs(INPUTS[chosen])
    measured = measure(path, readers, inputs, on_event)
    return ScenesDataset(info, path, chosen, described, readers, inputs, measured)
