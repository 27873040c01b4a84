"""``rsmamba train``: a model for a dataset."""

from pathlib import Path
from typing import Annotated

import typer

from rsmamba_cli.commands.flags import Output, command_app, spread_flags, usage_error
from rsmamba_cli.console import running
from rsmamba_cli.progress import duration

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
        typer.Option(metavar="segmentation|change", help="For datasets that serve both."),
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
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in the folder.")
    ] = False,
    device: Annotated[
        str | None, typer.Option(metavar="auto|cpu|cuda|mps", help="Where to compute.")
    ] = None,
    devices: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="How many. Default: the recipe's.")
    ] = None,
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

    Writes the best and the last checkpoint, a log, and pictures of predictions to the run's
    folder. An interrupted run goes on with --resume, exactly as if it had not been interrupted.
    """
    with running(**out.settings()) as console:
        if resume and recipe is None and folder is not None:
            # The run's own settings, so that they need not be given again.
            kept = folder / "recipe.yaml"
            recipe = str(kept) if kept.is_file() else None
        if dataset is None and recipe is None:
            usage_error("name a dataset; `rsmamba datasets` lists them", "--dataset")
        from rsmamba_cli.training import load_recipe
        from rsmamba_cli.training import train as library
        from rsmamba_cli.training.devices import is_main_process

        config = load_recipe(
            recipe,
            settings or (),
            {
                "data.dataset": dataset,
                "data.root": data,
                "data.task": task,
                "model.name": model,
                "init": init,
                "loop.device": device,
                "loop.devices": devices,
            },
        )
        name = "-".join(filter(None, (config.data.dataset, config.model.name)))
        result = library(config, folder or Path("runs") / name, resume, console.on_event)

        def show() -> None:
            console.properties(
                "trained" if result.finished else "stopped at the limit; --resume goes on",
                {
                    "best checkpoint": result.best,
                    f"best {result.monitor}": _score(result.best_metrics, result.monitor),
                    "last checkpoint": result.last,
                    f"last {result.monitor}": _score(result.last_metrics, result.monitor),
                    "steps": f"{result.steps} ({result.epochs:.1f} epochs)",
                    "time": duration(result.seconds),
                    "computed on": f"{result.device}, {result.precision}",
                },
            )

        if is_main_process():
            console.result(result.to_json(), show)


def _score(metrics: dict[str, float], monitor: str) -> str | None:
    return f"{metrics[monitor]:.4f}" if monitor in metrics else None
