"""``rsmamba eval``: how good a checkpoint or a map is."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rsmamba_cli.commands.flags import (
    Output,
    command_app,
    parse_image_bands,
    spread_flags,
    usage_error,
)
from rsmamba_cli.console import EXIT_BELOW, Console, running
from rsmamba_cli.errors import InputError
from rsmamba_cli.progress import duration

if TYPE_CHECKING:
    from rsmamba_cli.evaluation import EvalResult

app = command_app()


@app.command()
@spread_flags
def eval_(
    *,
    checkpoint: Annotated[
        Path | None,
        typer.Argument(metavar="CHECKPOINT", help="What to measure on --dataset."),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(metavar="NAME", help="See `rsmamba datasets`.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Its folder. Default: data/NAME or $RSMAMBA_DATA/NAME."),
    ] = None,
    split: Annotated[str, typer.Option(metavar="train|val|test", help="Which part.")] = "test",
    save_predictions: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Write a class raster and a painted one of each tile."),
    ] = None,
    bands: Annotated[
        str | None,
        typer.Option(
            metavar="4,3,2",
            help="Bands of the images, in the model's order; 4,3,2/1 for two unlike images.",
        ),
    ] = None,
    roles: Annotated[
        str | None,
        typer.Option(
            metavar="t2,sar_t2",
            help="Folders of the images. Default: those of the training, else the usual ones.",
        ),
    ] = None,
    tile: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Windows of this side. Default: tiles up to 2048 in one pass."
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option(metavar="N", min=1, help="Tiles of 256 x 256 in a batch.")
    ] = 4,
    device: Annotated[
        str, typer.Option(metavar="auto|cpu|cuda|cuda:0|mps", help="Where to compute.")
    ] = "auto",
    prediction: Annotated[
        Path | None, typer.Option(metavar="MASK", help="A map to measure against --truth.")
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(metavar="RASTER|VECTOR", help="Class numbers on any grid, or outlines."),
    ] = None,
    aoi: Annotated[
        Path | None, typer.Option(metavar="VECTOR", help="Only what lies inside counts.")
    ] = None,
    positive: Annotated[
        int | None,
        typer.Option(metavar="V", help="Compare this class of the maps with all others."),
    ] = None,
    ignore: Annotated[
        list[int] | None,
        typer.Option(metavar="V", help="A value of the maps that does not count; repeatable."),
    ] = None,
    attribute: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Attribute of outlines that holds the class number."),
    ] = None,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC=VALUE",
            help="Exit status 4 when a metric is lower, such as f1=0.9; repeatable.",
        ),
    ] = None,
    out: Output,
) -> None:
    """Measure a checkpoint on a dataset, or one map against another.

    Either CHECKPOINT and --dataset, or --prediction and --truth. Pixels are counted over the whole
    split; precision, recall, F1 and IoU of two classes are those of the second.
    """
    with running(**out.settings()) as console:
        limits = [parse_limit(text) for text in fail_under or ()]
        of_model = checkpoint is not None or dataset is not None
        of_map = prediction is not None or truth is not None
        if of_model == of_map:
            usage_error("give CHECKPOINT and --dataset, or --prediction and --truth")
        used = parse_image_bands(bands)
        from rsmamba_cli.evaluation import evaluate, evaluate_map

        if prediction is not None and truth is not None:
            result = evaluate_map(
                prediction, truth, aoi, positive, tuple(ignore or ()), attribute, console.on_event
            )
        elif checkpoint is not None and dataset is not None:
            result = evaluate(
                checkpoint,
                dataset,
                data,
                split,
                save_predictions,
                device,
                batch_size,
                tile,
                console.on_event,
                used,
                roles=None if roles is None else roles.split(","),
            )
        else:
            usage_error(
                "--prediction and --truth belong together"
                if of_map
                else "CHECKPOINT and --dataset belong together"
            )
        for metric, _ in limits:
            if metric not in result.metrics:
                known = ", ".join(result.metrics)
                raise InputError(f"--fail-under: there is no metric {metric!r}, only {known}")
        console.result(result.to_json(), lambda: _show(console, result))
        # A metric that is undefined (NaN) does not reach any limit.
        below = [
            f"{metric} is {result.metrics[metric]:.4f}, wanted {limit:g}"
            for metric, limit in limits
            if not result.metrics[metric] >= limit
        ]
        if below:
            console.error("; ".join(below))
            raise typer.Exit(EXIT_BELOW)


def parse_limit(text: str) -> tuple[str, float]:
    """Read ``METRIC=VALUE``.

    Raises:
        typer.BadParameter: it is not that.
    """
    metric, _, value = text.partition("=")
    try:
        limit = float(value)
    except ValueError:
        usage_error(f"{text!r} is not METRIC=VALUE, such as f1=0.9", "--fail-under")
    return metric.strip(), limit


def _show(console: Console, result: "EvalResult") -> None:
    names, metrics = result.class_names, result.metrics
    console.properties(
        "metrics",
        {name: f"{value:.4f}" for name, value in metrics.items() if "/" not in name}
        | {
            "pixels": f"{result.pixels:,} in {result.tiles} image(s)",
            "time": duration(result.seconds),
            "notes": "\n".join(result.notes),
        },
    )
    scores = ("precision", "recall", "f1", "iou")
    if f"f1/{names[0]}" in metrics:
        rows = [
            (name, *(f"{metrics[f'{score}/{name}']:.4f}" for score in scores)) for name in names
        ]
        console.table(("class", *scores), rows, right=scores)
    console.table(
        ("truth \\ prediction", *names),
        [
            (name, *(f"{count:,}" for count in line))
            for name, line in zip(names, result.confusion.tolist(), strict=True)
        ],
        title="confusion (pixels)",
        right=names,
    )
