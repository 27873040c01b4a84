"""``rsmamba merge``: the outputs of a run that was computed in parts."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from rsmamba_cli.commands.flags import Output, command_app, spread_flags
from rsmamba_cli.commands.mapping import Job, run_jobs, show_result
from rsmamba_cli.console import running

app = command_app()


@app.command()
@spread_flags
def merge(
    *,
    outputs: Annotated[
        list[Path], typer.Argument(metavar="MASK", help="The mask that the parts were told.")
    ],
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace existing outputs.")
    ] = False,
    out: Output,
) -> None:
    """Make the outputs of a run that was computed in parts.

    The parts are those of `predict --shard I/N`; every one has to be finished, nothing is computed.
    """
    with running(**out.settings()) as console:
        from rsmamba_cli import inference as library

        def run(job: Job) -> library.PredictResult:
            return library.merge(job.output, overwrite, console.on_event)

        jobs = [Job((str(output),), output) for output in outputs]
        run_jobs(console, jobs, run, library.PredictResult.to_json, partial(show_result, console))
