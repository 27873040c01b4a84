"""``rsmamba checkpoint``: what is in a checkpoint, and bringing official ones in."""

import json
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rsmamba_cli.commands.flags import Output, command_app, spread_flags, usage_error
from rsmamba_cli.console import Console, running, size
from rsmamba_cli.errors import CheckpointError, InputError, OutputError

if TYPE_CHECKING:
    from rsmamba_models import CheckpointMeta, InputSpec

app = command_app(no_args_is_help=True)

_COLORS = (
    (230, 25, 75),
    (245, 190, 20),
    (40, 110, 220),
    (60, 160, 70),
    (145, 60, 180),
    (70, 200, 220),
    (250, 130, 40),
    (150, 100, 50),
)


class Weights(StrEnum):
    """Which weights of an official file."""

    model = "model"
    ema = "ema"


@app.callback()
def checkpoint() -> None:
    """Look into checkpoints and import official ones."""


@app.command()
@spread_flags
def show(
    *,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .safetensors checkpoint.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Load the weights too and check their hash.")
    ] = False,
    out: Output,
) -> None:
    """Show what a checkpoint is, what it expects and how good it was."""
    with running(**out.settings()) as console:
        from rsmamba_models import load_checkpoint, read_meta

        existing(file)
        meta = read_meta(file)
        if verify:
            load_checkpoint(file)
        data = meta.model_dump(mode="json")
        data |= {"file": str(file), "bytes": file.stat().st_size, "parameters": count(file)}
        if verify:
            data["verified"] = True
        console.result(data, lambda: _show(console, file, meta, data))


@app.command("import")
@spread_flags
def import_(
    *,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="An official .pth, .pt or .safetensors file.")
    ],
    family: Annotated[
        str, typer.Option(metavar="NAME", help="The paper's models: rs_mamba, samba, segman, ...")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="Default: FILE's stem + .safetensors, here."
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="Class names, background first."),
    ] = None,
    bands: Annotated[
        str | None,
        typer.Option(metavar="A,B,...", help="Band names in the model's order; radar last."),
    ] = None,
    gsd: Annotated[
        float | None, typer.Option(metavar="M", help="Metres a pixel of its training data.")
    ] = None,
    licence: Annotated[str, typer.Option(metavar="TEXT", help="Terms of the weights.")] = "",
    float16: Annotated[
        bool, typer.Option("--float16", help="Store half the bytes, slightly rounded.")
    ] = False,
    weights: Annotated[
        Weights, typer.Option(help="What official code loads, or the moving averages in the file.")
    ] = Weights.model,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--arg",
            metavar="KEY=VALUE",
            help="What the keys cannot tell, in the official configuration's words; repeatable.",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing file.")
    ] = False,
    out: Output,
) -> None:
    """Turn official weights into a checkpoint; nothing in the file is executed.

    The image normalisation is the official code's: ImageNet's for three bands of 8 bits, and
    Mamba-Diffusion's own for the bands of its datasets.
    """
    with running(**out.settings()) as console:
        arguments = dict(parse_setting(text) for text in settings or ())
        target = output or Path(file.stem + ".safetensors")
        if not overwrite and target.exists():
            raise OutputError(f"{target}: exists already; --overwrite replaces it")
        if not target.parent.is_dir():
            raise OutputError(f"{target}: the folder {target.parent} does not exist")
        existing(file)
        import torch

        from rsmamba_models import import_official, save_checkpoint

        model: Any = import_official(file, family, weights=weights.value, **arguments)
        if not hasattr(model, "task"):
            raise InputError(
                f"{file}: holds a part of a network ({type(model).__name__}), which makes no "
                "map by itself; train takes encoders as --encoder-weights"
            )
        meta = imported_meta(model, family, _names(classes), _names(bands), gsd, licence, file)
        try:
            meta = save_checkpoint(target, model, meta, torch.float16 if float16 else None)
        except OSError as error:
            raise OutputError(f"{target}: cannot be written ({error.strerror})") from error
        data = meta.model_dump(mode="json")
        data |= {"file": str(target), "bytes": target.stat().st_size, "parameters": count(target)}
        console.result(data, lambda: _show(console, target, meta, data))


