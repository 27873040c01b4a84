"""``rsmamba bench``: speed and memory on this machine, as ratios."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rsmamba_cli.commands.bench_flags import MarkdownFile
from rsmamba_cli.commands.bench_pipeline import pipeline
from rsmamba_cli.commands.bench_scaling import scaling
from rsmamba_cli.commands.flags import Output, command_app, spread_flags, usage_error
from rsmamba_cli.console import Console, running
from rsmamba_cli.errors import OutputError

if TYPE_CHECKING:
    from rsmamba_cli.bench import Report, Scale, Spec

app = command_app(no_args_is_help=True)

_MODELS = ("rsm_ss_tiny", "rsm_ss_nano")
"""What ``bench all`` measures besides the ops."""


@dataclass(frozen=True)
class Measuring:
    """How a bench runs and where its results go."""

    quick: Annotated[
        bool, typer.Option("--quick", help="Small sizes, about a minute: shows that all runs.")
    ] = False
    full: Annotated[
        bool,
        typer.Option("--full", help="Also what takes many minutes and most of the memory."),
    ] = False
    threads: Annotated[int, typer.Option(metavar="N", min=1, help="CPU threads.")] = 1
    rounds: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Turns of each form. Default: by --quick, else 7."),
    ] = None
    memory: Annotated[
        bool, typer.Option("--memory/--no-memory", help="Measure peak memory too.")
    ] = True
    json_file: Annotated[
        Path | None,
        typer.Option("--json", metavar="FILE", help="Write the results as JSON; - for stdout."),
    ] = None
    markdown: MarkdownFile = None
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the tables as one HTML page.")
    ] = None
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace existing JSON and HTML files.")
    ] = False
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show errors and essential warnings only.")
    ] = False
    log: Annotated[
        Path | None,
        typer.Option("--log", metavar="FILE", help="Append what happens to a log file."),
    ] = None
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False


@app.callback()
def bench() -> None:
    """Measure speed and memory on this machine, as ratios.

    Every form of every op is held against the plain recurrence, against the step-by-step loop that
    official code falls back to, and against the rates of arithmetic and memory that the machine
    reaches in the same run. Close other programs first.
    """


@app.command()
@spread_flags
def ops(*, measuring: Measuring) -> None:
    """Measure the ops: scans, mLSTM, neighbourhood attention."""
    _run("ops", (), measuring)


@app.command()
@spread_flags
def model(
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="One of `rsmamba models`.")],
    measuring: Measuring,
) -> None:
    """Measure a whole model, untrained: time per scan back end, memory in one pass."""
    _run(f"model {shlex.quote(name)}", (name,), measuring)


@app.command()
@spread_flags
def profile(
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="One of `rsmamba models`.")],
    side: Annotated[int, typer.Option(metavar="N", min=1, help="Side of the image.")] = 512,
    threads: Annotated[int, typer.Option(metavar="N", min=1, help="CPU threads.")] = 1,
    out: Output,
) -> None:
    """Show where a whole model's time goes: its operators in one forward pass on the CPU."""
    with running(**out.settings()) as console:
        from rsmamba_cli.bench import profile_model
        from rsmamba_models import model_info

        model_info(name)  # an unknown name is refused before anything is loaded
        rows = profile_model(name, side, threads)
        total = sum(row.seconds for row in rows)
        data = {
            "model": name,
            "side": side,
            "threads": threads,
            "seconds": total,
            "operators": [asdict(row) for row in rows],
        }
        console.result(
            data,
            lambda: console.table(
                ("operator", "time", "share", "calls"),
                [
                    (r.name, f"{1e3 * r.seconds:.1f} ms", f"{r.share:.1%}", f"{r.calls:,}")
                    for r in rows
                ],
                title=f"{name}, {side} x {side}, {threads} thread(s): {total:.3f} s",
                right=("time", "share", "calls"),
            ),
        )


app.command()(pipeline)
app.command()(scaling)


@app.command("all")
@spread_flags
def everything(*, measuring: Measuring) -> None:
    """Measure the ops and RS-Mamba's RSM-SS tiny and nano."""
    _run("all", _MODELS, measuring)


