"""``rsmamba predict``: a class map of every scene."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rsmamba_cli.commands.flags import (
    Inference,
    Output,
    command_app,
    parse_bands,
    spread_flags,
    usage_error,
)
from rsmamba_cli.commands.mapping import (
    Job,
    dry_run,
    make_folder,
    plan_jobs,
    read_pairs,
    run_jobs,
    show_result,
)
from rsmamba_cli.console import Console, running

if TYPE_CHECKING:
    from rsmamba_cli.inference import PredictOptions, PredictResult

app = command_app()


class Sampler(StrEnum):
    """How a diffusion model walks from noise to its answer."""

    ddim = "ddim"
    ddpm = "ddpm"


@dataclass(frozen=True)
class Radar:
    """The second input of a model of optical and radar images."""

    sar: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Radar image on any grid, for models of optical and radar."
        ),
    ] = None
    sar_bands: Annotated[
        str | None,
        typer.Option(
            metavar="2,1", help="Its bands to feed; without --sar, those of SCENE that are radar."
        ),
    ] = None
    sar_nodata: Annotated[
        float | None,
        typer.Option(metavar="V", help="Value of its pixels without data, where it has no tag."),
    ] = None


@dataclass(frozen=True)
class Sampling:
    """How a diffusion model samples."""

    sampler: Annotated[
        Sampler | None, typer.Option(help="Of a diffusion model. Default: the checkpoint's.")
    ] = None
    steps: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Steps of the sampler. Default: the checkpoint's."),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", min=0, help="Of the sampler's noise. Default: 0."),
    ] = None


@app.command()
@spread_flags
def predict(
    *,
    scenes: Annotated[
        list[str] | None,
        typer.Argument(metavar="SCENE", help="Any raster that GDAL can read.", show_default=False),
    ] = None,
    mosaic: Annotated[
        bool,
        typer.Option(
            "--mosaic",
            help="Take all SCENEs (folders, patterns, index files, VRTs, STAC items too) as the "
            "sheets of one seamless scene; a mask a sheet.",
        ),
    ] = False,
    stack: Annotated[
        bool,
        typer.Option("--stack", help="Take all SCENEs as the bands of one, in the model's order."),
    ] = False,
    radar: Radar,
    pairs: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.csv",
            help="Many optical and radar images: a table with columns scene and sar, paths "
            "relative to it.",
        ),
    ] = None,
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
    sampling: Sampling,
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
        options = inference.options(
            sar_bands=parse_bands(radar.sar_bands, "--sar-bands"),
            sar_nodata=radar.sar_nodata,
            sampler=None if sampling.sampler is None else sampling.sampler.value,
            steps=sampling.steps,
            seed=sampling.seed,
        )
        if mosaic:
            _predict_mosaic(console, scenes or [], radar.sar, pairs, output, out_dir, options, dry)
            return
        inputs: Sequence[tuple[str | Sequence[str] | None, str | None]]
        if stack:
            if not scenes or radar.sar is not None or pairs is not None:
                usage_error(
                    "wants the files of one scene, and neither --sar nor --pairs", "--stack"
                )
            inputs, options = [(scenes, None)], replace(options, stack=True)
            names = [(scenes[0],)]
        else:
            inputs = _inputs(scenes or [], radar.sar, pairs)
            names = [(str(scene or sar or ""),) for scene, sar in inputs]
        jobs = plan_jobs(names, "_mask.tif", output, out_dir, inference)
        asked = {
            job.output: (scene, options if sar is None else replace(options, sar=sar))
            for job, (scene, sar) in zip(jobs, inputs, strict=True)
        }
        from rsmamba_cli import inference as library

        if dry:
            dry_run(
                console,
                jobs,
                lambda job: library.plan_summary(*asked[job.output], on_event=console.on_event),
            )
            return

        def run(job: Job) -> "PredictResult":
            scene, wanted = asked[job.output]
            return library.predict(scene, job.output, wanted, console.on_event)

        make_folder(out_dir)
        run_jobs(console, jobs, run, library.PredictResult.to_json, partial(show_result, console))


def _predict_mosaic(
    console: Console,
    scenes: list[str],
    sar: str | None,
    pairs: Path | None,
    output: Path | None,
    out_dir: Path | None,
    options: "PredictOptions",
    dry: bool,
) -> None:
    """All scenes as one.

    Raises:
        typer.BadParameter: options that single maps have.
    """
    for option, value in (("--sar", sar), ("--pairs", pairs), ("--output", output)):
        if value is not None:
            usage_error("does not go with --mosaic, which writes a mask a sheet", option)
    if not scenes:
        usage_error("give the sheets of the mosaic")
    from rsmamba_cli import inference as library

    folder = out_dir or Path()
    job = Job((" ".join(scenes),), folder / "rsmamba-mosaic")
    # A mosaic always keeps what an update needs.
    options = replace(options, mosaic=True, updatable=False)
    if dry:
        dry_run(
            console,
            [job],
            lambda _: library.plan_summary(scenes, options, on_event=console.on_event),
        )
        return
    make_folder(out_dir)
    run_jobs(
        console,
        [job],
        lambda _: library.predict_mosaic(scenes, folder, options, console.on_event),
        library.PredictResult.to_json,
        partial(show_result, console),
    )


def _inputs(
    scenes: list[str], sar: str | None, pairs: Path | None
) -> list[tuple[str | None, str | None]]:
    """Scene and radar image of every map.

    Raises:
        typer.BadParameter: no scene, one radar image for several, or a table and names at once.
        InputError: the table cannot be used.
    """
    if pairs is not None:
        if scenes or sar is not None:
            usage_error("the table names every input: leave out SCENE and --sar", "--pairs")
        return [*read_pairs(pairs, ("scene", "sar"))]
    if sar is None:
        if not scenes:
            usage_error("give a SCENE to map")
        return [(scene, None) for scene in scenes]
    if len(scenes) > 1:
        usage_error(
            "names one image, but there are several scenes; give a table of both with --pairs",
            "--sar",
        )
    return [(scenes[0] if scenes else None, sar)]
