"""``rsmamba models``: the architectures."""

from typing import Annotated

import typer

from rsmamba_cli.commands.flags import Output, command_app, spread_flags
from rsmamba_cli.console import running
from rsmamba_cli.errors import InputError

app = command_app()

_INPUTS = {
    "segmentation": "one image",
    "change": "two dates",
    "multimodal": "optical and SAR",
}


@app.command()
@spread_flags
def models(
    *,
    pattern: Annotated[
        str,
        typer.Argument(
            metavar="PATTERN", help="Part of the names, or a pattern such as 'rsm_cd_*'."
        ),
    ] = "*",
    out: Output,
) -> None:
    """List the architectures."""
    with running(**out.settings()) as console:
        from rsmamba_models import list_models, model_info

        infos = [model_info(name) for name in list_models(pattern)]
        if not infos:
            raise InputError(f"no architecture matches {pattern!r}; `rsmamba models` lists all")
        rows = [
            (
                info["name"],
                info["task"],
                _INPUTS[info["task"]],
                f"{info['parameters'] / 1e6:.2f} M",
                info["paper"],
            )
            for info in infos
        ]
        console.result(
            infos,
            lambda: console.table(
                ("name", "task", "inputs", "parameters", "paper"), rows, right=("parameters",)
            ),
        )
