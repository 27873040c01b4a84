"""Predictions of images whose labels only a test server knows, as the server takes them.

A zip with one 8-bit PNG an image at its root, of the image's size and name, holding class indices
from 0: for LoveDA background 0 to agricultural 6, as its server expects.
"""

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from rsmamba_cli.datasets import Sample
from rsmamba_cli.datasets.files import list_images, read_image
from rsmamba_cli.errors import CheckpointError, DatasetError, OutputError
from rsmamba_cli.evaluation.protocols import protocol_of
from rsmamba_cli.evaluation.subject import load_model
from rsmamba_cli.evaluation.whole import decide, run_split
from rsmamba_cli.events import EventHandler, Finished, Progress, Started, ignore_events
from rsmamba_cli.inference.device import resolve_device

_PLACES = ("img_dir/test", "test/image", "Test/*/images_png", "*/images_png", ".")


@dataclass(frozen=True)
class Unlabelled:
    """Images as samples whose labels are all 0."""

    files: Sequence[Path]
    bands: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        path = self.files[index]
        image, valid = read_image(path, self.bands)
        return Sample((image,), np.zeros(image.shape[1:], np.int64), path.stem, valid)


def write_submission(
    checkpoint: Path | str,
    dataset: str,
    output: Path | str,
    data: Path | str | None = None,
    *,
    device: str = "auto",
    batch_size: int = 4,
    tile: int | None = None,
    protocol: str | None = None,
    bands: Sequence[int] | None = None,
    on_event: EventHandler = ignore_events,
) -> int:
    """Predict a folder of images and zip the answers.

    Args:
        checkpoint: of a model that takes one image.
        dataset: a name of the catalogue, for its protocol.
        output: the zip; replaced.
        data: a folder of images, or one with ``img_dir/test``, ``test/image`` or LoveDA's
            ``Test/{Rural,Urban}/images_png`` in it.
        device: "auto", "cpu", "cuda" or "mps".
        batch_size: tiles of 256 x 256 in a batch.
        tile: windows of this side.
        protocol: see `PROTOCOLS`; None for the dataset's own.
        bands: 1-based bands of the images.
        on_event: told of every image.

    Returns:
        How many images there are.

    Raises:
        CheckpointError: it takes two images, other bands, or has more than 256 classes.
        DatasetError: there are no images.
        OutputError: the zip cannot be written.
    """
    model, meta = load_model(Path(checkpoint))
    if meta.task != "segmentation" or len(meta.classes) > 256:
        raise CheckpointError(
            f"{checkpoint}: submissions are for models of one image and up to 256 classes."
        )
    images = Unlabelled(
        find_images(Path(data or f"data/{dataset}")), None if bands is None else tuple(bands)
    )
    wanted, there = len(meta.inputs[0].bands), images[0].images[0].shape[0]
    if wanted != there:
        raise CheckpointError(f"{checkpoint} takes {wanted} bands, {images.files[0]} has {there}.")
    target = Path(output)
    temporary = target.with_name(f".{target.name}.partial")
    stage = "submission"
    on_event(Started(stage, len(images), "image"))
    everything, way = range(len(images)), protocol_of(dataset, protocol)
    run = run_split(model, meta, resolve_device(device), images, everything, batch_size, tile, way)
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for _, sample, found in run:
                buffer = io.BytesIO()
                Image.fromarray(decide(found, meta).astype(np.uint8)).save(buffer, format="PNG")
                archive.writestr(f"{sample.stem}.png", buffer.getvalue())
                on_event(Progress(stage))
        temporary.replace(target)
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    on_event(Finished(stage, f"{len(images)} images"))
    return len(images)


def find_images(root: Path) -> list[Path]:
    """The images to predict, below one of the usual places, sorted by name.

    Raises:
        DatasetError: there are none.
    """
    for place in _PLACES:
        folders = [root] if place == "." else sorted(root.glob(place))
        found: dict[str, Path] = {}
        for folder in folders:
            if folder.is_dir():
                found |= list_images(folder)
        if found:
            return [found[stem] for stem in sorted(found)]
    raise DatasetError(f"{root} holds no images to predict (looked in {', '.join(_PLACES)}).")
