"""``rsmamba train``: a model for a dataset."""

import pdb
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rsmamba_cli.commands.flags import Output, command_app, spread_flags, usage_error
from rsmamba_cli.console import Console, running
from rsmamba_cli.progress import duration

if TYPE_CHECKING:
    from rsmamba_cli.training import TrainResult

app = command_app()


@app.command()
@spread_flags
def train(
    *,
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="See `rsmamba datasets`; optional where the recipe names one."
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Its folder. Default: data/NAME or $RSMAMBA_DATA/NAME."),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            metavar="segmentation|change|multimodal", help="For datasets that serve several."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="See `rsmamba models`. Default: the recipe's, or nano."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="Settings. Default: default.")
    ] = None,
    init: Annotated[
        Path | None, typer.Option(metavar="CHECKPOINT", help="Start from these weights.")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Folder of the run. Default: runs/DATASET-MODEL."
        ),
    ] = None,
    encoder_weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Take the encoder from a checkpoint, ours or an official one."
        ),
    ] = None,
    encoder_weights_partial: Annotated[
        bool, typer.Option("--encoder-weights-partial", help="Take what fits of it.")
    ] = False,
    freeze: Annotated[
        list[str] | None,
        typer.Option(metavar="PART", help="What is not to learn, such as encoder; repeatable."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in the folder.")
    ] = False,
    device: Annotated[
        str | None, typer.Option(metavar="auto|cpu|cuda|mps", help="Where to compute.")
    ] = None,
    devices: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="How many. Default: the recipe's.")
    ] = None,
    nodes: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Machines; see docs/training.md.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Fit size and schedule to this time, such as 30min."),
    ] = None,
    limit_steps: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Stop after N steps, to be resumed.")
    ] = None,
    overfit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Learn N tiles by heart, as a test.")
    ] = None,
    debugger: Annotated[
        bool, typer.Option("--pdb", help="Open the debugger where it fails.")
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a setting of the recipe, such as optimiser.lr=3e-4; repeatable.",
        ),
    ] = None,
    out: Output,
) -> None:
    """Train a model on a dataset.

    Writes the best and the last checkpoint, a log, a report and pictures of predictions to the
    run's folder. An interrupted run goes on with --resume, exactly as if it had not been
    interrupted.
    """
    with running(**out.settings()) as console:
        if resume and recipe is None and folder is not None:
            # The run's own settings, so that they need not be given again.
            kept = folder / "recipe.yaml"
            recipe = str(kept) if kept.is_file() else None
        if dataset is None and recipe is None:
            usage_error("name a dataset; `rsmamba datasets` lists them", "--dataset")
        if budget is not None and resume:
            usage_error("a resumed run keeps the schedule it began with", "--budget")
        from rsmamba_cli.training import load_recipe
        from rsmamba_cli.training import train as library
        from rsmamba_cli.training.devices import is_main_process
        from rsmamba_cli.training.durations import seconds_of
        from rsmamba_cli.training.recipe_files import overfitting

        config = load_recipe(
            recipe,
            settings or (),
            {
                "data.dataset": dataset,
                "data.root": data,
                "data.task": task,
                "model.name": model,
                "init": init,
                "encoder_weights": encoder_weights,
                "encoder_weights_partial": encoder_weights_partial or None,
                "optimiser.freeze": freeze or None,
                "loop.device": device,
                "loop.devices": devices,
                "loop.nodes": nodes,
                "loop.limit_steps": limit_steps,
            },
        )
        if overfit is not None:
            config = overfitting(config, overfit)
        name = "-".join(filter(None, (config.data.dataset, config.model.name)))
        with _post_mortem(debugger):
            if budget is not None:
                from rsmamba_cli.training.budget import scale_to_budget

                config = scale_to_budget(config, seconds_of(budget), console.on_event)
            result = library(config, folder or Path("runs") / name, resume, console.on_event)

        if is_main_process():
            console.result(result.to_json(), lambda: show_result(console, result))


def show_result(console: Console, result: "TrainResult") -> None:
    """Print what a run left behind."""
    from rsmamba_cli.training.state import REPORT

    console.properties(
        "trained" if result.finished else "stopped at the limit; --resume goes on",
        {
            "best checkpoint": result.best,
            f"best {result.monitor}": _score(result.best_metrics, result.monitor),
            "last checkpoint": result.last,
            "report": result.out / REPORT,
            f"last {result.monitor}": _score(result.last_metrics, result.monitor),
            "steps": f"{result.steps} ({result.epochs:.1f} epochs)",
            "time": duration(result.seconds),
            "computed on": f"{result.device}, {result.precision}",
        },
    )


@contextmanager
def _post_mortem(wanted: bool) -> Iterator[None]:
    """Open the debugger on an exception, in the frame that raised it."""
    try:
        yield
    except Exception:
        if wanted:
            pdb.post_mortem()
        raise


def _score(metrics: dict[str, float], monitor: str) -> str | None:
    return f"{metrics[monitor]:.4f}" if monitor in metrics else None
