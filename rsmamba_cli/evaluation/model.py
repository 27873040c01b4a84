"""A checkpoint measured on a split of a dataset."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rsmamba_cli.datasets import DatasetClass
from rsmamba_cli.datasets.files import TileHeader, write_tile
from rsmamba_cli.datasets.inputs import Bands
from rsmamba_cli.errors import DatasetError, OutputError
from rsmamba_cli.evaluation.bootstrap import ROUNDS, interval, remark_on, resampled
from rsmamba_cli.evaluation.gallery import Gallery
from rsmamba_cli.evaluation.ledger import Ledger, merged, scene_names
from rsmamba_cli.evaluation.parallel import start_workers
from rsmamba_cli.evaluation.protocols import protocol_of
from rsmamba_cli.evaluation.results import EvalResult, Interval
from rsmamba_cli.evaluation.subject import open_subject
from rsmamba_cli.evaluation.whole import Floats, decide, run_split
from rsmamba_cli.events import EventHandler, Finished, Progress, Started, Warned, ignore_events
from rsmamba_cli.report.pictures import paint
from rsmamba_models import CheckpointMeta


def evaluate(
    checkpoint: Path | str,
    dataset: str,
    data: Path | str | None = None,
    split: str | None = None,
    save_predictions: Path | str | None = None,
    device: str = "auto",
    batch_size: int = 4,
    tile: int | None = None,
    on_event: EventHandler = ignore_events,
    bands: Bands | None = None,
    options: dict[str, object] | None = None,
    roles: Sequence[str] | None = None,
    *,
    protocol: str | None = None,
    scenes: str | None = None,
    rounds: int = ROUNDS,
    seed: int = 0,
    pictures: int = 0,
    devices: int = 1,
) -> EvalResult:
    """Measure a checkpoint on a split, over whole tiles.

    Every labelled pixel counts once, at the size of its label, whatever the protocol does to the
    image.

    Args:
        checkpoint: a ``.safetensors`` file of this toolkit.
        dataset: a name of the catalogue.
        data: its folder, as for `open_dataset`.
        split: "train", "val" or "test"; None for the one that the protocol's figures are of.
        save_predictions: a folder for a class raster (GeoTIFF where the tile has a georeference,
            else PNG) and a painted one a tile.
        device: "auto", "cpu", "cuda" or "mps".
        batch_size: tiles of 256 x 256 in a batch; fewer larger ones.
        tile: run in blended windows of this side, whatever the protocol and the tiles' size.
        on_event: told of every tile.
        bands: 1-based bands of the images, in the model's order, of every image or of each; None
            for all.
        options: of the ``demo`` dataset.
        roles: folders of the images; None for those that the training on this dataset used, else
            the usual ones.
        protocol: see `PROTOCOLS`; None for the dataset's own.
        scenes: a regular expression that finds a tile's scene in its name: intervals then resample
            scenes instead of tiles.
        rounds: of resampling; 0 for no intervals.
        seed: of the resampling and of the choice of random tiles.
        pictures: how many of the worst and how many random tiles to paint.
        devices: processes, one a device. Those that ``torchrun`` or Slurm started are taken. Every
            process returns the whole result.

    Raises:
        CheckpointError: the checkpoint cannot be read, or does not fit the dataset.
        DatasetError: the dataset or split is missing or wrong.
        DeviceError: the devices are not there.
        InputError: there is no such protocol, or ``scenes`` does not fit the names.
        OutputError: predictions cannot be written.
    """
    started = time.monotonic()
    way = protocol_of(dataset, protocol)
    subject = open_subject(checkpoint, dataset, data, bands, options, roles)
    meta = subject.meta
    workers = start_workers(device, devices)
    listen = on_event if workers.rank == 0 else ignore_events
    for note in subject.notes:
        listen(Warned(note))
    name = split or way.split
    tiles = subject.dataset.split(name)
    if scenes is not None:  # refused now rather than after hours
        scene_names([tiles.stem(index) for index in range(len(tiles))], scenes)
    mine = range(workers.rank, len(tiles), workers.count)
    target = None if save_predictions is None else Path(save_predictions)
    names = tuple(c.name for c in meta.classes)
    ledger = Ledger(names, way.means_without)
    gallery = Gallery(pictures, len(tiles), [c.color for c in meta.classes], seed)
    stage = f"eval {name}"
    listen(Started(stage, len(mine), "tile"))
    run = run_split(subject.model, meta, workers.device, tiles, mine, batch_size, tile, way)
    for index, sample, found in run:
        ledger.add(sample.stem, sample.label, found, meta)
        gallery.show(index, sample, decide(found, meta), ledger.errors_of_last())
        if target is not None:
            _save(target, sample.stem, found, sample.valid, tiles.header(index), meta)
        listen(Progress(stage))
    if workers.count > 1:
        parts = workers.gather((list(mine), ledger, gallery))
        ledger = merged([part[1] for part in parts], [i for part in parts for i in part[0]])
        gallery = gallery.merged([part[2] for part in parts])
    pixels = int(ledger.confusion.sum())
    if not pixels:
        raise DatasetError(f"The split {name} has no labelled pixel: there is nothing to measure.")
    metrics = ledger.total()
    units, intervals = _intervals(ledger, scenes, rounds, seed)
    listen(Finished(stage, f"f1 {metrics['f1']:.4f}, iou {metrics['iou']:.4f}"))
    return EvalResult(
        confusion=ledger.confusion,
        class_names=names,
        metrics=metrics,
        notes=[*subject.dataset.notes, *subject.notes, *remark_on(units, rounds)],
        pixels=pixels,
        tiles=len(tiles),
        seconds=time.monotonic() - started,
        protocol=way.name if tile is None else f"blended windows of {tile}",
        units=units,
        intervals=intervals,
        reliability=ledger.reliability(),
        worst=gallery.worst,
        random=gallery.random,
    )


def _intervals(
    ledger: Ledger, scenes: str | None, rounds: int, seed: int
) -> tuple[int, dict[str, Interval]]:
    """How many units there are, and intervals of every metric; none from a single unit."""
    units = ledger.units(scenes)
    if len(units) < 2 or not rounds:
        return len(units), {}
    (draws,) = resampled((units,), ledger.figures, rounds, seed)
    return len(units), {name: interval(values) for name, values in draws.items()}


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
