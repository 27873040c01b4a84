"""What a run is made of: the dataset, the model, its normalisation, and what a checkpoint says."""

import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from rsmamba_cli.assets import demo_checkpoint
from rsmamba_cli.datasets import Dataset, open_dataset
from rsmamba_cli.errors import InputError
from rsmamba_cli.events import EventHandler, Warned
from rsmamba_cli.training.data import measure_transform
from rsmamba_cli.training.initial import adopt_encoder, adopt_weights, load_initial
from rsmamba_cli.training.recipe import DataPart, TrainConfig
from rsmamba_models import (
    CheckpointMeta,
    ClassInfo,
    InputSpec,
    ModelsError,
    Transform,
    create_model,
)
from rsmamba_models.registry import get_entry

DEMO = Path("demo")
"""In the place of an initial checkpoint: the embedded one for the dataset's task."""


@dataclass(frozen=True)
class Parts:
    """A model and everything its training starts from.

    Attributes:
        dataset: what is learnt from.
        model: fresh, or with the weights of ``init``.
        transforms: normalisation of each image of a sample.
        meta: what its checkpoints say, but for metrics and progress.
    """

    dataset: Dataset
    model: nn.Module
    transforms: tuple[Transform, ...]
    meta: CheckpointMeta


def assemble(
    config: TrainConfig,
    on_event: EventHandler,
    init: Path | None = None,
    encoder_weights: Path | None = None,
) -> Parts:
    """Open the dataset and build the model that a recipe asks for.

    Random weights are drawn from torch's global generator, which the caller seeds.

    Args:
        config: the recipe.
        on_event: told what of ``init`` was not simply copied.
        init: a checkpoint to start from, `DEMO` for the embedded one of the task, or None.
        encoder_weights: a file to take the encoder from, or None.

    Raises:
        DatasetError: the dataset is missing or wrong.
        CheckpointError: ``init`` cannot be read or does not fit.
        InputError: model and dataset do not go together.
    """
    embedded = init == DEMO  # which of the two, the dataset's task tells
    initial = None if init is None or embedded else load_initial(init)
    name = config.model.name or (initial[1].architecture if initial else None)
    task: str | None = config.data.task
    if name is not None and task is None:
        tasks = _tasks_of(name)
        task = tasks[0] if len(tasks) == 1 else None  # several: what the dataset holds decides
    dataset = open_for_training(config.data, task, on_event)
    if embedded:
        task = "change" if dataset.task == "change" else "segmentation"
        initial = load_initial(demo_checkpoint(task))
    if name is None:
        name = "rsm_cd_nano" if dataset.task == "change" else "rsm_ss_nano"
    tasks = _tasks_of(name)
    if dataset.task not in tasks:
        raise InputError(
            f"{name} is a model for {' or '.join(tasks)}, but the dataset {config.data.dataset} is "
            f"for {dataset.task}."
        )
    arguments = {"task": dataset.task, **config.model.arguments}
    if initial and initial[1].architecture == name:
        arguments = {**initial[1].arguments, **arguments}
    outputs = 1 if len(dataset.classes) == 2 else len(dataset.classes)
    bands = [len(image.bands) for image in dataset.inputs]
    in_chans = tuple(bands) if dataset.task == "multimodal" else bands[0]
    arguments |= {"in_chans": in_chans, "num_classes": outputs}
    try:
        model = create_model(name, **arguments)
    except ModelsError as error:
        raise InputError(str(error)) from error
    notes = adopt_weights(model, initial[0], str(init)) if initial else []
    if encoder_weights is not None:
        notes += adopt_encoder(model, encoder_weights, config.encoder_weights_partial)
    for line in notes:
        on_event(Warned(line))
    transforms = _choose_transforms(config.data, dataset, initial[1] if initial else None)
    meta = _describe(config, dataset, model, transforms)
    return Parts(dataset, model, transforms, meta)


def open_for_training(data: DataPart, task: str | None, on_event: EventHandler) -> Dataset:
    """Open the dataset that a recipe names."""
    return open_dataset(
        data.dataset,
        data.root,
        task=task,
        roles=data.roles,
        bands=data.bands,
        nodata=data.nodata,
        options=data.demo.model_dump() if data.dataset == "demo" else None,
        on_event=on_event,
    )


def _tasks_of(name: str) -> tuple[str, ...]:
    """The tasks that a registered architecture can be built for, its own first.

    Raises:
        InputError: there is none of this name.
    """
    try:
        return get_entry(name).tasks
    except ModelsError as error:
        raise InputError(str(error)) from error


