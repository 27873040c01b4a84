"""``rsmamba predict``: a class map of every scene."""

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from rsmamba_cli.commands.flags import Inference, Output, command_app, spread_flags
from rsmamba_cli.commands.mapping import Job, dry_run, make_folder, plan_jobs, run_jobs, show_result
from rsmamba_cli.console import running

app = command_app()


@app.command()
@spread_flags
def predict(
    *,
    scenes: Annotated[
        list[str], typer.Argument(metavar="SCENE", help="Any raster that GDAL can read.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="The mask. Default: SCENE's stem + _mask.tif."
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
    """Map classes over scenes of any size.

    Writes a georeferenced mask of each SCENE (a cloud-optimised GeoTIFF, nodata 255). Memory does
    not grow with the scene's area; an interrupted run goes on with --resume.
    """
    with running(**out.settings()) as console:
        options = inference.options()
        jobs = plan_jobs([(scene,) for scene in scenes], "_mask.tif", output, out_dir, inference)
        from rsmamba_cli import inference as library

        if dry:
            dry_run(
                console,
                jobs,
                lambda job: library.plan_summary(job.inputs[0], options, on_event=console.on_event),
            )
            return

        def run(job: Job) -> library.PredictResult:
            return library.predict(job.inputs[0], job.output, options, console.on_event)

        make_folder(out_dir)
        run_jobs(console, jobs, run, library.PredictResult.to_json, partial(show_result, console))
