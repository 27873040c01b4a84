"""``rsmamba demo``: everything once, on a place that the program draws."""

from pathlib import Path
from typing import Annotated

import typer

from rsmamba_cli.commands.flags import Output, command_app, spread_flags
from rsmamba_cli.console import running
from rsmamba_cli.progress import duration

app = command_app()

_FILES = {
    "t1": "first date",
    "t2": "second date",
    "buildings": "building map",
    "buildings_polygons": "building polygons",
    "buildings_picture": "building picture",
    "change": "change map",
    "change_polygons": "change polygons",
    "change_picture": "change picture",
}
"""The files to name, of all that are made, and what they are."""


@app.command()
@spread_flags
def demo(
    *,
    folder: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for everything that is made.")
    ] = Path("rsmamba-demo"),
    pixels: Annotated[
        int, typer.Option("--size", metavar="N", min=64, help="Side of the scenes in pixels.")
    ] = 2048,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Another place.")] = 36,
    device: Annotated[
        str, typer.Option(metavar="auto|cpu|cuda|cuda:0|mps", help="Where to compute.")
    ] = "auto",
    draw_only: Annotated[
        bool, typer.Option("--draw-only", help="Draw the scenes and the truth, compute nothing.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Use a folder that holds other files.")
    ] = False,
    out: Output,
) -> None:
    """Make a small scene pair, predict it and detect change.

    The place is drawn by the program, so the truth about it is known and the maps are measured
    against it. Writes masks, polygons and pictures.
    """
    with running(**out.settings()) as console:
        from rsmamba_cli.demo import draw_demo, run_demo

        if draw_only:
            files = draw_demo(folder, pixels, seed, console.on_event, overwrite=overwrite).files()
            found = {"folder": str(folder), "files": {k: str(v) for k, v in files.items()}}
            console.result(found, lambda: console.properties("drawn", files))
            return
        result = run_demo(
            folder, pixels, seed, console.on_event, device=device, overwrite=overwrite
        )

        def show() -> None:
            rows = [(what, result.files[role]) for role, what in _FILES.items()]
            console.table(("made", "file"), rows, title="rsmamba demo")
            metrics = result.metrics
            console.properties(
                "against the truth",
                {
                    what: f"F1 {metrics[f'{what}_f1']:.3f}, IoU {metrics[f'{what}_iou']:.3f}, "
                    f"precision {metrics[f'{what}_precision']:.3f}, "
                    f"recall {metrics[f'{what}_recall']:.3f}"
                    for what in ("building", "change")
                }
                | {"time": duration(result.seconds)},
            )

        console.result(result.to_json(), show)
