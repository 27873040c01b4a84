"""What a dataset of scenes holds, counted once and stored beside its description."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsmamba_cli.datasets.info import IGNORE, SPLITS
from rsmamba_cli.datasets.inputs import DatasetInput
from rsmamba_cli.datasets.moments import Moments
from rsmamba_cli.datasets.scenes.blocks import Block, cut_blocks, deal, keep_apart
from rsmamba_cli.datasets.scenes.readers import FILES, Readers
from rsmamba_cli.errors import DatasetError
from rsmamba_cli.events import EventHandler, Finished, Progress, Started
from rsmamba_cli.raster.opening import local_identity

_VERSION = 1
_STAGE = "measure scenes"


@dataclass(frozen=True)
class Measured:
    """Blocks with labels, and what is in them.

    Attributes:
        blocks: of all splits.
        counts: (n, K) pixels of each class with a label and data, for each block.
        moments: of each image, over the training blocks.
    """

    blocks: tuple[Block, ...]
    counts: NDArray[np.int64]
    moments: tuple[Moments, ...]


def measure(
    path: Path, readers: Readers, inputs: Sequence[DatasetInput], on_event: EventHandler
) -> Measured:
    """Deal out the blocks of a dataset and count what is in them, or recall it from the last time.

    The result lies beside the description as ``NAME.measured.json``; where nothing can be written
    there, it is measured every time.

    Args:
        path: the description.
        readers: of its scenes.
        inputs: of its samples.
        on_event: told of every block that is read.

    Raises:
        DatasetError: nothing is labelled, or a file is damaged.
    """
    store = path.with_name(path.stem + ".measured.json")
    key = _key(readers)
    with suppress(OSError, ValueError, KeyError):
        content = json.loads(store.read_text(encoding="utf-8"))
        if content["key"] == key:
            return _parse(content)
    measured = _measure(path, readers, on_event)
    classes = readers.described.named_classes()
    shares = {}
    for split in SPLITS:
        here = [b.split == split for b in measured.blocks]
        pixels = measured.counts[here].sum(axis=0)
        if any(here):
            total = max(int(pixels.sum()), 1)
            named = zip(classes, pixels.tolist(), strict=True)
            shares[split] = {c.name: round(n / total, 6) for c, n in named}
    bands = {}
    for image, moments in zip(inputs, measured.moments, strict=True):
        mean, std = (v.tolist() for v in moments.mean_and_std())
        bands[image.name] = {
            name: {"mean": m, "std": s} for name, m, s in zip(image.bands, mean, std, strict=True)
        }
    content = {
        "key": key,
        "class_shares": shares,
        "train_bands": bands,
        "moments": [
            [m.count.tolist(), m.total.tolist(), m.squares.tolist()] for m in measured.moments
        ],
        "blocks": [
            [b.scene, *b.box, b.split, *n]
            for b, n in zip(measured.blocks, measured.counts.tolist(), strict=True)
        ],
    }
    partial = store.with_name(f".{store.name}.{key[:8]}.partial")
    with suppress(OSError):
        partial.write_text(json.dumps(content) + "\n", encoding="utf-8")
        partial.replace(store)
    return measured


def _key(readers: Readers) -> str:
    """A hash of everything that decides what is measured."""
    described = readers.described
    names = (*FILES[readers.how[0]], "label", "area")
    files = [getattr(scene, name) for scene in described.scenes for name in names]
    identity = [None if file is None else local_identity(file) for file in files]
    parts = [_VERSION, described.model_dump(mode="json"), identity, readers.how]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _parse(content: dict[str, Any]) -> Measured:
    blocks, counts = [], []
    for scene, row, col, height, width, split, *pixels in content["blocks"]:
        blocks.append(Block(scene, (row, col, height, width), split))
        counts.append(pixels)
    moments = [Moments(*(np.array(v) for v in image)) for image in content["moments"]]
    return Measured(tuple(blocks), np.array(counts, np.int64), tuple(moments))


def _measure(path: Path, readers: Readers, on_event: EventHandler) -> Measured:
    """Cut, count, deal, set back, and count again what was set back."""
    described = readers.described
    grids = [readers[i].grid for i in range(len(described.scenes))]
    side = described.splits.block
    boxes = [(i, box) for i, g in enumerate(grids) for box in cut_blocks(g.height, g.width, side)]
    on_event(Started(_STAGE, len(boxes), "block"))
    counted: dict[tuple[int, tuple[int, ...]], tuple[NDArray[np.int64], tuple[Moments, ...]]] = {}
    for scene, box in boxes:
        counts, moments = _count(readers, scene, box)
        if counts.any():
            counted[scene, box] = counts, moments
        on_event(Progress(_STAGE))
    if not counted:
        raise DatasetError(f"The scenes of {path} have no labelled pixel with data.")
    blocks = keep_apart(_deal(readers, list(counted)), grids, described.splits.buffer)
    kept, counts_kept = [], []
    moments_of_all: tuple[Moments, ...] | None = None
    for block in blocks:
        counts, moments = counted.get((block.scene, block.box)) or _count(
            readers, block.scene, block.box
        )
        if not counts.any():
            continue
        kept.append(block)
        counts_kept.append(counts)
        if block.split == "train":
            if moments_of_all is not None:
                moments = tuple(a + b for a, b in zip(moments_of_all, moments, strict=True))
            moments_of_all = moments
    on_event(Finished(_STAGE, f"{len(kept)} blocks with labels"))
    return Measured(tuple(kept), np.stack(counts_kept), moments_of_all or ())


def _count(
    readers: Readers, scene: int, box: tuple[int, ...]
) -> tuple[NDArray[np.int64], tuple[Moments, ...]]:
    """Pixels of each class, and the moments of each image, in a box."""
    images, valid, label = readers[scene].read(*box)
    known = label[valid & (label != IGNORE)]
    counts = np.bincount(known, minlength=len(readers.described.classes))
    return counts, tuple(Moments.of(image, valid) for image in images)


def _deal(readers: Readers, boxes: list[tuple[int, tuple[int, ...]]]) -> list[Block]:
    """Give every block with labels to a split."""
    splits, scenes = readers.described.splits, readers.described.scenes
    rng = np.random.default_rng(splits.seed)
    free = [(s, box) for s, box in boxes if scenes[s].split is None]
    units: list[Any] = free if splits.by == "block" else sorted({s for s, _ in free})
    dealt = dict(zip(units, deal(len(units), splits.shares, rng), strict=True))
    return [
        Block(s, box, scenes[s].split or dealt[(s, box) if splits.by == "block" else s])  # type: ignore[arg-type]
        for s, box in boxes
    ]
