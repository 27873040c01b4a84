"""``rsmamba bench pipeline``: what a map costs beside its model."""

from typing import Annotated

import typer

from rsmamba_cli.commands.bench_flags import MarkdownFile, ScratchFolder
from rsmamba_cli.commands.flags import Output, spread_flags, usage_error
from rsmamba_cli.console import running


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
    folder: ScratchFolder = None,
    markdown: MarkdownFile = None,
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
        from rsmamba_cli.bench.tables import check_section, write_section

        scale = "quick" if quick else "large" if large else "normal"
        section = f"{SECTION}-large" if large else SECTION
        if markdown is not None:
            check_section(markdown, section)
        words = ["rsmamba bench pipeline", *([f"--{scale}"] if scale != "normal" else [])]
        words += [f"--rounds {rounds}"] if rounds != 3 else []
        words += [f"--memory {memory}"] if memory != "4GiB" else []
        options = bench.PipelineOptions(scale, rounds, memory, folder, " ".join(words))
        report = bench.run_pipeline_bench(options, console.on_event)
        if markdown is not None:
            write_section(bench.pipeline_markdown(report), markdown, section)

        def show() -> None:
            console.properties("bench", bench.pipeline_facts(report))
            for title, columns, rows in bench.pipeline_tables(report):
                console.table(columns, rows, title=title)

        console.result(report.model_dump(mode="json"), show)
