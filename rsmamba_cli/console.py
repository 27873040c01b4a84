"""What the user sees: progress and messages on stderr, results on stdout, exit statuses.

The library emits events and raises ``RsmambaError``; everything that turns them into text is here.
"""

import io
import json
import os
import shlex
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import typer

from rsmamba_cli.errors import Interrupted, OutputError, RsmambaError
from rsmamba_cli.events import Event, Finished, Progress, Started, Warned
from rsmamba_cli.progress import Stage

EXIT_FAILED = 1
EXIT_SOME_FAILED = 3
EXIT_BELOW = 4
EXIT_INTERRUPTED = 130

_PLAIN_WIDTH = 120
"""Columns of tables that do not go to a terminal."""


class Console:
    """The output of one command.

    Args:
        json_output: results are one JSON document on stdout instead of tables.
        quiet: only errors and essential warnings are shown.
        log: a file that gets every message with its time, appended; None for no log.
        clock: seconds that pass, for the lines of progress.

    Raises:
        OutputError: the log cannot be opened.
    """

    def __init__(
        self,
        *,
        json_output: bool = False,
        quiet: bool = False,
        log: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.json_output = json_output
        self.quiet = quiet
        self._clock = clock
        self._log: TextIO | None = None
        self._stages: dict[str, Stage] = {}
        if log is not None:
            try:
                log.parent.mkdir(parents=True, exist_ok=True)
                self._log = log.open("a", encoding="utf-8")
            except OSError as error:
                raise OutputError(f"cannot write the log {log}: {error.strerror}") from error
            self._log_line("start", shlex.join(sys.argv))

    def close_stages(self) -> None:
        """Take unfinished progress bars off the screen."""
        for stage in self._stages.values():
            stage.close()
        self._stages.clear()

    def close(self) -> None:
        """Take unfinished progress bars off the screen and close the log."""
        self.close_stages()
        if self._log is not None:
            self._log.close()
            self._log = None

    def on_event(self, event: Event) -> None:
        """Show one event of the library: the callback to pass as ``on_event``."""
        match event:
            case Started():
                self._start(event)
            case Progress():
                self._advance(event)
            case Finished():
                self._finish(event)
            case Warned():
                self.warn(event.message, essential=event.essential)

    def warn(self, message: str, *, essential: bool = False) -> None:
        """Show a warning on stderr; with ``--quiet`` only if it is essential."""
        self._log_line("warning", message)
        if essential or not self.quiet:
            self._write_line(f"warning: {message}")

    def error(self, message: str) -> None:
        """Show an error on stderr, always."""
        self._log_line("error", message)
        self._write_line(f"error: {message}")

    def note(self, message: str) -> None:
        """Show a plain line on stderr unless ``--quiet``."""
        self._log_line("note", message)
        if not self.quiet:
            self._write_line(message)

    def log_trace(self) -> None:
        """Write the traceback of the exception in flight to the log only."""
        if self._log is not None:
            self._log_line("trace", traceback.format_exc().rstrip())

    def log_warning(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        """Write a Python warning to the log only; stands in for ``warnings.showwarning``."""
        self._log_line("python", f"{filename}:{lineno}: {category.__name__}: {message}")

    def result(self, data: Any, show: Callable[[], None]) -> None:
        """Print a result on stdout: ``data`` as JSON with ``--json``, else what ``show`` draws."""
        if self._log is not None:
            self._log_line("result", json.dumps(plain(data)))
        if self.json_output:
            write_stdout(json.dumps(plain(data), indent=2, ensure_ascii=False) + "\n")
        elif not self.quiet:
            show()

    def properties(self, title: str, rows: Mapping[str, object]) -> None:
        """Print names and values in two columns under a title; empty values are left out."""
        from rich.panel import Panel
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, value in rows.items():
            if value is not None and str(value) != "":
                table.add_row(name, Text(str(value)))
        self._print(Panel(table, title=Text(title), title_align="left", expand=False))

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[object]],
        *,
        title: str | None = None,
        right: Sequence[str] = (),
    ) -> None:
        """Print a table; the columns named in ``right`` are numbers and flush right."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in columns:
            table.add_column(
                column, justify="right" if column in right else "left", overflow="fold"
            )
        for row in rows:
            table.add_row(*(Text(str(cell)) for cell in row))
        if title is not None:
            self._print(Text(title, style="bold"))
        self._print(table)

    def markdown(self, text: str) -> None:
        """Print Markdown, laid out for reading."""
        from rich.markdown import Markdown

        self._print(Markdown(text, hyperlinks=sys.stdout.isatty()))

    def _print(self, renderable: object) -> None:
        from rich.console import Console as RichConsole

        terminal = sys.stdout.isatty()
        # Drawn to a string first: rich ends the process when the reader of stdout has gone.
        rich = RichConsole(
            file=io.StringIO(),
            force_terminal=terminal,
            width=None if terminal else _PLAIN_WIDTH,
            highlight=False,
        )
        with rich.capture() as capture:
            rich.print(renderable)
        write_stdout(capture.get())

    def _write_line(self, text: str) -> None:
        """Write to stderr above any running bar. A reader that has gone must not stop the work."""
        with suppress(BrokenPipeError):
            if any(stage.bar is not None for stage in self._stages.values()):
                from tqdm import tqdm

                tqdm.write(text, file=sys.stderr)
            else:
                sys.stderr.write(text + "\n")
                sys.stderr.flush()

    def _log_line(self, kind: str, text: str) -> None:
        if self._log is not None:
            self._log.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {kind}: {text}\n")
            self._log.flush()

    def _start(self, event: Started) -> None:
        self._log_line("started", f"{event.stage} ({event.total or '?'} {event.unit})")
        old = self._stages.pop(event.stage, None)
        if old is not None:
            old.close()
        stage = Stage(event.stage, event.total, event.unit, self._clock)
        if not self.quiet and sys.stderr.isatty():
            stage.open_bar()
        self._stages[event.stage] = stage

    def _advance(self, event: Progress) -> None:
        stage = self._stages.get(event.stage)
        if stage is None:
            return
        stage.advance(event)
        if stage.line_due():
            line = stage.line()
            self._log_line("progress", line)
            if not self.quiet and stage.bar is None:
                self._write_line(line)

    def _finish(self, event: Finished) -> None:
        stage = self._stages.pop(event.stage, None)
        self._log_line("finished", f"{event.stage} {event.summary}".rstrip())
        if stage is not None:
            stage.close()
        if event.summary and not self.quiet:
            self._write_line(f"{event.stage}: {event.summary}")


@contextmanager
def running(
    *,
    json_output: bool = False,
    quiet: bool = False,
    log: Path | None = None,
    debug: bool = False,
) -> Iterator[Console]:
    """Run the body of a command: yields its console, turns exceptions into exit statuses.

    Errors of the toolkit and of the model zoo become one message on stderr and status 1; SIGINT and
    SIGTERM become 130; anything else is called unexpected, in one line. ``debug`` adds the
    traceback. A reader of stdout that has gone away is not an error.

    Raises:
        typer.Exit: with the exit status of a command that did not succeed.
    """
    console = Console(quiet=quiet)
    try:
        with _sigterm_interrupts(), warnings.catch_warnings():
            console = Console(json_output=json_output, quiet=quiet, log=log)
            if not debug:
                # What third parties tell developers is noise to users; the log keeps it.
                warnings.showwarning = console.log_warning
            yield console
    except (typer.Exit, typer.Abort, typer.BadParameter):
        raise
    except (Exception, KeyboardInterrupt) as error:
        status, message = describe_error(error)
        console.close_stages()
        console.log_trace()
        if debug:
            traceback.print_exc()
        console.error(message)
        raise typer.Exit(status) from None
    finally:
        console.close()


def describe_error(error: BaseException) -> tuple[int, str]:
    """Return the exit status and the one message for an exception that ends a command."""
    if isinstance(error, Interrupted | KeyboardInterrupt):
        return EXIT_INTERRUPTED, str(error) or "interrupted"
    if isinstance(error, RsmambaError) or _is_models_error(error):
        return EXIT_FAILED, str(error) or type(error).__name__
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return EXIT_FAILED, "out of memory; a smaller --tile or --batch-size needs less"
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename else ""
        return EXIT_FAILED, f"{error.strerror}{where}"
    text = " ".join(str(error).split())
    name = type(error).__name__
    return EXIT_FAILED, f"unexpected error: {name}: {text}; run with --debug for the traceback"


def _is_models_error(error: BaseException) -> bool:
    """Whether the model zoo raised this, without importing the zoo (and torch) to find out."""
    module = sys.modules.get("rsmamba_models.errors")
    return module is not None and isinstance(error, module.ModelsError)


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """Let SIGTERM end the command the way Ctrl-C does, so that it can be resumed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt("interrupted by SIGTERM")

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def write_stdout(text: str) -> None:
    """Write to stdout; if nobody reads it any more, drop the text without a message."""
    with suppress(BrokenPipeError):
        sys.stdout.write(text)
    flush_stdout()


def flush_stdout() -> None:
    """Flush stdout; if nobody reads it any more, send what follows nowhere.

    Without this, the interpreter's own flush at exit would print a traceback.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def plain(value: Any) -> Any:
    """Reduce a result to what JSON holds: paths to strings, arrays to lists, NaN to null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if value - value == 0 else None
    if value is None or isinstance(value, str | int | bool):
        return value
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value)


def size(number: float) -> str:
    """Write a number of bytes for people: ``12 B``, ``4.0 KiB``, ``3.1 GiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def area(square_metres: float) -> str:
    """Write an area for people, in the unit that keeps it readable."""
    if square_metres < 1e4:
        return f"{square_metres:,.1f} m2"
    if square_metres < 1e6:
        return f"{square_metres / 1e4:,.2f} ha"
    return f"{square_metres / 1e6:,.2f} km2"
