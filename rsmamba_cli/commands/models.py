"""``rsmamba models``: the architectures, and the card of one."""

from contextlib import suppress
from typing import Annotated, Any

import typer

from rsmamba_cli.commands.flags import Output, command_app, spread_flags
from rsmamba_cli.console import Console, running
from rsmamba_cli.errors import InputError

app = command_app()

_INPUTS = {
    "segmentation": "one image",
    "change": "two dates",
    "multimodal": "optical and SAR",
    "classification": "one image",
}


@app.command()
@spread_flags
def models(
    *,
    pattern: Annotated[
        str,
        typer.Argument(
            metavar="NAME|PATTERN",
            help="A name, for its card; part of the names, or a pattern such as 'rsm_cd_*'.",
        ),
    ] = "*",
    out: Output,
) -> None:
    """List the architectures, or show what is known of one.

    The card of a name says what it is good at and takes, what it costs, where official scores and
    weights are from, and what differs from the official code.
    """
    with running(**out.settings()) as console:
        from rsmamba_models import UnknownModelError, list_models, model_info

        names = list_models(pattern)
        with suppress(UnknownModelError):
            _show_card(console, model_info(pattern))
            return
        if not names:
            raise InputError(f"no architecture matches {pattern!r}; `rsmamba models` lists all")
        infos = [model_info(name) for name in names]
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


def _show_card(console: Console, info: dict[str, Any]) -> None:
    from dataclasses import asdict

    from rsmamba_models.zoo.cards import costs, read_card, read_measured, to_markdown

    name, card = info["name"], read_card(info["family"])
    facts = {
        "tasks": ", ".join(info["tasks"]),
        "inputs": _INPUTS[info["task"]],
        **costs(name),
        "parameters": f"{info['parameters'] / 1e6:.2f} M",
        "official scores": card.scores.get(name, ""),
    }

    def show() -> None:
        console.properties(name, facts)
        console.markdown(to_markdown(card, table=False))

    console.result(
        [{**info, "measured": read_measured().get(name, {}), "card": asdict(card)}], show
    )
