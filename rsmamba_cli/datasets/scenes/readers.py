"""The open files of a dataset of scenes."""

import os
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsmamba_cli.datasets.inputs import DatasetInput
from rsmamba_cli.datasets.scenes.description import ScenePart, ScenesFile
from rsmamba_cli.datasets.scenes.truth import Labels, Truth
from rsmamba_cli.errors import DatasetError, InputError
from rsmamba_cli.raster.align import Aligned, align
from rsmamba_cli.raster.scene import Scene, open_scene

FILES = {"segmentation": ("image",), "change": ("image", "t2"), "multimodal": ("image", "sar")}
"""Task -> the entries of a scene that are images."""

Read = tuple[tuple[NDArray[Any], ...], NDArray[np.bool_], Labels]


class SceneReader:
    """One scene: its images on the first one's grid, and its labels.

    Args:
        described: what labels mean.
        scene: which files.
        task: which of them are images.
        inputs: bands of each image; None for all but alpha.
        nodata: a value without data for each image that its file does not declare.

    Raises:
        DatasetError: a file cannot be read, or the files cannot be laid over each other.
    """

    def __init__(
        self,
        described: ScenesFile,
        scene: ScenePart,
        task: str,
        bands: tuple[tuple[int, ...] | None, ...],
        nodata: tuple[float | None, ...],
    ) -> None:
        paths = [getattr(scene, name) for name in FILES[task]]
        try:
            self.scenes: list[Scene] = [
                open_scene(path, bands=numbers, fallback_nodata=value)
                for path, numbers, value in zip(paths, bands, nodata, strict=True)
            ]
            self.grid = self.scenes[0].grid
            self.others: list[Aligned] = [
                align(other, self.grid, str(paths[0])) for other in self.scenes[1:]
            ]
        except InputError as error:
            raise DatasetError(str(error)) from error
        self.truth = Truth(described, scene, self.grid)

    def read(self, row: int, col: int, height: int, width: int) -> Read:
        """Images (C, H, W) in their files' types, validity and class indices (H, W) of a window.

        Raises:
            DatasetError: a file is damaged there.
        """
        window = (row, col, height, width)
        try:
            values, valid = self.scenes[0].read_native(*window)
            images = [values]
            for scene, other in zip(self.scenes[1:], self.others, strict=True):
                warped, mask = other.read(*window)
                images.append(_as_stored(warped, scene.dtype))
                valid &= mask
        except InputError as error:
            raise DatasetError(str(error)) from error
        return tuple(images), valid, self.truth.read(*window)


def _telling(names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of bands, numbered where they say nothing or are not the only ones."""
    return tuple(
        f"b{i}" if name in ("undefined", "gray") or names.count(name) > 1 else name
        for i, name in enumerate(names, start=1)
    )


def _as_stored(values: NDArray[np.float32], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Values in the type of their file, rounded where that is one of integers."""
    if dtype.kind not in "iu":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    return np.rint(values).clip(limits.min, limits.max).astype(dtype)


class Readers:
    """The readers of all scenes, opened when first needed, by each process and thread for itself.

    Args:
        described: the dataset.
        task: which files are images.
        bands: of each image.
        nodata: of each image.
    """

    def __init__(
        self,
        described: ScenesFile,
        task: str,
        bands: tuple[tuple[int, ...] | None, ...],
        nodata: tuple[float | None, ...],
    ) -> None:
        self.described = described
        self.how = (task, bands, nodata)
        self._opened: dict[tuple[int, int, int], SceneReader] = {}

    def __getitem__(self, number: int) -> SceneReader:
        key = (os.getpid(), threading.get_ident(), number)
        if key not in self._opened:
            scene = self.described.scenes[number]
            self._opened[key] = SceneReader(self.described, scene, *self.how)
        return self._opened[key]

    def __getstate__(self) -> dict[str, Any]:
        """Without open files, which no other process could use."""
        return {**self.__dict__, "_opened": {}}

    def inputs(self, names: tuple[str, ...]) -> tuple[DatasetInput, ...]:
        """Describe the images by those of the first scene; all scenes have to be like it.

        Args:
            names: what the model calls the images.

        Raises:
            DatasetError: scenes differ in bands or type.
        """
        roles = FILES[self.how[0]]
        described: tuple[DatasetInput, ...] | None = None
        for number, scene in enumerate(self.described.scenes):
            opened = self[number].scenes
            found = tuple(
                DatasetInput(name, role, _telling(s.band_names), s.dtype.name, s.bands, nodata)
                for name, role, s, nodata in zip(names, roles, opened, self.how[2], strict=True)
            )
            described = described or found
            for ours, first in zip(found, described, strict=True):
                if (len(ours.bands), ours.dtype) != (len(first.bands), first.dtype):
                    raise DatasetError(
                        f"{getattr(scene, ours.role)} has {ours.describe()}; the first scene has "
                        f"{first.describe()}. All must be alike (data.bands chooses bands)."
                    )
        assert described is not None
        return described