def imported_meta(
    model: Any,
    family: str,
    classes: tuple[str, ...],
    bands: tuple[str, ...],
    gsd: float | None,
    licence: str,
    source: Path,
) -> "CheckpointMeta":
    """Describe an imported model as far as its weights and the user tell.

    Args:
        model: what ``import_official`` returned.
        family: its family.
        classes: names, or empty for plain ones.
        bands: names, or empty for plain ones.
        gsd: metres a pixel of the training data, or None.
        licence: terms of the weights.
        source: the official file.

    Raises:
        InputError: another number of names than the model has classes or bands.
    """
    from rsmamba_models import CheckpointMeta, ClassInfo, model_info

    number = max(2, model.num_classes)
    if not classes:
        second = "change" if model.task == "change" else "foreground"
        classes = ("background", second, *(f"class {n}" for n in range(2, number)))[:number]
        if number > 2:
            classes = tuple(f"class {n}" for n in range(number))
    if len(classes) != number:
        raise InputError(f"--classes names {len(classes)}, the model has {number}")
    return CheckpointMeta(
        architecture=model.architecture,
        arguments=model.arguments,
        task=model.task,
        inputs=_inputs(model, family, bands),
        classes=tuple(
            ClassInfo(value=n, name=name, color=(0, 0, 0) if n == 0 else _COLORS[(n - 1) % 8])
            for n, name in enumerate(classes)
        ),
        output="sigmoid" if model.num_classes == 1 else "softmax",
        size_multiple=model.size_multiple,
        # What the images of ImageNet are cut to.
        tile=224 if model.task == "classification" else 512,
        gsd=gsd,
        licence=licence,
        citation=model_info(model.architecture)["paper"],
        training={"imported_from": source.name, "family": family},
    )


def _inputs(model: Any, family: str, bands: tuple[str, ...]) -> "tuple[InputSpec, ...]":
    """Describe the images: as the official code feeds them where it says so for these bands."""
    from rsmamba_models import InputSpec, Transform
    from rsmamba_models.importers import official_inputs

    pair = model.task == "multimodal"
    counts = tuple(model.in_chans) if pair else (model.in_chans,)
    if bands and len(bands) != sum(counts):
        raise InputError(f"--bands names {len(bands)}, the model has {sum(counts)}")
    specs = official_inputs(model, family)
    if specs is None:
        names = ("optical", "sar") if pair else ("image",)
        specs = tuple(
            InputSpec(
                name=name,
                bands=("red", "green", "blue") if n == 3 else tuple(f"b{i + 1}" for i in range(n)),
                transform=Transform.imagenet8() if n == 3 else Transform.unit8(n),
            )
            for name, n in zip(names, counts, strict=True)
        )
    if bands:
        given = iter(bands)
        specs = tuple(
            spec.model_copy(update={"bands": tuple(islice(given, len(spec.bands)))})
            for spec in specs
        )
    if model.task == "change":
        specs = tuple(specs[0].model_copy(update={"name": date}) for date in ("t1", "t2"))
    return specs


def parse_setting(text: str) -> tuple[str, Any]:
    """Read ``KEY=VALUE``; the value is JSON where it can be, else text.

    Raises:
        typer.BadParameter: there is no ``=``.
    """
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        usage_error(f"{text!r} is not KEY=VALUE", "--arg")
    try:
        return key.strip(), json.loads(value)
    except ValueError:
        return key.strip(), value


def existing(file: Path) -> None:
    """Refuse what is no file.

    Raises:
        CheckpointError: it is not there, or a folder.
    """
    if not file.is_file():
        what = "is a folder" if file.is_dir() else "no such file"
        raise CheckpointError(f"{file}: {what}; name a checkpoint file")


def count(file: Path) -> int:
    """Count the numbers in a safetensors file, from its header."""
    from math import prod

    from safetensors import safe_open

    with safe_open(file, "np") as tensors:
        return sum(prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())  # noqa: SIM118


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",")) if text else ()


def _show(console: Console, file: Path, meta: "CheckpointMeta", data: dict[str, Any]) -> None:
    decided = "softmax"
    if meta.output == "sigmoid":
        decided = f"sigmoid, foreground above {meta.threshold:g}"
    console.properties(
        str(file),
        {
            "for demonstration only": "yes" if meta.demo else "",
            "architecture": f"{meta.architecture} ({meta.task})",
            "arguments": ", ".join(f"{k}={v}" for k, v in meta.arguments.items()),
            "weights": f"{data['parameters']:,} numbers, {size(data['bytes'])}",
            **{
                f"input {spec.name}": f"{', '.join(spec.bands)}; {spec.dtype}"
                for spec in meta.inputs
            },
            "classes": ", ".join(f"{c.name} ({c.value})" for c in meta.classes),
            "output": decided,
            "window": f"{meta.tile} pixels, overlap {meta.overlap:g}, trim {meta.trim}",
            "metres a pixel": meta.gsd,
            "metrics": ", ".join(f"{k} {v:.4g}" for k, v in meta.metrics.items()),
            "training": ", ".join(f"{k}={v}" for k, v in meta.training.items()),
            "licence": meta.licence,
            "citation": meta.citation,
            "sha256": meta.sha256 + (" (verified)" if data.get("verified") else ""),
        },
    )
