"""``rsmamba pretrain``: an encoder, on a folder of images."""

from pathlib import Path
from typing import Annotated

import typer

from rsmamba_cli.commands.flags import Output, command_app, spread_flags
from rsmamba_cli.commands.train import show_result
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
    recipe: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="Settings. Default: default.")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="DIR", help="Folder of the run. Default: runs/pretrain-MODEL."
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
    nodes: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Machines; see docs/training.md.")
    ] = None,
    limit_steps: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Stop after N steps, to be resumed.")
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
    """Train an encoder to tell the classes of whole images.

    `rsmamba train --encoder-weights RUN/best.safetensors` starts from it.
    """
    with running(**out.settings()) as console:
        if resume and recipe is None and folder is not None:
            kept = folder / "recipe.yaml"
            recipe = str(kept) if kept.is_file() else None
        from rsmamba_cli.pretraining import PretrainConfig
        from rsmamba_cli.pretraining import pretrain as library
        from rsmamba_cli.training import load_recipe
        from rsmamba_cli.training.devices import is_main_process

        config = load_recipe(
            recipe,
            settings or (),
            {
                "data.root": data,
                "model.name": model,
                "loop.device": device,
                "loop.devices": devices,
                "loop.nodes": nodes,
                "loop.limit_steps": limit_steps,
            },
            kind=PretrainConfig,
        )
        place = folder or Path("runs") / f"pretrain-{config.model.name}"
        result = library(config, place, resume, console.on_event)
        if is_main_process():
            console.result(result.to_json(), lambda: show_result(console, result))
