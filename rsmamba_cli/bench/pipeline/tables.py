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
    "peak memory (of --memory)",
    "bytes a pixel more, square",
    "at one width",
    "windows",
    "differing labels",
)
FLIPS = ("windows a pass", "threads", "labels that differ", "probabilities", "seconds")
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
    if report.flips:
        found.append((_flips_title(report), FLIPS, _flips(report)))
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
        for title, columns, rows in tables
        if columns == COLUMNS
        for i, row in enumerate(rows)
    ]
    lines += ["", "### Maps", "", *markdown_table(("scene", *COLUMNS), wide, COLUMNS[1:])]
    if report.flips:
        lines += ["", f"### {_flips_title(report).capitalize()}", ""]
        lines += markdown_table(FLIPS, _flips(report), FLIPS)
    return "\n".join(lines) + "\n"


def _flips_title(report: PipelineReport) -> str:
    pixels = report.flips[0].pixels
    return f"batch size and threads: the demonstration model on {pixels / 1e6:.1f} megapixels"


def _flips(report: PipelineReport) -> list[tuple[str, ...]]:
    return [
        (
            str(flip.batch_size),
            str(flip.threads),
            f"{flip.labels:,}",
            f"{flip.probabilities:,}",
            f"{flip.seconds:.1f}",
        )
        for flip in report.flips
    ]


def _target(target: Target) -> tuple[str, ...]:
    return target.name, target.aim, target.reached, "yes" if target.met else "no"


def _cells(run: Run, report: PipelineReport) -> tuple[str, ...]:
    from rsmamba_cli.console import size

    def number(value: float | None, text: str) -> str:
        return "" if value is None else format(value, text)

    allowed = "" if run.allowed_bytes is None else f" of {size(run.allowed_bytes)}"
    share = "" if run.differing is None else f"{run.differing / run.case.pixels:.2%}"
    if run.differing == 0:
        share = "0"
    return (
        f"{run.form} ({run.note})" if run.note else run.form,
        number(run.megapixels_per_second, ".1f"),
        number(run.cpu_seconds, ".2f"),
        "" if run.after_seconds is None else f"{run.after_seconds:.2f} s",
        "" if run.peak_bytes is None else size(run.peak_bytes) + allowed,
        number(square_slope(run, report.runs), ".2f"),
        number(height_slope(run, report.runs), ".3f"),
        "" if run.windows is None else f"{run.windows:,}",
        share,
    )
