"""The report in a run's folder, made anew whenever the run's state is saved."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from rsmamba_cli.datasets import Dataset
from rsmamba_cli.datasets.inputs import Bands
from rsmamba_cli.errors import DatasetError
from rsmamba_cli.progress import duration
from rsmamba_cli.report.training_page import RunReport, Table, training_page
from rsmamba_cli.training.assembly import Parts
from rsmamba_cli.training.class_shares import measure_shares
from rsmamba_cli.training.recipe import RunConfig, TrainConfig
from rsmamba_cli.training.recipe_files import flattened
from rsmamba_cli.training.results import TrainResult
from rsmamba_cli.training.state import BEST, LAST, REPORT, read_log
from rsmamba_cli.training.validation import Validator

_TILES_READ = 64
_PIXELS_READ = 1 << 26
"""The table of classes is of so many tiles at most, of fewer large ones."""

Commands = Sequence[tuple[str, str]]


def dense_page(
    config: TrainConfig, parts: Parts, validator: Validator
) -> Callable[[TrainResult], str | None]:
    """The report of a model that labels pixels: a function of what its run has led to."""
    dataset = parts.dataset
    shares: list[Table] = []  # measured when the first page is made

    def page(result: TrainResult) -> str | None:
        latest = validator.latest
        if latest is None and validator.split is not None and (result.out / REPORT).is_file():
            return None  # resumed: the page of the last validation tells more
        notes = list(dataset.notes)
        if not shares:
            try:
                shares.append(_classes_table(config, dataset))
            except DatasetError as error:  # a report must not end a training
                notes.append(f"classes could not be counted: {error}")
        return run_page(
            config,
            result,
            title=f"{parts.meta.architecture} on {config.data.dataset}",
            commands=_commands(config, dataset, result),
            data=(_splits_table(config, dataset), *shares),
            extra={
                "validation": None if latest is None else latest.result,
                "measured_at": 0 if latest is None else latest.step,
                "notes": notes,
            },
        )

    return page


def run_page(
    config: RunConfig,
    result: TrainResult,
    *,
    title: str,
    commands: Commands,
    data: Sequence[Table],
    extra: Mapping[str, Any] | None = None,
) -> str:
    """The report of any run.

    Args:
        config: its settings.
        result: what it has led to.
        title: of the page.
        commands: how to go on, beside resuming.
        data: tables of what it learns from.
        extra: further attributes of `RunReport`.
    """
    done = f"{result.steps} steps ({result.epochs:.1f} epochs) in {duration(result.seconds)}"
    resume = f"rsmamba {_command_of(config)} --resume --out {_quoted(result.out)}"
    if result.finished:
        status = f"Finished: {done}."
    else:
        status = f"Not finished: {done} so far."
        commands = (("Go on with an interrupted run:", resume), *commands)
    records = read_log(result.out)
    device = "GPU" if result.device == "cuda" else "process"
    facts = {
        f"best {result.monitor}": _best(result, records),
        f"latest {result.monitor}": _score(result.last_metrics.get(result.monitor)),
        "time, validation included": duration(result.seconds),
        f"largest memory of the {device}": f"{result.peak_memory_bytes / (1 << 20):,.0f} MiB",
        "computed on": f"{result.device}, {result.precision}",
        "seed": str(config.seed),
    }
    now, usual = (
        flattened(config.model_dump(mode="json")),
        flattened(type(config)().model_dump(mode="json")),
    )
    changed = [(k, str(v), str(usual.get(k, ""))) for k, v in now.items() if usual.get(k) != v]
    return training_page(
        RunReport(
            title=title,
            status=status,
            facts=facts,
            commands=commands,
            data=data,
            records=records,
            settings=changed,
            recipe=config.to_yaml(),
            **(extra or {}),
        )
    )


def _best(result: TrainResult, records: Sequence[Mapping[str, Any]]) -> str:
    """The best score, and after which step it was reached."""
    name = f"val_{result.monitor}"
    scored = [r for r in records if r.get(name) is not None]
    if not scored:
        return "not measured yet"
    best = max(scored, key=lambda record: cast(float, record[name]))
    return f"{best[name]:.4f} at step {best['step']}"


def _score(value: float | None) -> str:
    return "not measured yet" if value is None else f"{value:.4f}"


def _command_of(config: RunConfig) -> str:
    return "train" if isinstance(config, TrainConfig) else "pretrain"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))


def _commands(config: TrainConfig, dataset: Dataset, result: TrainResult) -> Commands:
    """Measuring, calibrating and using the best checkpoint there is."""
    model = _quoted(result.out / (BEST if result.best is not None else LAST))
    root = "" if dataset.root is None else f" --data {_quoted(dataset.root)}"
    split = "test" if "test" in dataset.splits else config.data.val_split or "val"
    measure = f"rsmamba eval {model} --dataset {config.data.dataset}{root}"
    if config.data.bands is not None:
        measure += f" --bands {_bands(config.data.bands)}"
    use = {
        "segmentation": f"rsmamba predict SCENE.tif -m {model}",
        "change": f"rsmamba change BEFORE.tif AFTER.tif -m {model}",
        "multimodal": f"rsmamba predict OPTICAL.tif --sar RADAR.tif -m {model}",
    }[dataset.task]
    return (
        ("Measure it on a split:", f"{measure} --split {split} --report {split}.html"),
        (
            "Fit the probabilities and the threshold on the validation split:",
            f"{measure} --calibrate -o calibrated.safetensors",
        ),
        ("Make a map:", use),
    )


def _bands(bands: Bands) -> str:
    """Bands as the command line takes them: ``4,3,2``, or ``4,3,2/1`` for each image."""
    if all(isinstance(band, int) for band in bands):
        return ",".join(map(str, bands))
    return "/".join("" if part is None else _bands(cast(Bands, part)) for part in bands)


def _splits_table(config: TrainConfig, dataset: Dataset) -> Table:
    """Splits, their tiles, and what they are for."""
    part = config.data
    uses = (("learnt", part.train_split, part.limit), ("measured", part.val_split, part.val_limit))
    rows = []
    for name in dataset.splits:
        words = [
            use if limit is None else f"{use}: the first {limit:,}"
            for use, split, limit in uses
            if split == name
        ]
        rows.append((name, f"{len(dataset.split(name)):,}", ", ".join(words) or "not used"))
    images = "; ".join(f"{i.name}: {i.describe()}" for i in dataset.inputs)
    return ("split", "tiles", f"use ({images})"), rows


def _classes_table(config: TrainConfig, dataset: Dataset) -> Table:
    """Classes, and their shares of the labelled pixels of what is learnt and measured."""
    names = dict.fromkeys(n for n in (config.data.train_split, config.data.val_split) if n)
    header: list[str] = ["class"]
    columns: list[list[str]] = []
    for name in names:
        split = dataset.split(name)
        read = len(split)
        if split.class_counts() is None:
            first = split.header(0)
            few = max(1, _PIXELS_READ // (first.height * first.width))
            read = min(read, few, _TILES_READ)
        shares = measure_shares(split, len(dataset.classes), read)
        header.append(f"share of {name} ({read} of {len(split)} tiles)")
        columns.append([f"{100 * share:.2f} %" for share in shares])
    rows = [(c.name, *(column[i] for column in columns)) for i, c in enumerate(dataset.classes)]
    return header, rows
