"""``rsmamba change``: what differs between two dates."""

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from rsmamba_cli.commands.flags import Inference, Output, command_app, spread_flags, usage_error
from rsmamba_cli.commands.mapping import (
    Job,
    dry_run,
    make_folder,
    plan_jobs,
    read_pairs,
    run_jobs,
    show_result,
)
from rsmamba_cli.console import running

app = command_app()


class GridOf(StrEnum):
    """The date whose grid the map lies on."""

    t1 = "t1"
    t2 = "t2"


@app.command()
@spread_flags
def change(
    *,
    t1: Annotated[
        str | None, typer.Argument(metavar="T1", help="The earlier scene.", show_default=False)
    ] = None,
    t2: Annotated[
        str | None, typer.Argument(metavar="T2", help="The later scene.", show_default=False)
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            help="Many pairs: a table with columns t1 and t2, paths relative to it.",
        ),
    ] = None,
    grid: Annotated[GridOf, typer.Option(help="The date whose grid the map lies on.")] = GridOf.t1,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="The mask. Default: both stems + _change.tif."
        ),
    ] = None,
    out_dir: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for the masks. Default: the current one."),
    ] = None,
    inference: Inference,
    dry: Annotated[
        bool,
        typer.Option("--dry-run", help="Show windows, memory and disk; compute nothing."),
    ] = False,
    out: Output,
) -> None:
    """Map what changed between two dates.

    T1 and T2 may differ in size, CRS, resolution and origin: the one is warped on to the grid of
    the other, and the overlap and the likely shift between them are reported.
    """
    with running(**out.settings()) as console:
        options = inference.options(grid=grid.value)
        if pairs is None and t1 is not None and t2 is not None:
            inputs = [(t1, t2)]
        elif pairs is not None and t1 is None:
            inputs = read_pairs(pairs, ("t1", "t2"))
        else:
            usage_error("give two scenes, T1 and T2, or --pairs FILE.csv")
        jobs = plan_jobs(inputs, "_change.tif", output, out_dir, inference)
        from rsmamba_cli import inference as library

        if dry:
            dry_run(
                console,
                jobs,
                lambda job: library.plan_summary(
                    job.inputs[0], options, job.inputs[1], console.on_event
                ),
            )
            return

        def run(job: Job) -> library.PredictResult:
            first, second = job.inputs
            return library.change(first, second, job.output, options, console.on_event)

        make_folder(out_dir)
        run_jobs(console, jobs, run, library.PredictResult.to_json, partial(show_result, console))
