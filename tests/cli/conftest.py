"""Running the command line inside the test process."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rsmamba_cli.app import app

Cli = Callable[..., Result]


@pytest.fixture
def cli() -> Cli:
    """``cli("predict", scene, "-o", mask)`` -> a result with exit_code, stdout and stderr."""

    def run(*words: object, env: dict[str, str] | None = None) -> Result:
        return CliRunner().invoke(
            app, [str(word) for word in words], env={"COLUMNS": "120", **(env or {})}
        )

    return run


@pytest.fixture
def cli_json(cli: Cli) -> Callable[..., Any]:
    """Like ``cli`` with ``--json``: the parsed document of a run that must succeed."""

    def run(*words: object) -> Any:
        result = cli(*words, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    return run


@pytest.fixture
def refuses(cli: Cli) -> Callable[..., str]:
    """Run a command that must fail with status 1 and one message; returns the message."""

    def run(*words: object) -> str:
        result = cli(*words)
        assert result.exit_code == 1, result.output
        errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
        assert len(errors) == 1, result.stderr
        assert "Traceback" not in result.output
        assert "unexpected error" not in result.stderr
        assert result.stdout == ""
        return result.stderr[result.stderr.index("error:") :].removeprefix("error: ").strip()

    return run
