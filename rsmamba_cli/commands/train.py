"""``rsmamba train``: a model for a dataset."""

from pathlib import Path
from typing import Annotated

import typer

from rsmamba_cli.commands.flags import Output, command_app, spread_flags, usage_error
from rsmamba_cli.commands.run_flags import Run, post_mortem, show_result
from rsmamba_cli.console import running

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
    init: Annotated[
        Path | None, typer.Option(metavar="CHECKPOINT", help="Start from these weights.")
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
    budget: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Fit size and schedule to this time, such as 30min."),
    ] = None,
    overfit: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Learn N tiles by heart, as a test.")
    ] = None,
    run: Run,
    out: Output,
) -> None:
    """Train a model on a dataset.

    Writes the best and the last checkpoint, a log, a report and pictures of predictions to the
    run's folder. An interrupted run goes on with --resume, exactly as if it had not been
    interrupted.
    """
    with running(**out.settings()) as console:
        recipe = run.recipe_to_load()
        if dataset is None and recipe is None:
            usage_error("name a dataset; `rsmamba datasets` lists them", "--dataset")
        if budget is not None and run.resume:
            usage_error("a resumed run keeps the schedule it began with", "--budget")
        from rsmamba_cli.training import load_recipe
        from rsmamba_cli.training import train as library
        from rsmamba_cli.training.devices import is_main_process
        from rsmamba_cli.training.durations import seconds_of
        from rsmamba_cli.training.recipe_files import overfitting

        config = load_recipe(
            recipe,
            run.settings or (),
            {
                **run.values(),
                "data.dataset": dataset,
                "data.root": data,
                "data.task": task,
                "model.name": model,
                "init": init,
                "encoder_weights": encoder_weights,
                "encoder_weights_partial": encoder_weights_partial or None,
                "optimiser.freeze": freeze or None,
            },
        )
        if overfit is not None:
            config = overfitting(config, overfit)
        name = "-".join(filter(None, (config.data.dataset, config.model.name)))
        with post_mortem(run.debugger):
            if budget is not None:
                from rsmamba_cli.training.budget import scale_to_budget

                config = scale_to_budget(config, seconds_of(budget), console.on_event)
            result = library(
                config, run.folder or Path("runs") / name, run.resume, console.on_event
            )

        if is_main_process():
            console.result(result.to_json(), lambda: show_result(console, result))
