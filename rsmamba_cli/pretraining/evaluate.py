"""How often a trained classifier is right."""

from pathlib import Path

from rsmamba_cli.errors import CheckpointError
from rsmamba_cli.evaluation.subject import load_model
from rsmamba_cli.events import EventHandler, Finished, Warned, ignore_events
from rsmamba_cli.pretraining.config import PretrainConfig
from rsmamba_cli.pretraining.images import open_images
from rsmamba_cli.pretraining.validation import ClassValidator
from rsmamba_cli.training.devices import start_fabric
from rsmamba_cli.training.loop import as_started


def evaluate_classifier(
    checkpoint: Path | str,
    data: Path | str,
    config: PretrainConfig | None = None,
    on_event: EventHandler = ignore_events,
) -> dict[str, float]:
    """Measure a classifier on central crops of its own size.

    Args:
        checkpoint: what `pretrain` or an import wrote.
        data: a folder with a folder a split, in each a folder a class. Classes are matched by name;
            where no name agrees and there are as many, in the order of their names.
        config: ``data.val_split`` says the split, ``data.shown``, ``data.val_limit`` and
            ``data.batch_size`` how it is read, ``loop`` where it is computed.
        on_event: told of every batch.

    Returns:
        "top1" and "top5", shares of the images; "nll", the mean of -log p(truth); "images".

    Raises:
        CheckpointError: it cannot be read, is no classifier, or does not fit the images.
        DatasetError: the images are missing or unlike each other.
    """
    config = as_started(config or PretrainConfig())
    path, root = Path(checkpoint), Path(data)
    model, meta = load_model(path)
    if meta.task != "classification":
        raise CheckpointError(f"{path} is for {meta.task}; `rsmamba eval` measures it.")
    fabric, _, _ = start_fabric(config.loop, Path())
    listen = on_event if fabric.is_global_zero else ignore_events
    part = config.data
    split = part.val_split or "val"
    names = tuple(c.name for c in meta.classes)
    folder = open_images(root, split, part.val_limit)
    if set(folder.classes) & set(names) or len(folder.classes) != len(names):
        folder = open_images(root, split, part.val_limit, names)
    else:
        listen(Warned("classes are matched in the order of their names: none of these agrees"))
    spec = meta.inputs[0]
    if (len(folder.bands), folder.dtype) != (len(spec.bands), spec.dtype):
        raise CheckpointError(
            f"{path} takes {len(spec.bands)} bands of {spec.dtype}; the images have "
            f"{len(folder.bands)} of {folder.dtype}."
        )
    seen = part.model_copy(update={"crop": meta.tile})
    validator = ClassValidator(folder, spec.transform, seen, fabric, listen)
    stage = f"evaluate on {split}"
    found = validator.measure(model.to(fabric.device), 0, stage)
    listen(Finished(stage, f"top1 {found['top1']:.4f}"))
    return {**found, "images": len(folder.images)}