def _choose_transforms(
    data: DataPart, dataset: Dataset, initial: CheckpointMeta | None
) -> tuple[Transform, ...]:
    """Settle the normalisation of each image: one for both dates, one for each modality.

    Raises:
        InputError: ``imagenet`` or ``unit`` for data that they are not for, dates that differ in
            bands, or names of inputs that there are not.
    """
    inputs = dataset.inputs
    names = [image.name for image in inputs]
    for setting, wanted in (("decibels", data.decibels), ("optional", data.optional)):
        if strange := sorted(set(wanted) - set(names)):
            raise InputError(
                f"data.{setting} names {strange[0]}; the images of this dataset are called "
                f"{', '.join(names)}."
            )
    if dataset.task == "multimodal":
        return tuple(_choose_transform(data, dataset, (i,), initial) for i in range(len(inputs)))
    if len({(len(image.bands), image.dtype) for image in inputs}) > 1:
        kinds = " and ".join(image.describe() for image in inputs)
        raise InputError(f"The two dates must be alike; they are {kinds}.")
    return (_choose_transform(data, dataset, tuple(range(len(inputs))), initial),) * len(inputs)


def _choose_transform(
    data: DataPart, dataset: Dataset, images: tuple[int, ...], initial: CheckpointMeta | None
) -> Transform:
    """Settle the normalisation of images that share one."""
    image = dataset.inputs[images[0]]
    bands, eight_bit, power = len(image.bands), image.dtype == "uint8", image.name in data.decibels
    rgb = eight_bit and bands == 3 and not power
    wanted = data.normalise
    if wanted == "auto":
        spec = initial.inputs[images[0]] if initial and len(initial.inputs) > images[0] else None
        if spec is not None and len(spec.bands) == bands and spec.dtype == image.dtype:
            return spec.transform
        wanted = "imagenet" if rgb else "statistics"
    if wanted == "statistics":
        return measure_transform(dataset.split(data.train_split), images, power)
    if not eight_bit or power or (wanted == "imagenet" and not rgb):
        raise InputError(
            f"data.normalise={wanted} does not fit {image.name} images of {image.describe()}; "
            "use statistics."
        )
    return Transform.imagenet8() if wanted == "imagenet" else Transform.unit8(bands)


def _describe(
    config: TrainConfig, dataset: Dataset, model: nn.Module, transforms: tuple[Transform, ...]
) -> CheckpointMeta:
    """Write down everything that a checkpoint of this run says from the start."""
    outputs = config.checkpoint
    classes = dataset.classes
    # A mask is written in 8 bits with 255 for no data; labels coded 0/255 become 0/1.
    plain = len(classes) == 2 or any(not 0 <= c.value < 255 for c in classes)
    # The loss ignores 255 where images have no data, whether or not labels use it.
    return CheckpointMeta(
        architecture=model.architecture,
        arguments=model.arguments,
        task=dataset.task,
        inputs=tuple(
            InputSpec(
                name=image.name,
                bands=image.bands,
                transform=transform,
                dtype=image.dtype,
                nodata=image.nodata,
                missing="zero" if image.name in config.data.optional else "refuse",
            )
            for image, transform in zip(dataset.inputs, transforms, strict=True)
        ),
        classes=tuple(
            ClassInfo(value=i if plain else c.value, name=c.name, color=c.color)
            for i, c in enumerate(classes)
        ),
        output="sigmoid" if len(classes) == 2 else "softmax",
        threshold=outputs.threshold,
        tile=outputs.tile or config.data.crop,
        overlap=outputs.overlap,
        size_multiple=model.size_multiple,
        gsd=outputs.gsd or dataset.gsd,
        licence=dataset.licence if outputs.licence is None else outputs.licence,
        citation=dataset.citation if outputs.citation is None else outputs.citation,
        demo=outputs.demo,
        sampler=getattr(model, "sampler", None),
        training={
            "dataset": config.data.dataset,
            "roles": [image.role for image in dataset.inputs],
            "nodata": [p.nodata for image in dataset.inputs for p in image.parts or (image,)],
            "recipe": config.name,
            "recipe_sha256": config.sha256(),
            "seed": config.seed,
            "versions": versions(),
        },
    )


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    from rsmamba_cli import __version__

    return {
        "rsmamba": __version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
