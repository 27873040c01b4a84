"""The documents name commands, options, files and recipes that exist."""

import re
import shlex
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer

from rsmamba_cli.app import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
PROGRAMS = {page: page.read_text(encoding="utf-8") for page in PAGES}


@cache
def command_of(name: str) -> Any:
    return typer.main.get_command(import_module(f"rsmamba_cli.commands.{name}").app)


def commands_in(text: str) -> list[list[str]]:
    """The words of every ``rsmamba`` command in the shell blocks of a page, comments removed."""
    found = []
    for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["rsmamba"]:
                found.append([w for w in words[1:] if not (w[0] == "[" or w[-1] == "]")])
    return found


CASES = [
    pytest.param(words, id=f"{page.name}-{' '.join(words)}"[:80])
    for page, text in PROGRAMS.items()
    for words in commands_in(text)
]


@pytest.mark.parametrize("words", CASES)
def test_commands_and_their_options_exist(words) -> None:
    assert words[0] in COMMANDS
    command = command_of(words[0])
    children = getattr(command, "commands", {})
    if len(words) > 1 and words[1] in children:
        command = children[words[1]]
    options = {name for parameter in command.params for name in parameter.opts}
    used = {word for word in words[1:] if re.match(r"--?[a-z]", word)}
    assert used <= options


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page) -> None:
    links = re.findall(r"(?<!!)\[[^\]]*\]\(([^)#]+?)(?:#[^)]*)?\)", PROGRAMS[page])
    local = [link for link in links if not link.startswith("http")]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_every_command_is_documented() -> None:
    text = "\n".join(PROGRAMS.values())
    assert [name for name in COMMANDS if f"rsmamba {name}" not in text] == []


def test_every_option_of_predict_is_documented() -> None:
    text = PROGRAMS[ROOT / "docs" / "predict.md"]
    options = [name for p in command_of("predict").params for name in p.opts if name[:2] == "--"]
    assert [name for name in options if name not in text] == []


def test_recipes_in_the_documents_exist() -> None:
    from rsmamba_cli.training import list_recipes

    text = PROGRAMS[ROOT / "docs" / "training.md"]
    assert [name for name in list_recipes() if f"`{name}`" not in text] == []
