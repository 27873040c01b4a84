"""Model cards: what is known of a family, and what its architectures cost.

A family's card is ``FAMILY.toml`` in this folder; figures are in ``measured.json``, written by
``python -m rsmamba_cli.bench.zoo``. ``models/README.md`` and ``rsmamba models NAME`` show both.
"""

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rsmamba_models.zoo import mamba_diffusion, rs_mamba, samba, seg_lstm, segman
from rsmamba_models.zoo.entry import Entry

FOLDER = Path(__file__).parent
MEASURED = FOLDER / "measured.json"
SIDES = (512, 2048)
"""Sides of the images that costs are given for, in pixels."""
BEGIN = "<!-- cards:begin (written by `make cards` from models/rsmamba_models/zoo/cards) -->"
END = "<!-- cards:end -->"

_ENTRIES: dict[str, tuple[Entry, ...]] = {
    "rs_mamba": rs_mamba.ENTRIES,
    "samba": samba.ENTRIES,
    "seg_lstm": seg_lstm.ENTRIES,
    "segman": segman.ENTRIES,
    "mamba_diffusion": mamba_diffusion.ENTRIES,
}


@dataclass(frozen=True)
class Card:
    """What is known of a family; all texts are Markdown.

    Attributes:
        family: Its key, as in ``Entry.family``.
        title: Its name.
        paper: Where it is published.
        code: The official code, and what its licence says.
        weights: Official weights: whether there are any, how to load them, under which licence.
        good_at: What it is for, and what it is not.
        inputs: What images it takes.
        parity: How near its numbers are to the official code's.
        scores_source: Where the official scores are from.
        scores: Official scores by architecture.
        notes: Further texts, each with its heading.
        differences: What of the official code was not copied.
        kept: What was, though one might not expect it.
    """

    family: str
    title: str
    paper: str
    code: str
    weights: str
    good_at: str
    inputs: str
    parity: str
    scores_source: str
    scores: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    differences: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    def texts(self) -> Iterator[tuple[str, str]]:
        """Headings and texts, in the order in which they are shown."""
        yield "Paper", self.paper
        yield "Official code", self.code
        yield "Good at", self.good_at
        yield "Inputs", self.inputs
        yield from self.notes.items()
        yield "Weights", self.weights
        yield "Same numbers", self.parity
        if self.scores_source:
            yield "Scores", self.scores_source


def families() -> list[str]:
    """Keys of the families, in the order of the cards."""
    return list(_ENTRIES)


def read_card(family: str) -> Card:
    """The card of a family.

    Args:
        family: A key from ``families``.
    """
    with (FOLDER / f"{family}.toml").open("rb") as source:
        content = tomllib.load(source)
    stripped: dict[str, Any] = {
        k: v.strip() if isinstance(v, str) else v for k, v in content.items()
    }
    for name in ("differences", "kept"):
        stripped[name] = tuple(text.strip() for text in stripped.get(name, ()))
    return Card(family=family, **stripped)


def read_measured() -> dict[str, dict[str, Any]]:
    """Figures by architecture.

    Returns:
        For each name ``parameters`` and, for sides as text, ``multiply_adds`` and ``bytes``.
    """
    if not MEASURED.exists():
        return {}
    table: dict[str, dict[str, Any]] = json.loads(MEASURED.read_text(encoding="utf-8"))
    return table


def costs(name: str) -> dict[str, str]:
    """Parameters, multiply-adds and memory of an architecture as texts; empty where unknown."""
    row = read_measured().get(name, {})
    found = {"parameters": _scaled(row.get("parameters"), 1e6, "M")}
    for side in SIDES:
        at = row.get(str(side), {})
        found[f"multiply-adds at {side}"] = _scaled(at.get("multiply_adds"), 1e9, "G")
        found[f"memory at {side}"] = _scaled(at.get("bytes"), 1e6, "MB")
    return found


def to_markdown(card: Card, *, table: bool = True) -> str:
    """A card as Markdown.

    Args:
        card: From ``read_card``.
        table: With the table of the family's architectures.
    """
    lines = [f"## {card.title}"]
    if table:
        lines += ["", *_table(card)]
    for heading, text in card.texts():
        lines += ["", f"**{heading}.** {text}"]
    for heading, texts in (("Not copied", card.differences), ("Kept", card.kept)):
        if texts:
            items = (text.replace("\n", "\n  ") for text in texts)
            lines += ["", f"**{heading}.**", "", *(f"- {item}" for item in items)]
    return "\n".join(lines) + "\n"


def into_readme(text: str) -> str:
    """A README with the cards between its markers, in place of what was there."""
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    cards = "\n".join(to_markdown(read_card(family)) for family in families())
    return f"{head}{BEGIN}\n\n{cards}\n{END}{tail}"


def _table(card: Card) -> Iterator[str]:
    names = [entry.name for entry in _ENTRIES[card.family]]
    numbers = list(costs(names[0]))
    yield _row(["architecture", *numbers, "official scores"])
    yield _row(["---", *("---:" for _ in numbers), "---"])
    for name in names:
        yield _row([f"`{name}`", *costs(name).values(), card.scores.get(name, "")])


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _scaled(value: float | None, unit: float, name: str) -> str:
    if value is None:
        return ""
    scaled = value / unit
    digits = 2 if scaled < 100 and name == "M" else 1 if scaled < 10 else 0
    return f"{scaled:,.{digits}f} {name}"
