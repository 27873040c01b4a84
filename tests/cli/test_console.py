"""Messages, exit statuses, progress, logs."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from rsmamba_cli import progress
from rsmamba_cli.console import Console, area, describe_error, plain, running, size
from rsmamba_cli.errors import InputError, Interrupted
from rsmamba_cli.events import Finished, Progress, Started, Warned
from rsmamba_cli.progress import duration

ROOT = Path(__file__).parents[2]


def status_of(error: BaseException, **settings: object) -> int:
    with pytest.raises(typer.Exit) as end, running(**settings):  # type: ignore[arg-type]
        raise error
    return end.value.exit_code


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InputError("wrong"), 1),
        (ValueError("odd"), 1),
        (OSError(28, "No space left on device", "a.tif"), 1),
        (MemoryError(), 1),
        (Interrupted("stopped"), 130),
        (KeyboardInterrupt(), 130),
    ],
)
def test_exit_status_by_error(error, status, capsys) -> None:
    assert status_of(error) == status
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_an_error_of_the_model_zoo_is_a_plain_message(capsys) -> None:
    from rsmamba_models.errors import CheckpointFormatError

    status_of(CheckpointFormatError("a.safetensors: damaged"))
    assert capsys.readouterr().err == "error: a.safetensors: damaged\n"


def test_an_unexpected_error_is_one_line_that_names_debug(capsys) -> None:
    status_of(ValueError("two\nlines"))
    text = capsys.readouterr().err
    assert text == (
        "error: unexpected error: ValueError: two lines; run with --debug for the traceback\n"
    )


def test_debug_shows_the_traceback(capsys) -> None:
    status_of(InputError("wrong"), debug=True)
    assert "Traceback" in capsys.readouterr().err


def test_usage_errors_pass_through() -> None:
    with pytest.raises(typer.BadParameter), running():
        raise typer.BadParameter("no")


def test_out_of_memory_names_a_remedy() -> None:
    assert "--tile" in describe_error(MemoryError())[1]


def test_sigterm_ends_like_an_interrupt(capsys) -> None:
    with pytest.raises(typer.Exit) as end, running():
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the signal was not noticed")
    assert end.value.exit_code == 130


def test_the_handler_of_sigterm_is_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with running():
        pass
    assert signal.getsignal(signal.SIGTERM) is before


def test_quiet_shows_essential_warnings_only(capsys) -> None:
    with running(quiet=True) as console:
        console.on_event(Warned("odd"))
        console.on_event(Warned("a demonstration model", essential=True))
        console.note("by the way")
    assert capsys.readouterr().err == "warning: a demonstration model\n"


def test_quiet_prints_no_result(capsys) -> None:
    with running(quiet=True) as console:
        console.result({"a": 1}, lambda: console.properties("t", {"a": 1}))
    assert capsys.readouterr().out == ""


def test_json_prints_the_result_even_when_quiet(capsys) -> None:
    with running(quiet=True, json_output=True) as console:
        console.result({"a": Path("b")}, lambda: None)
    assert json.loads(capsys.readouterr().out) == {"a": "b"}


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys, monkeypatch) -> None:
    monkeypatch.setattr(progress, "_LINE_SECONDS", 0.0)
    console = Console()
    console.on_event(Started("predict", 200, "window"))
    for _ in range(200):
        console.on_event(Progress("predict", detail="row 3"))
    console.on_event(Finished("predict", "done"))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 21
    assert lines[0].startswith("predict: 5% (10/200 windows), ")
    assert "windows/s" in lines[0]
    assert "left" in lines[0]
    assert lines[-1] == "predict: done"


@pytest.mark.parametrize("quiet", [False, True])
def test_a_long_job_writes_a_line_a_minute(tmp_path, capsys, quiet) -> None:
    now = 0.0
    console = Console(quiet=quiet, log=tmp_path / "job.log", clock=lambda: now)
    console.on_event(Started("predict", 100_000, "window"))
    for _ in range(3600):  # an hour, in which 3.6 % are done
        now += 1.0
        console.on_event(Progress("predict"))
    logged = [x for x in (tmp_path / "job.log").read_text().splitlines() if " progress: " in x]
    assert len(logged) == 60
    assert logged[-1].endswith("predict: 4% (3600/100000 windows), 1 windows/s, 26 h 46 min left")
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) == (0 if quiet else 60)


def test_progress_on_a_terminal_is_a_bar(capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    console = Console()
    console.on_event(Started("predict", 4, "window"))
    console.on_event(Progress("predict", 2, "half"))
    console.warn("look")
    console.on_event(Finished("predict"))
    text = capsys.readouterr().err
    assert "predict" in text
    assert "0/4" in text
    assert "warning: look" in text


def test_progress_of_a_stage_that_never_started_is_ignored(capsys) -> None:
    Console().on_event(Progress("unknown"))
    assert capsys.readouterr().err == ""


def test_the_log_gets_what_quiet_hides(tmp_path, capsys) -> None:
    log = tmp_path / "logs" / "run.log"
    with running(quiet=True, log=log) as console:
        console.on_event(Warned("odd"))
        console.result({"a": 1}, lambda: None)
    text = log.read_text()
    assert "warning: odd" in text
    assert 'result: {"a": 1}' in text
    assert capsys.readouterr().err == ""


def test_the_log_keeps_the_traceback_of_an_error(tmp_path) -> None:
    log = tmp_path / "run.log"
    status_of(ValueError("odd"), log=log)
    assert "Traceback" in log.read_text()


def test_a_log_that_cannot_be_written_is_one_message(tmp_path, capsys) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(typer.Exit), running(log=tmp_path / "file" / "run.log"):
        raise AssertionError("not reached")
    assert "cannot write the log" in capsys.readouterr().err


def test_warnings_of_libraries_go_to_the_log_only(tmp_path, capsys) -> None:
    import warnings

    log = tmp_path / "run.log"
    with running(log=log):
        warnings.warn("internal matter", RuntimeWarning, stacklevel=1)
    assert "internal matter" in log.read_text()
    assert capsys.readouterr().err == ""


def test_a_reader_of_stdout_that_has_gone_is_no_error() -> None:
    code = (
        "from rsmamba_cli.console import running\n"
        "import os, sys\n"
        "with running(json_output=True) as console:\n"
        "    sys.stdin.read()\n"
        "    console.result({'a': 'x' * 200_000}, lambda: None)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate()
    assert (process.returncode, errors) == (0, b"")


def test_json_holds_no_nan() -> None:
    assert plain({"a": float("nan"), 3: (float("inf"), 1.5)}) == {"a": None, "3": [None, 1.5]}


def test_arrays_become_lists() -> None:
    import numpy as np

    assert plain({"a": np.eye(2, dtype=int), "b": np.int64(3)}) == {"a": [[1, 0], [0, 1]], "b": 3}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(9.44, "9.4 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (3599.9, "1 h 00 min")],
)
def test_durations(seconds, text) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(12, "12 B"), (4096, "4.0 KiB"), (3.1 * 2**30, "3.1 GiB")]
)
def test_sizes(number, text) -> None:
    assert size(number) == text


@pytest.mark.parametrize(
    ("number", "text"), [(12.34, "12.3 m2"), (25_000, "2.50 ha"), (3.2e6, "3.20 km2")]
)
def test_areas(number, text) -> None:
    assert area(number) == text
