"""``rsmamba eval``: how good a checkpoint or a map is."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rsmamba_cli.commands.eval_tables import show_calibration, show_comparison, show_result
from rsmamba_cli.commands.flags import (
    Output,
    command_app,
    parse_image_bands,
    spread_flags,
    usage_error,
)
from rsmamba_cli.console import EXIT_BELOW, running
from rsmamba_cli.errors import InputError, OutputError

if TYPE_CHECKING:
    from rsmamba_cli.datasets.inputs import Bands
    from rsmamba_cli.evaluation import Comparison

app = command_app()


class ThresholdFor(StrEnum):
    """What a fitted threshold serves: the largest F1, or the right total area."""

    f1 = "f1"
    area = "area"


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
    split: Annotated[
        str | None,
        typer.Option(metavar="train|val|test", help="Which part; default: the protocol's."),
    ] = None,
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
        Path | None, typer.Option(metavar="MASK|DIR", help="Map(s) to measure against --truth.")
    ] = None,
    truth: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|DIR", help="Class numbers on any grid, outlines, or points (CSV too)."
        ),
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
    objects: Annotated[
        bool, typer.Option("--objects", help="Match the objects of two maps too (IoU 0.5).")
    ] = False,
    protocol: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="How figures are made; default: the dataset's official."),
    ] = None,
    scenes: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="Finds the scene in a tile's or map's name; intervals then resample scenes.",
        ),
    ] = None,
    rounds: Annotated[
        int, typer.Option(metavar="N", min=0, help="Of resampling; 0: no intervals.")
    ] = 1000,
    seed: Annotated[int, typer.Option(metavar="N", help="Of resampling.")] = 0,
    devices: Annotated[
        int, typer.Option(metavar="N", min=1, help="GPUs, or processes on a CPU.")
    ] = 1,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="CHECKPOINT|MASK|DIR", help="Compare CHECKPOINT or --prediction with this."
        ),
    ] = None,
    submission: Annotated[
        Path | None,
        typer.Option(metavar="ZIP", help="Predict unlabelled images of --data for a test server."),
    ] = None,
    calibrate: Annotated[
        bool,
        typer.Option("--calibrate", help="Fit temperature and threshold on --split (val); -o."),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="NEW", help="The calibrated checkpoint."),
    ] = None,
    threshold_for: Annotated[
        ThresholdFor, typer.Option(help="What the threshold is fitted for.")
    ] = ThresholdFor.f1,
    allow_test: Annotated[
        bool, typer.Option("--allow-test", help="Calibrate even on the test split.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace existing outputs.")
    ] = False,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the figures as CSV.")
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="HTML", help="Write a page with figures, worst and random tiles."),
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

    Either CHECKPOINT and --dataset, or --prediction and --truth; two of either with --against.
    Pixels are counted over the whole split; precision, recall, F1 and IoU of two classes are those
    of the second.
    """
    with running(**out.settings()) as console:
        limits = [parse_limit(text) for text in fail_under or ()]
        of_model = checkpoint is not None or dataset is not None
        of_map = prediction is not None or truth is not None
        if of_model == of_map:
            usage_error("give CHECKPOINT and --dataset, or --prediction and --truth")
        modes = {
            "--calibrate": calibrate,
            "--against": against is not None,
            "--submission": submission is not None,
        }
        chosen = [name for name, given in modes.items() if given]
        if len(chosen) > 1:
            usage_error(f"{' and '.join(chosen)} exclude each other")
        if chosen and limits:
            usage_error(f"{chosen[0]} does not go with --fail-under")
        if of_map and set(chosen) - {"--against"}:
            usage_error(f"{chosen[0]} does not go with --prediction")
        if calibrate != (output is not None):
            usage_error("--calibrate needs -o NEW, and -o is for --calibrate")
        for target in (csv, report, submission):
            if target is not None and target.exists() and not overwrite:
                raise OutputError(f"{target} exists already; use --overwrite to replace it")
        from rsmamba_cli import evaluation
        from rsmamba_cli.report.text import write_text

        drawn: dict[str, Any] = {"scenes": scenes, "rounds": rounds, "seed": seed}

        def compared(pair: "Comparison") -> None:
            if csv is not None:
                write_text(csv, pair.to_csv())
            if report is not None:
                from rsmamba_cli.report.comparison_page import comparison_page

                write_text(report, comparison_page(pair, f"{pair.first} against {pair.second}"))
            console.result(pair.to_json(), lambda: show_comparison(console, pair))

        if prediction is not None and truth is not None:
            rest = (truth, aoi, positive, tuple(ignore or ()), attribute, console.on_event)
            if against is not None:
                compared(
                    evaluation.compare_maps(prediction, against, *rest, objects=objects, **drawn)
                )
                return
            result = evaluation.evaluate_map(
                prediction, *rest, objects=objects, pictures=6 if report else 0, **drawn
            )
        elif checkpoint is not None and dataset is not None:
            common: dict[str, Any] = {
                "device": device,
                "batch_size": batch_size,
                "tile": tile,
                "protocol": protocol,
                "bands": parse_image_bands(bands),
                "roles": None if roles is None else roles.split(","),
                "on_event": console.on_event,
            }
            if output is not None:
                fitted = evaluation.calibrate(
                    checkpoint,
                    output,
                    dataset,
                    data,
                    split or "val",
                    threshold_for.value,
                    allow_test=allow_test,
                    overwrite=overwrite,
                    **common,
                )
                console.result(fitted.to_json(), lambda: show_calibration(console, fitted))
                return
            if against is not None:
                compared(
                    evaluation.compare(checkpoint, against, dataset, data, split, **drawn, **common)
                )
                return
            if submission is not None:
                if common.pop("roles") or not flat(common["bands"]):
                    usage_error("a submission is of one image: --bands 1,2,3, and no --roles")
                sent = evaluation.write_submission(checkpoint, dataset, submission, data, **common)
                found = {"output": str(submission), "images": sent}
                console.result(found, lambda: console.properties("submission", found))
                return
            result = evaluation.evaluate(
                checkpoint,
                dataset,
                data,
                split,
                save_predictions,
                pictures=6 if report else 0,
                devices=devices,
                **drawn,
                **common,
            )
            from rsmamba_cli.training.devices import is_main_process

            if not is_main_process():
                return
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
        if csv is not None:
            write_text(csv, result.to_csv())
        if report is not None:
            from rsmamba_cli.report.evaluation_page import evaluation_page

            of_what = f"{checkpoint} on {dataset}" if checkpoint else f"{prediction} on {truth}"
            write_text(report, evaluation_page(result, of_what))
        console.result(result.to_json(), lambda: show_result(console, result))
        # A metric that is undefined (NaN) does not reach any limit.
        below = [
            f"{metric} is {result.metrics[metric]:.4f}, wanted {limit:g}"
            for metric, limit in limits
            if not result.metrics[metric] >= limit
        ]
        if below:
            console.error("; ".join(below))
            raise typer.Exit(EXIT_BELOW)


def flat(bands: "Bands | None") -> bool:
    """Whether bands are those of one image."""
    return bands is None or all(isinstance(band, int) for band in bands)


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