def _run(what: str, models: Sequence[str], measuring: Measuring) -> None:
    if measuring.quick and measuring.full:
        usage_error("--quick and --full exclude each other")
    to_stdout = measuring.json_file == Path("-")
    with running(
        json_output=to_stdout, quiet=measuring.quiet, log=measuring.log, debug=measuring.debug
    ) as console:
        _check_outputs(measuring)
        from rsmamba_cli.bench import BenchOptions, Scale, run_bench
        from rsmamba_cli.report.text import write_text

        scale = Scale.quick if measuring.quick else Scale.full if measuring.full else Scale.normal
        options = BenchOptions(
            threads=measuring.threads,
            scale=scale,
            rounds=measuring.rounds,
            memory=measuring.memory,
            command=_command(what, measuring),
        )
        partial = _partial(measuring)
        report = run_bench(
            _suite(what, models, scale),
            options,
            console.on_event,
            save=None if partial is None else lambda so_far: write_text(partial, _json(so_far)),
        )
        _write_outputs(report, measuring)
        if partial is not None:
            partial.unlink(missing_ok=True)
        console.result(report.model_dump(mode="json"), lambda: _show(console, report))


def _suite(what: str, models: Sequence[str], scale: "Scale") -> list["Spec"]:
    from rsmamba_cli.bench import model_suite, ops_suite
    from rsmamba_models import model_info

    for name in models:
        model_info(name)  # an unknown name is refused before anything is measured
    specs = list(ops_suite(scale)) if what in ("ops", "all") else []
    for name in models:
        specs += model_suite(name, scale)
    return specs


def _command(what: str, measuring: Measuring) -> str:
    """What gives these figures, without where they are written."""
    words = ["rsmamba bench", what]
    words += ["--quick"] if measuring.quick else []
    words += ["--full"] if measuring.full else []
    words += [f"--threads {measuring.threads}"] if measuring.threads != 1 else []
    words += [f"--rounds {measuring.rounds}"] if measuring.rounds is not None else []
    words += [] if measuring.memory else ["--no-memory"]
    return " ".join(words)


def _check_outputs(measuring: Measuring) -> None:
    """Refuse outputs that could not be written, before minutes are spent on measuring."""
    from rsmamba_cli.bench.tables import check_section

    for path in (measuring.json_file, measuring.html):
        if path not in (None, Path("-")) and path.exists() and not measuring.overwrite:
            raise OutputError(f"{path} exists; --overwrite replaces it")
    if measuring.markdown is not None:
        check_section(measuring.markdown)
    for path in (measuring.json_file, measuring.html):
        if path not in (None, Path("-")) and not path.absolute().parent.is_dir():
            raise OutputError(f"{path}: there is no such folder")


def _write_outputs(report: "Report", measuring: Measuring) -> None:
    from rsmamba_cli.bench.tables import to_html, to_markdown, write_section
    from rsmamba_cli.report.text import write_text

    if measuring.json_file not in (None, Path("-")):
        write_text(measuring.json_file, _json(report))
    if measuring.html is not None:
        write_text(measuring.html, to_html(report))
    if measuring.markdown is not None:
        write_section(to_markdown(report), measuring.markdown)


def _json(report: "Report") -> str:
    return report.model_dump_json(indent=2) + "\n"


def _partial(measuring: Measuring) -> Path | None:
    """Where the cases that are done are kept until all are."""
    if measuring.json_file in (None, Path("-")):
        return None
    return measuring.json_file.with_name(f"{measuring.json_file.name}.partial")


def _show(console: Console, report: "Report") -> None:
    from rsmamba_cli.bench import tables

    console.properties("bench", tables.facts(report))
    for title, rows in tables.case_tables(report):
        console.table(tables.COLUMNS[1:], rows, title=title, right=tables.NUMBERS)
    if rows := tables.target_rows(report):
        right = tables.TARGET_NUMBERS
        console.table(tables.TARGET_COLUMNS, rows, title=tables.TARGETS, right=right)
