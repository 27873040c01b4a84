"""A report as tables: for the terminal, for the documentation (Markdown) and as a page (HTML)."""

from collections.abc import Sequence
from html import escape
from itertools import groupby
from pathlib import Path

from rsmamba_cli.bench.records import Record, Report
from rsmamba_cli.bench.targets import verdicts
from rsmamba_cli.errors import OutputError
from rsmamba_cli.report.text import write_text

_MARKER = "<!-- {}:begin (written by `rsmamba bench --markdown`; changes here are lost) -->"
BEGIN, END = _MARKER.format("bench"), "<!-- bench:end -->"
COLUMNS = (
    "case",
    "form",
    "median",
    "runs",
    "times as fast as",
    "share of limits",
    "peak memory",
    "difference",
)
NUMBERS = ("median", "runs", "peak memory", "difference")
TARGETS = "targets"
TARGET_COLUMNS = ("work", "held against", "reached", "aim", "verdict")
TARGET_NUMBERS = ("reached", "aim")

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; }
table { border-collapse: collapse; margin: 1em 0 2em; }
th, td { border-bottom: 1px solid #8884; padding: .25em .7em; text-align: left; }
th { border-bottom: 2px solid #888; }
.n { font-variant-numeric: tabular-nums; text-align: right; }
tr.case td { border-top: 2px solid #8888; }
code { background: #8882; padding: .1em .3em; }
"""


def tables(report: Report) -> list[tuple[str, list[tuple[str, ...]]]]:
    """Per group its title and rows of cells under ``COLUMNS``; a case is named in its first row."""
    found = []
    for group, records in groupby(report.records, key=lambda record: record.group):
        rows = []
        before = ""
        for record in records:
            case = case_title(record)
            rows.append((case if case != before else "", *_cells(record)))
            before = case
        found.append((group, rows))
    return found


def target_rows(report: Report) -> list[tuple[str, ...]]:
    """Rows of cells under ``TARGET_COLUMNS``; none if the run has no case at a target's sizes."""
    rows: list[tuple[str, ...]] = []
    for verdict in verdicts(report):
        target = verdict.target
        reached = "" if verdict.reached is None else f"{_digits(verdict.reached)} {target.unit}"
        aim = f"{'at most' if target.most else 'at least'} {target.aim:g} {target.unit}"
        words = {True: "met", False: "not met", None: "not measured"}[verdict.met]
        rows.append((verdict.work, target.peer, reached, aim, words))
    return rows


def facts(report: Report) -> dict[str, str]:
    """What was measured where, by name."""
    machine, limits = report.machine, report.limits
    load = "unknown" if machine.load is None else f"{machine.load:.2f}"
    return {
        "command": report.command,
        "scale": report.scale,
        "threads": str(report.threads),
        "processor": f"{machine.processor}, {machine.cores} cores, {machine.system}",
        "load before the run": load,
        "versions": ", ".join(f"{name} {text}" for name, text in machine.versions.items()),
        "scan back ends": "; ".join(
            f"{name}: {state}" for name, state in machine.back_ends.items()
        ),
        "exponentials": f"{limits.exp_per_second / 1e9:.2f} G/s ({limits.exp_source})",
        "multiply-adds": f"{limits.fma_per_second / 1e9:.1f} G/s (float32 matrix product)",
        "memory": f"{limits.bytes_per_second / 1e9:.1f} GB/s (large copy or triad)",
    }


def case_tables(report: Report) -> list[tuple[str, list[tuple[str, ...]]]]:
    """Per case its title and rows of cells under ``COLUMNS`` without the first."""
    return [
        (title, [_cells(record) for record in records])
        for title, records in groupby(
            report.records, key=lambda record: f"{record.group}: {case_title(record)}"
        )
    ]


def case_title(record: Record) -> str:
    """``scan forward s1 (batch 1, order cross, ...)``."""
    sizes = ", ".join(
        f"{name} {value}" for name, value in record.sizes.items() if value != record.group
    )
    return f"{record.case} ({sizes})"


def to_markdown(report: Report) -> str:
    """The report as Markdown, without markers."""
    lines = [
        f"- {name}: `{text}`" if name == "command" else f"- {name}: {text}"
        for name, text in facts(report).items()
        if text
    ]
    for title, columns, numbers, rows in _all_tables(report):
        lines += ["", f"### {title}", "", *markdown_table(columns, rows, numbers)]
    return "\n".join(lines) + "\n"


def markdown_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()
) -> list[str]:
    """The lines of a table; the columns ``right`` are set to the right."""
    rule = ["---:" if name in right else "---" for name in columns]
    return [_row(columns), _row(rule, plain=True), *(_row(row) for row in rows)]


def to_html(report: Report) -> str:
    """The report as a page that needs nothing else."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><title>rsmamba bench</title>',
        '<meta name="viewport" content="width=device-width">',
        f"<style>{_STYLE}</style></head><body><h1>rsmamba bench</h1><table>",
    ]
    for name, text in facts(report).items():
        parts.append(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>")
    parts.append("</table>")
    for title, columns, numbers, rows in _all_tables(report):
        heads = "".join(f"<th{_class(name, numbers)}>{escape(name)}</th>" for name in columns)
        parts.append(f"<h2>{escape(title)}</h2><table><thead><tr>{heads}</tr></thead><tbody>")
        for row in rows:
            cells = "".join(
                f"<td{_class(name, numbers)}>{escape(cell)}</td>"
                for name, cell in zip(columns, row, strict=True)
            )
            kind = ' class="case"' if row[0] else ""
            parts.append(f"<tr{kind}>{cells}</tr>")
        parts.append("</tbody></table>")
    parts.append("</body></html>")
    return "\n".join(parts) + "\n"


def put_between_markers(text: str, path: Path, section: str = "bench") -> str:
    """What ``path`` has to hold once ``text`` stands between its markers; a new file is only that.

    Args:
        text: What goes there.
        path: An old file or a new one.
        section: Which markers.

    Raises:
        OutputError: The file has no markers, or not one pair of them: it is somebody's text.
    """
    begin, end = _MARKER.format(section), f"<!-- {section}:end -->"
    whole = f"{begin}\n\n{text}\n{end}\n"
    if not path.exists():
        return whole
    old = path.read_text(encoding="utf-8")
    if old.count(begin) != 1 or old.count(end) != 1 or old.index(begin) > old.index(end):
        raise OutputError(
            f"{path} exists and has no section for the results: put these two lines where they "
            f"belong, or name a new file\n{begin}\n{end}"
        )
    head, _, rest = old.partition(begin)
    return head + whole + rest.partition(end)[2].removeprefix("\n")


def check_section(path: Path, section: str = "bench") -> None:
    """Refuse a Markdown file that could not be written, before minutes are spent on measuring.

    Raises:
        OutputError: Its folder is not there, or it has no such section.
    """
    put_between_markers("", path, section)
    if not path.absolute().parent.is_dir():
        raise OutputError(f"{path}: there is no such folder")


def write_section(text: str, path: Path, section: str = "bench") -> None:
    """Write ``text`` between the markers of a section of a Markdown file, or a new file.

    Raises:
        OutputError: The file cannot be written, or has no such section.
    """
    write_text(path, put_between_markers(text, path, section))


def seconds(value: float) -> str:
    """A time in three digits and a fitting unit."""
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if value * factor >= 1:
            return f"{_digits(value * factor)} {unit}"
    return f"{_digits(value * 1e9)} ns"


def _cells(record: Record) -> tuple[str, ...]:
    from rsmamba_cli.console import size

    own = record.median_seconds or 1.0
    share = ", ".join(f"{limit / own:.0%} {name}" for name, limit in record.limits.items())
    difference = "" if record.difference is None else f"{record.difference:.0e}"
    return (
        record.form,
        "" if record.median_seconds is None else seconds(record.median_seconds),
        str(record.repeats) if record.repeats else "",
        record.note or ", ".join(f"{name} {_digits(r)}x" for name, r in record.ratios.items()),
        share,
        "" if record.peak_bytes is None else size(record.peak_bytes),
        difference,
    )


def _digits(value: float) -> str:
    """Three significant digits, never in powers of ten."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _row(cells: Sequence[str], *, plain: bool = False) -> str:
    texts = cells if plain else [cell.replace("|", "\\|") for cell in cells]
    return f"| {' | '.join(texts)} |"


def _class(column: str, numbers: tuple[str, ...]) -> str:
    return ' class="n"' if column in numbers else ""


def _all_tables(
    report: Report,
) -> list[tuple[str, tuple[str, ...], tuple[str, ...], list[tuple[str, ...]]]]:
    """Title, columns, columns of numbers and rows of the targets, then of every group."""
    targets = target_rows(report)
    first = [(TARGETS, TARGET_COLUMNS, TARGET_NUMBERS, targets)] if targets else []
    return first + [(title, COLUMNS, NUMBERS, rows) for title, rows in tables(report)]
