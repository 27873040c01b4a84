"""Folders of images, a class a folder: ``ROOT/{train,val}/CLASS/NAME.*``."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsmamba_cli.datasets.files import SUFFIXES, read_header, read_image
from rsmamba_cli.errors import DatasetError
from rsmamba_cli.pretraining.augment import change_image, crop_box
from rsmamba_cli.pretraining.config import ImageChangePart
from rsmamba_cli.training.crops import resize, sample_rng
from rsmamba_cli.training.data import Key, Samples
from rsmamba_models import Transform


@dataclass(frozen=True)
class ImageFolder:
    """The images of one split.

    Attributes:
        classes: names of the class folders, sorted.
        images: path and class index of every image, sorted.
        bands: names of the bands of the first image; the others have as many, or one.
        dtype: of the first image.
    """

    classes: tuple[str, ...]
    images: tuple[tuple[Path, int], ...]
    bands: tuple[str, ...]
    dtype: str

    def read(self, index: int) -> NDArray[Any]:
        """The image number ``index``, (C, H, W); a grey one among colours has equal bands.

        Raises:
            DatasetError: it cannot be read, or has other bands than the first.
        """
        path = self.images[index][0]
        array, _ = read_image(path)
        if len(array) == 1 and len(self.bands) > 1:
            array = np.repeat(array, len(self.bands), axis=0)
        if len(array) != len(self.bands) or array.dtype != self.dtype:
            raise DatasetError(
                f"{path} has {len(array)} bands of {array.dtype}, but {self.images[0][0]} has "
                f"{len(self.bands)} of {self.dtype}. All images of a folder must be alike."
            )
        return array


def open_images(
    root: Path, split: str, limit: int | None = None, classes: tuple[str, ...] | None = None
) -> ImageFolder:
    """List the images of a split.

    Args:
        root: the folder with the splits.
        split: the name of one.
        limit: take so many, evenly spread.
        classes: those that were learnt, which it may not exceed; None takes what is there.

    Raises:
        DatasetError: no such folder, fewer than two classes, a strange one, or no images.
    """
    folder = root / split
    if not folder.is_dir():
        raise DatasetError(
            f"{folder} does not exist. Images are expected as {root}/{split}/CLASS/NAME.png."
        )
    found = tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != "."))
    if classes is not None and (strange := sorted(set(found) - set(classes))):
        raise DatasetError(
            f"{folder} holds the class {strange[0]}, which the images that are learnt lack."
        )
    classes = found if classes is None else classes
    if len(classes) < 2:
        raise DatasetError(f"{folder} holds {len(classes)} class folders; two are needed at least.")
    images = tuple(
        (path, classes.index(name))
        for name in found
        for path in sorted((folder / name).rglob("*"))
        if path.suffix.lower() in SUFFIXES and path.name[0] != "."
    )
    if not images:
        raise DatasetError(f"{folder} holds no images in its {len(found)} class folders.")
    header = read_header(images[0][0])
    if limit is not None and limit < len(images):
        places = np.linspace(0, len(images) - 1, limit).astype(int)
        images = tuple(images[int(place)] for place in places)
    return ImageFolder(classes, images, header.bands, header.dtype)


def measure_images(folder: ImageFolder, most: int = 256) -> Transform:
    """A transform to mean 0 and deviation 1 of every band, measured on evenly spread images."""
    sums = np.zeros((3, len(folder.bands)))
    for index in np.unique(np.linspace(0, len(folder.images) - 1, most).astype(int)):
        flat = folder.read(int(index)).reshape(len(folder.bands), -1).astype(np.float64)
        sums += (np.full(len(flat), flat.shape[1]), flat.sum(axis=1), (flat**2).sum(axis=1))
    mean = sums[1] / sums[0]
    spread = np.sqrt(np.maximum(sums[2] / sums[0] - mean**2, 0))
    bands = len(folder.bands)
    return Transform(
        offset=(0.0,) * bands,
        scale=(1.0,) * bands,
        mean=tuple(float(m) for m in mean),
        std=tuple(float(s) if s > 1e-6 else 1.0 for s in spread),
    )


class ImageSamples(Samples):
    """The training images of a folder, cropped and changed at random; a label is a class index."""

    def __init__(
        self,
        folder: ImageFolder,
        transform: Transform,
        crop: int,
        options: ImageChangePart,
        seed: int,
    ) -> None:
        self.folder = folder
        self.transform = transform
        self.crop = crop
        self.options = options
        self.seed = seed
        self.items: Sequence[tuple[int, int]] = [(i, 0) for i in range(len(folder.images))]

    def __getitem__(self, key: Key) -> tuple[tuple[Tensor, ...], Tensor, str]:
        """Read, crop, change and normalise one image."""
        epoch, place, item = key
        rng = sample_rng(self.seed, epoch, place)
        path, label = self.folder.images[item]
        image = self.folder.read(item)
        height, width = image.shape[1:]
        row, column, tall, wide = crop_box(rng, height, width, self.options)
        part = image[:, row : row + tall, column : column + wide]
        shown = change_image(
            rng, _resized(part, self.crop, self.crop), self.transform, self.options
        )
        return (torch.from_numpy(shown),), torch.tensor(label), path.stem


def central_crop(image: NDArray[Any], crop: int, shown: float) -> NDArray[Any]:
    """The middle (C, crop, crop) of an image whose shorter side is resized to crop / shown."""
    height, width = image.shape[1:]
    factor = crop / shown / min(height, width)
    tall, wide = (max(crop, round(n * factor)) for n in (height, width))
    image = _resized(image, tall, wide)
    row, column = (tall - crop) // 2, (wide - crop) // 2
    return image[:, row : row + crop, column : column + crop]


def _resized(image: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    """An image resized bilinearly, of the same dtype; whole numbers are rounded."""
    label = np.zeros(image.shape[1:], np.int64)
    (out,), _ = resize((image.astype(np.float32),), label, height, width)
    return out.round().astype(image.dtype) if image.dtype.kind in "iu" else out
