"""``rsmamba bench scaling``: one scene by one worker and by several."""

from typing import Annotated

import typer

from rsmamba_cli.commands.bench_flags import MarkdownFile, ScratchFolder
from rsmamba_cli.commands.flags import Output, spread_flags
from rsmamba_cli.console import running
from rsmamba_cli.errors import OutputError


@spread_flags
def scaling(
    *,
    side: Annotated[
        int, typer.Option(metavar="N", min=512, help="Side of the scene in pixels.")
    ] = 8192,
    workers: Annotated[int, typer.Option(metavar="N", min=2, help="Workers, at most.")] = 2,
    folder: ScratchFolder = None,
    markdown: MarkdownFile = None,
    out: Output,
) -> None:
    """Measure how a map gets faster with workers, and what a scheduler costs.

    A drawn scene is mapped with the demonstration model by this process, by local processes and by
    the workers of a Dask cluster on this machine, each with one thread of computation.
    """
    with running(**out.settings()) as console:
        from rsmamba_cli.bench import scaling as bench
        from rsmamba_cli.bench.tables import check_section, write_section

        if markdown is not None:
            check_section(markdown, bench.SECTION)
        words = ["rsmamba bench scaling"]
        words += [f"--side {side}"] if side != 8192 else []
        words += [f"--workers {workers}"] if workers != 2 else []
        options = bench.ScalingOptions(side, workers, folder=folder, command=" ".join(words))
        report = bench.run_scaling_bench(options, console.on_event)
        if markdown is not None:
            write_section(bench.scaling_markdown(report), markdown, bench.SECTION)

        def show() -> None:
            console.properties("bench", bench.scaling_facts(report))
            console.table(bench.COLUMNS, bench.scaling_rows(report), right=bench.COLUMNS[1:])

        console.result(report.model_dump(mode="json"), show)
        if not report.same:
            raise OutputError("the maps differ: please report this, with the output of --json")
