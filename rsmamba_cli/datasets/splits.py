"""Opening a dataset: its splits as sequences of samples, read when asked for."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rsmamba_cli.datasets.catalogue import get_dataset
from rsmamba_cli.datasets.files import Box, TileHeader, read_header, read_image
from rsmamba_cli.datasets.info import IGNORE, SPLITS, DatasetClass, DatasetInfo
from rsmamba_cli.datasets.inputs import Bands, DatasetInput, Nodata, describe_inputs
from rsmamba_cli.datasets.labels import (
    LabelCoding,
    count_values,
    infer_coding,
    official_coding,
    read_class_file,
)
from rsmamba_cli.datasets.layout import Layout, Tile, find_layout
from rsmamba_cli.datasets.moments import Moments
from rsmamba_cli.errors import DatasetError
from rsmamba_cli.events import EventHandler, ignore_events


@dataclass(frozen=True, slots=True)
class Sample:
    """One tile, or a part of one.

    Attributes:
        images: one array (C, H, W) for each input of the dataset, in the file's dtype.
        label: class indices (H, W), int64; 255 where unlabelled or where an image has no data.
        stem: the tile's name.
        valid: bool (H, W), False where any image has no data; None when all of it is valid.
    """

    images: tuple[NDArray[Any], ...]
    label: NDArray[np.int64]
    stem: str
    valid: NDArray[np.bool_] | None = None


class Split(Protocol):
    """A split: a sized sequence of samples that can also be read in parts."""

    @property
    def name(self) -> str:
        """The split's name."""
        ...

    @property
    def dataset(self) -> "Dataset":
        """The dataset it is a part of."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def header(self, index: int) -> TileHeader:
        """Size and georeference of tile ``index``, without its pixels."""
        ...

    def stem(self, index: int) -> str:
        """Name of tile ``index``."""
        ...

    def read(self, index: int, box: Box | None = None, epoch: int = 0) -> Sample:
        """Read tile ``index`` or a part of it; ``epoch`` matters to datasets that are drawn."""
        ...

    def class_counts(self) -> NDArray[np.int64] | None:
        """Labelled pixels of each class in each tile, (n, K), where they are known already."""
        ...

    def moments(self) -> tuple[Moments, ...] | None:
        """What mean and spread of each image follow from, where they are known already."""
        ...


class Dataset(Protocol):
    """An opened dataset: what all its splits have in common."""

    @property
    def info(self) -> DatasetInfo:
        """Its entry in the catalogue."""
        ...

    @property
    def root(self) -> Path | None:
        """Its folder; None for a dataset without files."""
        ...

    @property
    def task(self) -> str:
        """What it trains: "segmentation", "change" or "multimodal"."""
        ...

    @property
    def inputs(self) -> tuple[DatasetInput, ...]:
        """What each image of a sample is."""
        ...

    @property
    def classes(self) -> tuple[DatasetClass, ...]:
        """The classes in index order."""
        ...

    @property
    def gsd(self) -> float | None:
        """Ground sample distance in metres."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What was understood and a user should know."""
        ...

    @property
    def licence(self) -> str:
        """The terms that a model trained on it inherits."""
        ...

    @property
    def citation(self) -> str:
        """The paper to cite."""
        ...

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits there are."""
        ...

    def split(self, name: str) -> Split:
        """Open one split.

        Raises:
            DatasetError: there is no such split.
        """
        ...


@dataclass(frozen=True)
class FolderSplit:
    """A split whose tiles are files."""

    name: str
    dataset: "FolderDataset"
    tiles: Sequence[Tile]

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, index: int) -> Sample:
        return self.read(index)

    def header(self, index: int) -> TileHeader:
        """Size and georeference of tile ``index`` (of its first date)."""
        return read_header(self.tiles[index].images[0])

    def stem(self, index: int) -> str:
        """Name of tile ``index``."""
        return self.tiles[index].stem

    def read(self, index: int, box: Box | None = None, epoch: int = 0) -> Sample:
        """Read a tile or a part of it; ``epoch`` makes no difference to files.

        Raises:
            DatasetError: a file cannot be read, sizes disagree, or a label value is unknown.
        """
        tile = self.tiles[index]
        data = self.dataset
        images = []
        valid: NDArray[np.bool_] | None = None
        parts = [part for image in data.inputs for part in image.parts or (image,)]
        for path, wanted in zip(tile.images, parts, strict=True):
            array, mask = read_image(path, wanted.numbers, box, wanted.nodata)
            if len(array) != len(wanted.bands) or array.dtype != np.dtype(wanted.dtype):
                raise DatasetError(
                    f"{path} has {len(array)} bands of {array.dtype}; the dataset's first tile has "
                    f"{wanted.describe()}. All tiles must be alike (data.bands chooses bands)."
                )
            images.append(array)
            if mask is not None:
                valid = mask if valid is None else valid & mask
        raw = data.coding.read(tile.label, box)
        for path, array in zip(tile.images, images, strict=True):
            if array.shape[1:] != raw.shape:
                raise DatasetError(
                    f"{path} is {array.shape[2]} x {array.shape[1]} pixels, its label {tile.label} "
                    f"{raw.shape[1]} x {raw.shape[0]}. They must be of one size."
                )
        waiting = iter(images)
        joined = [
            np.concatenate([next(waiting) for _ in image.parts], dtype=image.dtype)
            if image.parts
            else next(waiting)
            for image in data.inputs
        ]
        label = data.coding.encode(raw, tile.label)
        if valid is not None:
            label[~valid] = IGNORE
        return Sample(tuple(joined), label, tile.stem, valid)

    def class_counts(self) -> None:
        """Nothing has been counted."""

    def moments(self) -> None:
        """Nothing has been measured."""


@dataclass(frozen=True)
class FolderDataset:
    """A dataset of files, official or the user's own."""

    info: DatasetInfo
    layout: Layout
    coding: LabelCoding
    inputs: tuple[DatasetInput, ...]
    gsd: float | None
    licence: str
    citation: str

    @property
    def root(self) -> Path:
        """Its folder."""
        return self.layout.root

    @property
    def task(self) -> str:
        """What its folders are for."""
        return self.layout.task

    @property
    def classes(self) -> tuple[DatasetClass, ...]:
        """The classes in index order."""
        return self.coding.classes

    @property
    def notes(self) -> tuple[str, ...]:
        """What was understood about the labels, and the catalogue's remarks."""
        return (*self.coding.notes, *self.info.notes)

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits there are."""
        return tuple(self.layout.splits)

    def split(self, name: str) -> FolderSplit:
        """Open one split.

        Raises:
            DatasetError: there is no such split.
        """
        if name not in self.layout.splits:
            there = ", ".join(self.splits)
            raise DatasetError(f"{self.layout.root} has no split {name!r}; it has: {there}.")
        return FolderSplit(name, self, self.layout.splits[name])


def default_root(name: str) -> Path:
    """Where a dataset is looked for when no folder is named.

    ``$RSMAMBA_DATA/NAME`` if that variable is set, else ``data/NAME`` in the current folder.
    """
    return Path(os.environ.get("RSMAMBA_DATA", "data")) / name


def open_dataset(
    name: str,
    root: Path | str | None = None,
    *,
    task: str | None = None,
    roles: Sequence[str] | None = None,
    bands: Bands | None = None,
    nodata: Nodata | None = None,
    expected_classes: int | None = None,
    options: Mapping[str, Any] | None = None,
    on_event: EventHandler = ignore_events,
) -> Dataset:
    """Open a dataset by name.

    Args:
        name: an entry of the catalogue.
        root: its folder, of ``scenes`` the describing file; None means `default_root`. ``demo``
            needs none.
        task: "segmentation", "change" or "multimodal", for datasets that could be several.
        roles: folders of the images, where they are not the usual ones; one folder twice, with
            ``bands`` for each, where its files hold both images; ``t1+sar_t1`` stacks the files of
            two folders, and bands and no-data values are then those of each folder.
        bands: 1-based bands to use, in order, of every image or of each; None for all but alpha.
        nodata: a no-data value that the image files do not declare, of every image or of each.
        expected_classes: the number of classes of the model that is to be measured, which decides
            what label numbers can mean where the files alone do not tell.
        options: options of ``demo``, see `DemoOptions`.
        on_event: told of what takes long: ``scenes`` are measured when they are first opened.

    Raises:
        DatasetError: unknown name, missing or wrong files, labels that cannot be understood.
    """
    info = get_dataset(name)
    if info.name == "demo":
        if roles is not None:
            raise DatasetError("The demo dataset is drawn: it has no folders to choose by roles.")
        from rsmamba_cli.datasets.demo import DemoDataset, DemoOptions

        return DemoDataset(info, task or "segmentation", DemoOptions(**dict(options or {})))
    place = Path(root) if root is not None else default_root(name)
    if info.name == "scenes":
        if roles is not None:
            raise DatasetError(f"The scenes' images are named in {place}, not by data.roles.")
        from rsmamba_cli.datasets.scenes.dataset import open_scenes

        return open_scenes(info, place, task, bands, nodata, on_event)
    layout = find_layout(place, info, task, roles)
    content = (read_class_file(place) if info.name == "folder" else None) or {}
    if info.classes:
        coding = official_coding(info, layout.labels())
    elif "coding" in content:
        coding = content["coding"]
    else:
        positive = "change" if layout.task == "change" else "foreground"
        coding = infer_coding(count_values(layout.labels()), positive, expected_classes)
    tiles = next(iter(layout.splits.values()))
    inputs = describe_inputs(
        info, layout.task, layout.roles, tiles[0].images, bands, nodata, content.get("bands")
    )
    return FolderDataset(
        info=info,
        layout=layout,
        coding=coding,
        inputs=inputs,
        gsd=content.get("gsd", info.gsd),
        licence=content.get("licence", info.licence if info.name != "folder" else ""),
        citation=content.get("citation", info.citation),
    )


def open_split(
    name: str, root: Path | str | None = None, split: str = "train", **how: Any
) -> Split:
    """Open one split of a dataset; see `open_dataset` for the keyword arguments.

    Raises:
        DatasetError: as `open_dataset`, or there is no such split.
    """
    if split not in SPLITS:
        raise DatasetError(f"There is no split {split!r}; the splits are {', '.join(SPLITS)}.")
    return open_dataset(name, root, **how).split(split)
