"""A training run as one HTML file: what came out, how to go on, data, curves, errors, settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rsmamba_cli.report.charts import Chart, draw_chart
from rsmamba_cli.report.html import figure, render

if TYPE_CHECKING:
    from rsmamba_cli.evaluation.results import EvalResult

_PAGE = """{% extends "frame" %}{% import "parts" as parts %}{% block body %}
<p>{{ run.status }}</p>
<table>{% for name, value in run.facts.items() %}<tr><td>{{ name }}</td><td>{{ value }}</td></tr>
{% endfor %}</table>
<h2>How to go on</h2>
{% for purpose, command in run.commands %}<p>{{ purpose }}</p><pre>{{ command }}</pre>
{% endfor %}
<h2>Data</h2>
{% for header, rows in run.data %}{{ parts.table(header, rows) }}{% endfor %}
{% if charts %}<h2>Curves</h2>
<p>Over steps.</p>
<div class="charts">{% for chart in charts %}{{ parts.drawn(chart) }}{% endfor %}</div>{% endif %}
{% if run.validation %}<h2>Latest validation</h2>
<p>{{ "{:,}".format(run.validation.pixels) }} pixels in {{ run.validation.tiles }} tile(s) at step
{{ run.measured_at }}.</p>
{{ parts.table(("metric", "value"), overall) }}
{{ parts.class_scores(run.validation) }}
{{ parts.confusion(run.validation) }}
{{ parts.galleries(run.validation) }}{% endif %}
{{ parts.notes(run.notes) }}
<h2>Settings</h2>
{% if run.settings %}<p>Those that differ from the defaults:</p>
{{ parts.table(("setting", "value", "default"), run.settings) }}{% endif %}
<details><summary>The complete recipe</summary><pre>{{ run.recipe }}</pre></details>
{% endblock %}
"""

_NO_SHARES = frozenset({"val_nll", "val_area_bias"})
_LEFT_OUT = frozenset({"step", "epoch", "seconds", "lr", "loss", "grad_norm"})

Table = tuple[Sequence[str], Sequence[Sequence[str]]]
"""Header and rows."""


@dataclass(frozen=True)
class RunReport:
    """What the page tells of a run.

    Attributes:
        title: of the page.
        status: how far the run is, a sentence or two.
        facts: name -> what came of it.
        commands: what for, and a command line.
        data: tables of what was learnt from.
        records: the lines of the log.
        settings: name, value and default of those that differ.
        recipe: all settings.
        validation: the latest one of a model that labels pixels.
        measured_at: the step of it.
        notes: what a reader should know of the data.
    """

    title: str
    status: str
    facts: Mapping[str, str]
    commands: Sequence[tuple[str, str]]
    data: Sequence[Table]
    records: Sequence[Mapping[str, Any]]
    settings: Sequence[tuple[str, str, str]]
    recipe: str
    validation: "EvalResult | None" = None
    measured_at: int = 0
    notes: Sequence[str] = ()


def training_page(run: RunReport) -> str:
    """Make the page; it needs no other file."""
    metrics = {} if run.validation is None else run.validation.metrics
    return render(
        _PAGE,
        run.title,
        run=run,
        charts=_charts(run.records),
        overall=[(k, figure(v)) for k, v in metrics.items() if "/" not in k],
    )


def _charts(records: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Loss, its terms, scores, and what shows whether training is stable."""
    names = dict.fromkeys(name for record in records for name in record)
    scores = [n for n in names if n.startswith("val_") and "/" not in n and n not in _NO_SHARES]
    terms = [n for n in names if n not in _LEFT_OUT and not n.startswith("val_")]
    wanted = {
        "Loss": {"loss": "training", **({n: n for n in terms if len(terms) > 1})},
        "Scores on the validation split": {n: n.removeprefix("val_") for n in scores[:6]},
        "-log p of the true class, validation": {"val_nll": ""},
        "Learning rate": {"lr": ""},
        "Norm of the gradient": {"grad_norm": ""},
    }
    charts = []
    for title, chosen in wanted.items():
        series = {
            label: [(r["step"], r[name]) for r in records if r.get(name) is not None]
            for name, label in chosen.items()
        }
        charts.append(draw_chart(title, series))
    return [chart for chart in charts if chart is not None]
