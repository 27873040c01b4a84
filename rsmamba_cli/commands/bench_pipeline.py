"""``rsmamba bench pipeline``: what a map costs beside its model."""

from pathlib import Path
from typing import Annotated

import typer

from rsmamba_cli.commands.flags import Output, spread_flags, usage_error
from rsmamba_cli.console import running
from rsmamba_cli.errors import OutputError


@spread_flags
def pipeline(
    *,
    quick: Annotated[
        bool, typer.Option("--quick", help="Small scenes: shows that all runs.")
    ] = False,
    large: Annotated[
        bool,
        typer.Option("--large", help="Memory alone, up to a sparse scene of 100,000 x 100,000."),
    ] = False,
    rounds: Annotated[
        int, typer.Option(metavar="N", min=1, help="How often each map is made.")
    ] = 3,
    memory: Annotated[
        str, typer.Option(metavar="SIZE", help="Bound on memory, as of `rsmamba predict`.")
    ] = "4GiB",
    folder: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where scenes and maps are put for the time being."),
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the tables as Markdown: a new file, or the marked section of an old one.",
        ),
    ] = None,
    out: Output,
) -> None:
    """Measure what a map costs beside its model, on one thread of computation.

    Two models that cost little and are known exactly map scenes in three layouts; beside the
    toolkit's way the same maps are made by a loop over bands of rows and by MONAI, and the scenes
    are just read and a mask written. Needs about 4 GiB of disk; MONAI takes up to 8 GiB of memory.
    """
    if quick and large:
        usage_error("--quick and --large exclude each other")
    with running(**out.settings()) as console:
        from rsmamba_cli.bench import pipeline as bench
        from rsmamba_cli.bench.pipeline.tables import SECTION
        from rsmamba_cli.bench.tables import put_between_markers
        from rsmamba_cli.report.text import write_text

        scale = "quick" if quick else "large" if large else "normal"
        section = f"{SECTION}-large" if large else SECTION
        if markdown is not None:
            put_between_markers("", markdown, section)
            if not markdown.absolute().parent.is_dir():
                raise OutputError(f"{markdown}: there is no such folder")
        words = ["rsmamba bench pipeline", *([f"--{scale}"] if scale != "normal" else [])]
        words += [f"--rounds {rounds}"] if rounds != 3 else []
        words += [f"--memory {memory}"] if memory != "4GiB" else []
        options = bench.PipelineOptions(scale, rounds, memory, folder, " ".join(words))
        report = bench.run_pipeline_bench(options, console.on_event)
        if markdown is not None:
            text = bench.pipeline_markdown(report)
            write_text(markdown, put_between_markers(text, markdown, section))

        def show() -> None:
            console.properties("bench", bench.pipeline_facts(report))
            for title, columns, rows in bench.pipeline_tables(report):
                console.table(columns, rows, title=title)

        console.result(report.model_dump(mode="json"), show)
