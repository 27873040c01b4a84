"""Pre-training an encoder, with the training loop of everything else."""

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from rsmamba_cli.datasets.labels import default_color
from rsmamba_cli.errors import InputError
from rsmamba_cli.events import EventHandler, ignore_events
from rsmamba_cli.pretraining.config import ImagesPart, PretrainConfig
from rsmamba_cli.pretraining.images import ImageFolder, ImageSamples, measure_images, open_images
from rsmamba_cli.pretraining.objective import ClassObjective
from rsmamba_cli.pretraining.validation import ClassValidator
from rsmamba_cli.training.assembly import versions
from rsmamba_cli.training.data import BatchStream
from rsmamba_cli.training.job import Job
from rsmamba_cli.training.loop import as_started, run
from rsmamba_cli.training.results import TrainResult
from rsmamba_cli.training.run_page import run_page
from rsmamba_cli.training.state import BEST, LAST
from rsmamba_models import (
    CheckpointMeta,
    ClassInfo,
    InputSpec,
    ModelsError,
    Transform,
    create_model,
    list_encoders,
)


def pretrain(
    config: PretrainConfig,
    out: Path | str,
    resume: bool = False,
    on_event: EventHandler = ignore_events,
) -> TrainResult:
    """Train an encoder to tell the classes of whole images.

    The checkpoints hold encoder and classifier; ``rsmamba train --encoder-weights`` takes the
    encoder out of them.

    Args:
        config: all settings; see ``load_recipe(kind=PretrainConfig)``.
        out: the run's folder, as for `rsmamba_cli.training.train`.
        resume: go on from the saved state.
        on_event: told of every step and validation.

    Raises:
        RsmambaError: as `rsmamba_cli.training.train`.
    """
    config = as_started(config)

    def build(fabric: Fabric, listen: EventHandler, begun: bool) -> Job:
        return class_job(config, fabric, listen)

    return run(config, Path(out), build, resume, on_event)


def class_job(config: PretrainConfig, fabric: Any, on_event: EventHandler) -> Job:
    """The training of a classifier.

    Raises:
        DatasetError: the images are missing or unlike each other.
        InputError: no encoder or no folder is named, or settings that do not fit.
    """
    data = config.data
    if data.root is None:
        raise InputError("Name the folder of the images with --data.")
    folder = open_images(data.root, data.train_split, data.limit)
    name = classifier_name(config.model.name)
    arguments = {**config.model.arguments, "in_chans": len(folder.bands)}
    try:
        model = create_model(name, **arguments, num_classes=len(folder.classes))
    except ModelsError as error:
        raise InputError(str(error)) from error
    transform = _transform(data, folder)
    samples = ImageSamples(folder, transform, data.crop, config.augment, config.seed)
    rank, world = fabric.global_rank, fabric.world_size
    validator = None
    if data.val_split is not None:
        measured = open_images(data.root, data.val_split, data.val_limit, folder.classes)
        validator = ClassValidator(measured, transform, data, fabric, on_event)
    spec = InputSpec(name="image", bands=folder.bands, transform=transform, dtype=folder.dtype)
    meta = CheckpointMeta(
        architecture=name,
        arguments=model.arguments,
        task="classification",
        inputs=(spec,),
        classes=tuple(
            ClassInfo(value=i, name=n, color=default_color(i)) for i, n in enumerate(folder.classes)
        ),
        output="softmax",
        tile=data.crop,
        size_multiple=model.size_multiple,
        licence=config.checkpoint.licence or "",
        citation=config.checkpoint.citation or "",
        training={
            "dataset": data.root.name,
            "recipe": config.name,
            "recipe_sha256": config.sha256(),
            "seed": config.seed,
            "versions": versions(),
        },
    )
    return Job(
        model=model,
        stream=BatchStream(samples, data.batch_size, config.seed, rank, world),
        workers=data.workers,
        objective=ClassObjective(config.augment, config.loss.label_smoothing),
        validator=validator,
        monitor="top1",
        meta=meta,
        page=_page(config, folder, validator),
    )


def _page(
    config: PretrainConfig, folder: ImageFolder, validator: ClassValidator | None
) -> Callable[[TrainResult], str]:
    """The report of a run: a function of what it has led to."""
    kind = f"{len(folder.bands)} bands of {folder.dtype}, {len(folder.classes)} classes"
    rows = [(config.data.train_split, f"{len(folder.images):,}", "learnt")]
    if validator is not None:
        count = f"{len(validator.folder.images):,}"
        rows.append((str(config.data.val_split), count, "measured"))

    def page(result: TrainResult) -> str:
        best = result.out / (BEST if result.best is not None else LAST)
        encoder = classifier_name(config.model.name).removesuffix("_classifier")
        use = (
            f"rsmamba train --dataset NAME --model {encoder}_upernet "
            f"--encoder-weights {shlex.quote(str(best))}"
        )
        return run_page(
            config,
            result,
            title=f"{encoder} on {Path(str(config.data.root)).name}",
            commands=[("Train a model on this encoder:", use)],
            data=[(("split", "images", f"use ({kind})"), rows)],
        )

    return page


def classifier_name(name: str | None) -> str:
    """The classifier on an encoder that is named itself or by its classifier.

    Raises:
        InputError: there is none.
    """
    encoders = list_encoders()
    encoder = str(name).removesuffix("_classifier")
    if encoder not in encoders:
        raise InputError(f"{name} is no encoder; --model takes one of {', '.join(encoders)}.")
    return f"{encoder}_classifier"


def _transform(data: ImagesPart, folder: ImageFolder) -> Transform:
    """The normalisation of the images.

    Raises:
        InputError: ``imagenet`` for images that are not 8-bit with three bands.
    """
    colour = folder.dtype == "uint8" and len(folder.bands) == 3
    if data.normalise == "statistics" or (data.normalise == "auto" and not colour):
        return measure_images(folder)
    if not colour:
        raise InputError(
            f"data.normalise=imagenet is for three 8-bit bands, not for {len(folder.bands)} of "
            f"{folder.dtype}; use statistics."
        )
    return Transform.imagenet8()
