"""What HTML pages share: one self-contained file each, its tables, its charts, its pictures."""

import base64
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import DictLoader, Environment, StrictUndefined
from PIL import Image

if TYPE_CHECKING:
    from rsmamba_cli.evaluation.results import EvalResult, Shown

_FRAME = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; color: #222 }
table { border-collapse: collapse; margin: .5rem 0 1.5rem }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, td:first-child { text-align: left }
figure { margin: 0 0 1rem } img { max-width: 100% } figcaption { color: #555 }
pre { background: #f4f4f4; padding: .6rem .8rem; overflow-x: auto }
svg text { font: 11px system-ui, sans-serif; fill: #555 }
.charts { display: flex; flex-wrap: wrap; gap: 1rem }
</style></head><body>
<h1>{{ title }}</h1>
{% block body %}{% endblock %}
</body></html>
"""

_PARTS = """
{% macro table(header, rows) %}<table>
<tr>{% for name in header %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>{% endmacro %}

{% macro class_scores(result) %}{% set scores = result | scores_of %}{% if scores %}
<h2>Classes</h2>
<table><tr><th>class</th>{% for score in scores %}<th>{{ score }}</th>{% endfor %}</tr>
{% for label in result.class_names %}<tr><td>{{ label }}</td>
{%- for score in scores %}<td>{{ result.metrics[score ~ "/" ~ label] | figure }}</td>
{%- endfor %}</tr>
{% endfor %}</table>{% endif %}{% endmacro %}

{% macro confusion(result) %}<h2>Confusion</h2>
<p>Pixels; rows are the truth. The darker, the larger the share of the row.</p>
<table><tr><th>truth \\ prediction</th>
{%- for label in result.class_names %}<th>{{ label }}</th>{% endfor %}</tr>
{% for label, row in result | shares_of_rows %}<tr><td>{{ label }}</td>
{%- for count, share in row %}<td style="background: rgba(40, 110, 200, {{ "%.2f" % share }})">
{{- "{:,}".format(count) }}</td>{% endfor %}</tr>
{% endfor %}</table>{% endmacro %}

{% macro galleries(result) %}
{% for heading, shown in (("Worst tiles", result.worst), ("Random tiles", result.random))
 if shown %}
<h2>{{ heading }}</h2>
<p>Image(s) where there are any, truth, prediction, errors
{%- if result.class_names | length == 2 %} (blue: missed, red: too much){% endif %}.</p>
{% for stem, wrong, data in shown | encoded %}<figure><img alt="{{ stem }}"
 src="data:image/png;base64,{{ data }}">
<figcaption>{{ stem }}: {{ "%.1f" % (100 * wrong) }} % of the pixels wrong</figcaption></figure>
{% endfor %}{% endfor %}{% endmacro %}

{% macro notes(lines) %}{% if lines %}<h2>Notes</h2><ul>
{% for line in lines %}<li>{{ line }}</li>{% endfor %}
</ul>{% endif %}{% endmacro %}

{% macro drawn(chart) %}<figure><figcaption>{{ chart.title }}
{%- for line in chart.lines if chart.lines | length > 1 %}
<span style="color: {{ line.color }}">&#9632;</span> {{ line.name }}{% endfor %}</figcaption>
<svg width="{{ chart.width }}" height="{{ chart.height }}" role="img"
 aria-label="{{ chart.title }}">
{% for at, label in chart.rows %}<line x1="{{ chart.left }}" x2="{{ chart.right }}" y1="{{ at }}"
 y2="{{ at }}" stroke="#ddd"/><text x="{{ chart.left - 6 }}" y="{{ at + 4 }}"
 text-anchor="end">{{ label }}</text>
{% endfor %}{% for at, label in chart.columns %}<text x="{{ at }}" y="{{ chart.height - 6 }}"
 text-anchor="middle">{{ label }}</text>
{% endfor %}{% for line in chart.lines %}<polyline points="{{ line.points }}" fill="none"
 stroke="{{ line.color }}" stroke-width="1.8" stroke-linecap="round" stroke-linejoin="round"/>
{% endfor %}</svg></figure>{% endmacro %}
"""

_SCORES = ("precision", "recall", "f1", "iou", "boundary_iou", "area_bias")


def render(page: str, title: str, **values: Any) -> str:
    """Fill in a page.

    Args:
        page: a Jinja template that extends "frame"; macros are in "parts".
        title: of the page.
        **values: what the template names; text is escaped.
    """
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        loader=DictLoader({"frame": _FRAME, "parts": _PARTS}),
    )
    environment.filters |= {
        "encoded": _encoded,
        "figure": figure,
        "scores_of": _scores_of,
        "shares_of_rows": _shares_of_rows,
    }
    return environment.from_string(page).render(title=title, **values)


def figure(value: Any) -> str:
    """A number with four places; text as it is."""
    if isinstance(value, str):
        return value
    return f"{value:.4f}" if math.isfinite(value) else "undefined"


def _scores_of(result: "EvalResult") -> list[str]:
    """The scores that an evaluation has of every class."""
    return [s for s in _SCORES if f"{s}/{result.class_names[0]}" in result.metrics]


def _shares_of_rows(result: "EvalResult") -> list[tuple[str, list[tuple[int, float]]]]:
    """Class, and the pixels and shares of its row of the confusion matrix."""
    counts = result.confusion
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    rows = [
        list(zip(row, part, strict=True))
        for row, part in zip(counts.tolist(), shares.tolist(), strict=True)
    ]
    return list(zip(result.class_names, rows, strict=True))


def _encoded(shown: "Sequence[Shown]") -> list[tuple[str, float, str]]:
    """Name, share of wrong pixels and PNG (base64) of every tile."""
    out = []
    for tile in shown:
        buffer = io.BytesIO()
        Image.fromarray(tile.picture).save(buffer, format="PNG")
        out.append((tile.stem, tile.wrong, base64.b64encode(buffer.getvalue()).decode()))
    return out
