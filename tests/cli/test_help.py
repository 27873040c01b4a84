"""``--help`` answers at once and about everything."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import typer

from rsmamba_cli.app import COMMANDS

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "rasterio", "numpy", "pydantic", "rich", "tqdm", "rsmamba_models")
SUBCOMMANDS = (
    ("datasets", "prepare"),
    ("datasets", "check"),
    ("datasets", "show"),
    ("checkpoint", "show"),
    ("checkpoint", "import"),
)


def modules_after(*words: str) -> set[str]:
    """Top-level modules that a fresh interpreter has loaded after running the command line."""
    code = (
        "import sys\n"
        "from rsmamba_cli.__main__ import main\n"
        f"sys.argv = ['rsmamba', *{list(words)!r}]\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert not end.code, end.code\n"
        "print('MODULES', *{name.split('.')[0] for name in sys.modules})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.rpartition("MODULES")[2].split())


def test_help_imports_nothing_heavy() -> None:
    assert not modules_after("--help") & set(HEAVY)


def test_help_of_every_command_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from rsmamba_cli.app import COMMANDS, app\n"
        "for name in COMMANDS:\n"
        "    try:\n        app([name, '--help'])\n"
        "    except SystemExit as end:\n        assert not end.code\n"
        "print('MODULES', *{name.split('.')[0] for name in sys.modules})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    # Newer versions of Typer themselves import pydantic to read a command's options.
    loaded = set(done.stdout.rpartition("MODULES")[2].split())
    assert not loaded & (set(HEAVY) - {"pydantic"})


def test_the_python_interface_imports_nothing_heavy() -> None:
    code = "import sys, rsmamba_cli; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert not set(done.stdout.split()) & set(HEAVY)


def test_help_lists_every_command(cli) -> None:
    text = cli("--help").stdout
    assert all(f"  {name} " in text for name in COMMANDS)


@pytest.mark.parametrize("words", [(name,) for name in COMMANDS] + list(SUBCOMMANDS))
def test_every_command_has_help(cli, words) -> None:
    result = cli(*words, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: rsmamba {' '.join(words)}")


@pytest.mark.parametrize("name", COMMANDS)
def test_one_line_help_is_the_first_line_of_the_long_help(name) -> None:
    command = typer.main.get_command(import_module(f"rsmamba_cli.commands.{name}").app)
    assert command.help.splitlines()[0] == COMMANDS[name]


def test_version(cli) -> None:
    from rsmamba_cli import __version__

    assert cli("--version").stdout == f"rsmamba {__version__}\n"


def test_without_arguments_the_help_is_shown(cli) -> None:
    assert "Commands:" in cli().output


def test_a_mistyped_command_is_a_usage_error_with_a_suggestion(cli) -> None:
    result = cli("predct", "a.tif")
    assert (result.exit_code, "Did you mean 'predict'?" in result.stderr) == (2, True)


def test_module_runs_like_the_script() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rsmamba_cli", "--version"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.stdout.startswith("rsmamba ")
