"""A report on the pipeline as tables, for the terminal and for the documentation."""

from itertools import groupby

from rsmamba_cli.bench.pipeline.records import PipelineReport, Run, Target
from rsmamba_cli.bench.pipeline.suite import height_slope, square_slope
from rsmamba_cli.bench.tables import markdown_table

SECTION = "bench:pipeline"
COLUMNS = (
    "form",
    "Mpx/s to the mask",
    "CPU seconds",
    "COG after that",
    "peak memory",
    "bytes a pixel more, square",
    "at one width",
    "windows",
    "differing labels",
)
TARGETS = ("target", "aim", "reached", "met")

Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]


def pipeline_facts(report: PipelineReport) -> dict[str, str]:
    """What was measured where, by name."""
    machine = report.machine
    load = "unknown" if machine.load is None else f"{machine.load:.2f}"
    return {
        "command": report.command,
        "scale": report.scale,
        "windows": f"{report.tile} pixels, {report.overlap} of them shared with each neighbour",
        "processor": f"{machine.processor}, {machine.cores} cores, {machine.system}",
        "load before the run": load,
        "versions": ", ".join(f"{name} {text}" for name, text in machine.versions.items()),
    }


def pipeline_tables(report: PipelineReport) -> list[Table]:
    """Title, columns and rows: the targets, then a table for each model and layout."""
    found: list[Table] = []
    if report.targets:
        found.append(("targets", TARGETS, [_target(target) for target in report.targets]))

    def place(run: Run) -> str:
        case = run.case
        trim = f", trim {case.trim}" if case.trim else ""
        return f"{case.model}{trim}, {case.height:,} x {case.width:,}, {case.layout}"

    for title, runs in groupby(report.runs, key=place):
        found.append((title, COLUMNS, [_cells(run, report) for run in runs]))
    return found


def pipeline_markdown(report: PipelineReport) -> str:
    """The report as Markdown, without markers."""
    lines = [
        f"- {name}: `{text}`" if name == "command" else f"- {name}: {text}"
        for name, text in pipeline_facts(report).items()
        if text
    ]
    tables = pipeline_tables(report)
    for title, columns, rows in tables[: bool(report.targets)]:
        lines += ["", f"### {title.capitalize()}", "", *markdown_table(columns, rows)]
    wide = [
        (title if i == 0 else "", *row)
        for title, _, rows in tables[bool(report.targets) :]
        for i, row in enumerate(rows)
    ]
    lines += ["", "### Maps", "", *markdown_table(("scene", *COLUMNS), wide, COLUMNS[1:])]
    return "\n".join(lines) + "\n"


def _target(target: Target) -> tuple[str, ...]:
    return target.name, target.aim, target.reached, "yes" if target.met else "no"


def _cells(run: Run, report: PipelineReport) -> tuple[str, ...]:
    from rsmamba_cli.console import size

    def number(value: float | None, text: str) -> str:
        return "" if value is None else format(value, text)

    share = "" if run.differing is None else f"{run.differing / run.case.pixels:.2%}"
    if run.differing == 0:
        share = "0"
    return (
        f"{run.form} ({run.note})" if run.note else run.form,
        number(run.megapixels_per_second, ".1f"),
        number(run.cpu_seconds, ".2f"),
        "" if run.after_seconds is None else f"{run.after_seconds:.2f} s",
        "" if run.peak_bytes is None else size(run.peak_bytes),
        number(square_slope(run, report.runs), ".2f"),
        number(height_slope(run, report.runs), ".3f"),
        "" if run.windows is None else f"{run.windows:,}",
        share,
    )
