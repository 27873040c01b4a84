"""What ``train`` and ``pretrain`` share: options, the debugger, what is shown at the end."""

import pdb
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rsmamba_cli.console import Console
from rsmamba_cli.progress import duration

if TYPE_CHECKING:
    from rsmamba_cli.training import TrainResult


@dataclass(frozen=True)
class Run:
    """How a run is started, resumed and limited."""

    recipe: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="Settings. Default: default.")
    ] = None
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="DIR",
            help="Folder of the run. Default: one in runs/, named after what is learnt.",
        ),
    ] = None
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = (
        False
    )
    device: Annotated[
        str | None, typer.Option(metavar="auto|cpu|cuda|mps", help="Where to compute.")
    ] = None
    devices: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="How many. Default: the recipe's.")
    ] = None
    nodes: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Machines; see docs/training.md.")
    ] = None
    limit_steps: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Stop after N steps, to be resumed.")
    ] = None
    debugger: Annotated[bool, typer.Option("--pdb", help="Open the debugger where it fails.")] = (
        False
    )
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a setting of the recipe, such as optimiser.lr=3e-4; repeatable.",
        ),
    ] = None

    def recipe_to_load(self) -> str | None:
        """The recipe, which a resumed run brings along so that it need not be given again."""
        if self.resume and self.recipe is None and self.folder is not None:
            kept = self.folder / "recipe.yaml"
            return str(kept) if kept.is_file() else None
        return self.recipe

    def values(self) -> dict[str, Any]:
        """Settings of the recipe; what is None was not given."""
        return {
            "loop.device": self.device,
            "loop.devices": self.devices,
            "loop.nodes": self.nodes,
            "loop.limit_steps": self.limit_steps,
        }


@contextmanager
def post_mortem(wanted: bool) -> Iterator[None]:
    """Open the debugger on an exception, in the frame that raised it."""
    try:
        yield
    except Exception:
        if wanted:
            pdb.post_mortem()
        raise


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


def _score(metrics: dict[str, float], monitor: str) -> str | None:
    return f"{metrics[monitor]:.4f}" if monitor in metrics else None
