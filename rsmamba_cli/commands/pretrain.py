"""``rsmamba pretrain``: an encoder, on a folder of images."""

from pathlib import Path
from typing import Annotated

import typer

from rsmamba_cli.commands.flags import Output, command_app, spread_flags, usage_error
from rsmamba_cli.commands.run_flags import Run, post_mortem, show_result
from rsmamba_cli.console import running

app = command_app()


@app.command()
@spread_flags
def pretrain(
    *,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder with train/CLASS/NAME.* and val/CLASS/NAME.*."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="An encoder, such as segman_tiny. Default: the recipe's."
        ),
    ] = None,
    evaluate: Annotated[
        Path | None,
        typer.Option(metavar="CHECKPOINT", help="Measure this classifier instead of training."),
    ] = None,
    run: Run,
    out: Output,
) -> None:
    """Train an encoder to tell the classes of whole images.

    `rsmamba train --encoder-weights RUN/best.safetensors` starts from it. With --evaluate, top-1
    and top-5 of a classifier on DIR/val.
    """
    with running(**out.settings()) as console:
        from rsmamba_cli.pretraining import PretrainConfig
        from rsmamba_cli.pretraining import pretrain as library
        from rsmamba_cli.training import load_recipe
        from rsmamba_cli.training.devices import is_main_process

        config = load_recipe(
            run.recipe_to_load(),
            run.settings or (),
            {**run.values(), "data.root": data, "model.name": model},
            kind=PretrainConfig,
        )
        if evaluate is not None:
            if data is None:
                usage_error("name the folder of the images", "--data")
            from rsmamba_cli.pretraining import evaluate_classifier

            found = evaluate_classifier(evaluate, data, config, console.on_event)
            if is_main_process():
                shown = {name: f"{value:.4g}" for name, value in found.items()}
                console.result(found, lambda: console.properties("metrics", shown))
            return
        place = run.folder or Path("runs") / f"pretrain-{config.model.name}"
        with post_mortem(run.debugger):
            result = library(config, place, run.resume, console.on_event)
        if is_main_process():
            console.result(result.to_json(), lambda: show_result(console, result))
