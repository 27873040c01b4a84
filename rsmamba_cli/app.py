"""The ``rsmamba`` command line: a group whose commands are imported only when they run."""

from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

COMMANDS: dict[str, str] = {
    "predict": "Map classes over scenes of any size.",
    "change": "Map what changed between two dates.",
    "merge": "Make the outputs of a run that was computed in parts.",
    "train": "Train a model on a dataset.",
    "pretrain": "Train an encoder to tell the classes of whole images.",
    "eval": "Measure a checkpoint on a dataset, or one map against another.",
    "models": "List the architectures, or show what is known of one.",
    "datasets": "List, prepare and check datasets.",
    "checkpoint": "Look into checkpoints and import official ones.",
    "info": "Show what the toolkit sees in a scene or in one of its masks.",
    "demo": "Make a small scene pair, predict it and detect change.",
    "bench": "Measure speed and memory on this machine, as ratios.",
    "doctor": "Show versions, devices and back ends, and what slows them down.",
}
"""Name (of the command and its module) -> one line of help, in the order of ``rsmamba --help``."""


class LazyGroup(TyperGroup):
    """A command group that lists ``COMMANDS`` without importing any of them.

    ``rsmamba --help`` must answer at once, so the one-line helps live in this module and the
    command modules are imported by ``get_command``, one at a time.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        """Name the commands in the order in which the help shows them."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import and build the command ``cmd_name``; None when there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        if cmd_name not in self.commands:
            module = import_module(f"rsmamba_cli.commands.{cmd_name}")
            command = typer.main.get_command(module.app)
            command.name = cmd_name
            self.commands[cmd_name] = command
        return self.commands[cmd_name]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Like the parent, with a suggestion that does not need the commands to be loaded."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            ctx.fail(f"No such command {name!r}.{suggest(name, list(COMMANDS))}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands from the table, importing none."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def suggest(name: str, known: Sequence[str]) -> str:
    """Return `` Did you mean 'x'?`` for the closest of ``known``, or an empty string."""
    matches = get_close_matches(name, known, n=1)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def _show_version(value: bool) -> None:
    if value:
        from rsmamba_cli import __version__

        typer.echo(f"rsmamba {__version__}")
        raise typer.Exit


app = typer.Typer(
    name="rsmamba",
    cls=LazyGroup,
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


@app.callback()
def rsmamba(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Train, evaluate and run state-space models on remote-sensing scenes of any size.

    Start with `rsmamba demo`, then `rsmamba predict SCENE` and `rsmamba change T1 T2`.
    `rsmamba COMMAND --help` explains a command.
    """
