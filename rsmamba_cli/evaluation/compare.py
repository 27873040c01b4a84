"""Two checkpoints on the same tiles: is one better, or was it luck?"""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rsmamba_cli.datasets import IGNORE
from rsmamba_cli.datasets.inputs import Bands
from rsmamba_cli.errors import CheckpointError, DatasetError
from rsmamba_cli.evaluation.bootstrap import (
    ROUNDS,
    Figures,
    interval,
    mcnemar,
    p_value,
    remark_on,
    resampled,
)
from rsmamba_cli.evaluation.ledger import Ledger, scene_names
from rsmamba_cli.evaluation.metrics import Floats
from rsmamba_cli.evaluation.protocols import protocol_of
from rsmamba_cli.evaluation.results import Comparison, Difference
from rsmamba_cli.evaluation.subject import open_subject
from rsmamba_cli.evaluation.whole import decide, run_split
from rsmamba_cli.events import EventHandler, Finished, Progress, Started, Warned, ignore_events
from rsmamba_cli.inference.device import resolve_device


def compare(
    first: Path | str,
    second: Path | str,
    dataset: str,
    data: Path | str | None = None,
    split: str | None = None,
    *,
    device: str = "auto",
    batch_size: int = 4,
    tile: int | None = None,
    protocol: str | None = None,
    scenes: str | None = None,
    rounds: int = ROUNDS,
    seed: int = 0,
    bands: Bands | None = None,
    options: dict[str, object] | None = None,
    roles: Sequence[str] | None = None,
    on_event: EventHandler = ignore_events,
) -> Comparison:
    """Measure two checkpoints on the same tiles and test their difference.

    Tiles (or scenes) are resampled for both at once: what makes a tile hard is hard for both.

    Args:
        first: a checkpoint.
        second: another; it may take other bands or another kind of input of the same dataset.
        dataset: a name of the catalogue.
        data: its folder.
        split: as for `evaluate`.
        device: "auto", "cpu", "cuda" or "mps".
        batch_size: tiles of 256 x 256 in a batch.
        tile: windows of this side.
        protocol: see `PROTOCOLS`; None for the dataset's own.
        scenes: as for `evaluate`.
        rounds: of resampling.
        seed: of the resampling.
        bands: as for `evaluate`, of both.
        options: of the ``demo`` dataset.
        roles: as for `evaluate`, of both; None for those of each training.
        on_event: told of every tile.

    Raises:
        CheckpointError: one cannot be read or does not fit, or their classes differ in number.
        DatasetError: as for `evaluate`.
        InputError: as for `evaluate`.
    """
    started = time.monotonic()
    way = protocol_of(dataset, protocol)
    pair = [open_subject(p, dataset, data, bands, options, roles) for p in (first, second)]
    notes = list(dict.fromkeys(note for subject in pair for note in subject.notes))
    for note in notes:
        on_event(Warned(note))
    names = tuple(c.name for c in pair[0].meta.classes)
    if len(pair[1].meta.classes) != len(names):
        raise CheckpointError(
            f"{first} has {len(names)} classes, {second} {len(pair[1].meta.classes)}: there is "
            "nothing to compare."
        )
    name = split or way.split
    splits = [subject.dataset.split(name) for subject in pair]
    if scenes is not None:
        scene_names([splits[0].stem(index) for index in range(len(splits[0]))], scenes)
    ledgers = [Ledger(names, way.means_without) for _ in pair]
    where = resolve_device(device)
    everything = range(len(splits[0]))
    runs = [
        run_split(s.model, s.meta, where, tiles, everything, batch_size, tile, way)
        for s, tiles in zip(pair, splits, strict=True)
    ]
    stage = f"compare on {name}"
    on_event(Started(stage, len(everything), "tile"))
    pixels = np.zeros(2, np.int64)
    for (_, sample, one), (_, other, two) in zip(*runs, strict=True):
        if not np.array_equal(sample.label, other.label):
            # Pixels without data in either's images count for neither.
            unknown = (sample.label == IGNORE) | (other.label == IGNORE)
            label = np.where(unknown, IGNORE, sample.label)
        else:
            label = sample.label
        right = []
        for subject, ledger, found in zip(pair, ledgers, (one, two), strict=True):
            ledger.add(sample.stem, label, found, subject.meta)
            right.append((decide(found, subject.meta) == label) & (label != IGNORE))
        pixels += (right[0] & ~right[1]).sum(), (right[1] & ~right[0]).sum()
        on_event(Progress(stage))
    if not ledgers[0].confusion.sum():
        raise DatasetError(f"The split {name} has no labelled pixel: there is nothing to compare.")
    tables = tuple(ledger.units(scenes) for ledger in ledgers)
    objects = None
    if len(names) == 2:
        found_by = [np.concatenate(ledger.found) for ledger in ledgers]
        a, b = found_by
        objects = (int((a & ~b).sum()), int((b & ~a).sum()))
    on_event(Finished(stage, f"{len(tables[0])} units"))
    return Comparison(
        first=str(first),
        second=str(second),
        differences=differences((tables[0], tables[1]), ledgers[0].figures, rounds, seed),
        units=len(tables[0]),
        pixels_only=(int(pixels[0]), int(pixels[1])),
        pixels_p=mcnemar(int(pixels[0]), int(pixels[1])),
        objects_only=objects,
        objects_p=float("nan") if objects is None else mcnemar(*objects),
        notes=[*notes, *remark_on(len(tables[0]), rounds)],
        seconds=time.monotonic() - started,
    )


def differences(
    tables: tuple[Floats, Floats], figures: Figures, rounds: int = ROUNDS, seed: int = 0
) -> dict[str, Difference]:
    """Every figure of two tables of counts (U, V), and the paired bootstrap of its difference.

    A single unit, or no rounds, leaves intervals and p-values undefined (NaN).
    """
    first, second = (figures(table.sum(axis=0)) for table in tables)
    nothing = np.full(1, np.nan)
    draws = resampled(tables, figures, rounds, seed) if len(tables[0]) > 1 and rounds else None
    out = {}
    for name in first:
        apart = nothing if draws is None else draws[1][name] - draws[0][name]
        ends = interval(apart)
        out[name] = Difference(float(first[name]), float(second[name]), *ends, p_value(apart))
    return out
