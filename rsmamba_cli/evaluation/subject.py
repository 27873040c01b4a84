"""A checkpoint together with the dataset it is measured on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from rsmamba_cli.datasets import Dataset, open_dataset
from rsmamba_cli.datasets.inputs import Bands
from rsmamba_cli.datasets.layout import folders_of
from rsmamba_cli.errors import CheckpointError
from rsmamba_models import CheckpointMeta, ModelsError, load_checkpoint


@dataclass(frozen=True)
class Subject:
    """A model and a dataset that fit each other.

    Attributes:
        path: of the checkpoint.
        model: in eval mode.
        meta: its description.
        dataset: opened.
        notes: what differs between what it was trained on and what it is measured on.
    """

    path: Path
    model: nn.Module
    meta: CheckpointMeta
    dataset: Dataset
    notes: tuple[str, ...]


def open_subject(
    checkpoint: Path | str,
    dataset: str,
    data: Path | str | None = None,
    bands: Bands | None = None,
    options: dict[str, object] | None = None,
    roles: Sequence[str] | None = None,
) -> Subject:
    """Load a checkpoint and open the dataset it is to be measured on; arguments as `evaluate`.

    Raises:
        CheckpointError: the checkpoint cannot be read, or does not fit the dataset.
        DatasetError: the dataset is missing or wrong.
    """
    path = Path(checkpoint)
    model, meta = load_model(path)
    if roles is None and meta.training.get("dataset") == dataset == "folder":
        roles = meta.training.get("roles")
    opened = open_dataset(
        dataset,
        data,
        task=meta.task,
        roles=roles,
        bands=bands,
        nodata=_nodata(meta, roles),
        expected_classes=len(meta.classes),
        options=options,
    )
    return Subject(path, model, meta, opened, tuple(_check_fit(path, meta, opened)))


def _nodata(meta: CheckpointMeta, roles: Sequence[str] | None) -> list[float | None]:
    """The value without data of every folder of images: that of the training where it is known."""
    if roles is None or not any("+" in role for role in roles):
        return [spec.nodata for spec in meta.inputs]
    if list(roles) == meta.training.get("roles"):
        known: list[float | None] = meta.training["nodata"]
        return known
    pairs = zip(meta.inputs, roles, strict=False)
    return [spec.nodata for spec, role in pairs for _ in folders_of(role)]


def load_model(path: Path) -> tuple[nn.Module, CheckpointMeta]:
    """Load a checkpoint.

    Raises:
        CheckpointError: there is none, or it cannot be read; the message names the file.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file")
    try:
        return load_checkpoint(path)
    except (ModelsError, OSError) as error:
        text = str(error)
        raise CheckpointError(text if str(path) in text else f"{path}: {text}") from error


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
