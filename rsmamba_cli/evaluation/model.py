"""A checkpoint measured on a split of a dataset."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rsmamba_cli.datasets import Dataset, DatasetClass, open_dataset
from rsmamba_cli.datasets.files import TileHeader, write_tile
from rsmamba_cli.datasets.inputs import Bands
from rsmamba_cli.errors import CheckpointError, DatasetError, OutputError
from rsmamba_cli.evaluation.metrics import summarise
from rsmamba_cli.evaluation.results import EvalResult
from rsmamba_cli.evaluation.whole import Floats, Tally, decide, run_split
from rsmamba_cli.events import EventHandler, Finished, Progress, Started, Warned, ignore_events
from rsmamba_cli.inference.device import resolve_device
from rsmamba_cli.report.pictures import paint
from rsmamba_models import CheckpointMeta, ModelsError, load_checkpoint


def evaluate(
    checkpoint: Path | str,
    dataset: str,
    data: Path | str | None = None,
    split: str = "test",
    save_predictions: Path | str | None = None,
    device: str = "auto",
    batch_size: int = 4,
    tile: int | None = None,
    on_event: EventHandler = ignore_events,
    bands: Bands | None = None,
    options: dict[str, object] | None = None,
    roles: Sequence[str] | None = None,
) -> EvalResult:
    """Measure a checkpoint on a split, over whole tiles.

    Tiles up to 2048 pixels a side run in one pass (padded inside the model), larger ones in
    overlapping windows blended as `predict` does. Every labelled pixel counts once.

    Args:
        checkpoint: a ``.safetensors`` file of this toolkit.
        dataset: a name of the catalogue.
        data: its folder, as for `open_dataset`.
        split: "train", "val" or "test".
        save_predictions: a folder for a class raster (GeoTIFF where the tile has a georeference,
            else PNG) and a painted one a tile.
        device: "auto", "cpu", "cuda" or "mps".
        batch_size: tiles of 256 x 256 in a batch; fewer larger ones.
        tile: run in windows of this side whatever the tiles' size; None as above.
        on_event: told of every tile.
        bands: 1-based bands of the images, in the model's order, of every image or of each; None
            for all.
        options: of the ``demo`` dataset.
        roles: folders of the images; None for those that the training on this dataset used, else
            the usual ones.

    Raises:
        CheckpointError: the checkpoint cannot be read, or does not fit the dataset.
        DatasetError: the dataset or split is missing or wrong.
        OutputError: predictions cannot be written.
    """
    started = time.monotonic()
    path = Path(checkpoint)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file")
    try:
        model, meta = load_checkpoint(path)
    except (ModelsError, OSError) as error:
        text = str(error)
        raise CheckpointError(text if str(path) in text else f"{path}: {text}") from error
    if roles is None and meta.training.get("dataset") == dataset == "folder":
        roles = meta.training.get("roles")
    opened = open_dataset(
        dataset,
        data,
        task=meta.task,
        roles=roles,
        bands=bands,
        nodata=tuple(spec.nodata for spec in meta.inputs),
        expected_classes=len(meta.classes),
        options=options,
    )
    notes = _check_fit(path, meta, opened)
    for note in notes:
        on_event(Warned(note))
    tiles = opened.split(split)
    target = None if save_predictions is None else Path(save_predictions)
    names = tuple(c.name for c in meta.classes)
    tally = Tally.empty(len(names))
    stage = f"eval {split}"
    on_event(Started(stage, len(tiles), "tile"))
    where = resolve_device(device)
    indices = range(len(tiles))
    for index, sample, found in run_split(model, meta, where, tiles, indices, batch_size, tile):
        tally.add(sample.label, found, meta)
        if target is not None:
            _save(target, sample.stem, found, sample.valid, tiles.header(index), meta)
        on_event(Progress(stage))
    if not tally.pixels:
        raise DatasetError(f"The split {split} has no labelled pixel: there is nothing to measure.")
    metrics = summarise(tally.confusion, names)
    metrics["nll"] = tally.nll
    on_event(Finished(stage, f"f1 {metrics['f1']:.4f}, iou {metrics['iou']:.4f}"))
    return EvalResult(
        confusion=tally.confusion,
        class_names=names,
        metrics=metrics,
        notes=[*opened.notes, *notes],
        pixels=tally.pixels,
        tiles=len(tiles),
        seconds=time.monotonic() - started,
    )


def _check_fit(path: Path, meta: CheckpointMeta, dataset: Dataset) -> list[str]:
    """Compare what a checkpoint was trained on with a dataset; returns what a user should know.

    Raises:
        CheckpointError: other bands, another dtype or another number of classes.
    """
    for spec, image in zip(meta.inputs, dataset.inputs, strict=True):
        which = f" as {spec.name}" if len(meta.inputs) > 1 else ""
        if len(spec.bands) != len(image.bands):
            raise CheckpointError(
                f"{path} takes {len(spec.bands)} bands ({', '.join(spec.bands)}){which}; the "
                f"images have {len(image.bands)} ({', '.join(image.bands)}). Choose with --bands."
            )
        if spec.dtype != image.dtype:
            raise CheckpointError(
                f"{path} was trained on {spec.dtype} images{which}; these are {image.dtype}, and "
                "its normalisation does not fit them."
            )
    if len(meta.classes) != len(dataset.classes):
        raise CheckpointError(
            f"{path} has {len(meta.classes)} classes "
            f"({', '.join(c.name for c in meta.classes)}); the dataset has "
            f"{len(dataset.classes)} ({', '.join(c.name for c in dataset.classes)})."
        )
    pairs = zip(meta.classes, dataset.classes, strict=True)
    if differ := [(m.name, d.name) for m, d in pairs if m.name != d.name]:
        shown = ", ".join(f"{ours} as {theirs}" for ours, theirs in differ[:4])
        return [f"classes are matched by place, not by name: {shown}"]
    return []


def _save(
    folder: Path,
    stem: str,
    found: Floats,
    valid: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] | None,
    header: TileHeader,
    meta: CheckpointMeta,
) -> None:
    """Write the class raster and the painted one of a tile; pixels without data hold 255."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be made: {error}") from error
    chosen = decide(found, meta)
    wide = max(c.value for c in meta.classes) > 254
    nodata = 65535 if wide else 255
    values = np.array([c.value for c in meta.classes], np.uint16 if wide else np.uint8)
    raster = values[chosen]
    painted = paint(chosen, [c.color for c in meta.classes])
    if valid is not None:
        raster[~valid] = nodata
        painted[~valid] = 128
    classes = tuple(DatasetClass(c.value, c.name, c.color) for c in meta.classes)
    write_tile(folder / stem, raster, header, classes, nodata)
    write_tile(folder / f"{stem}_painted", np.moveaxis(painted, -1, 0), header)
