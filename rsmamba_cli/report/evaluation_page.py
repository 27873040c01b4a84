"""An evaluation as one HTML file: figures, confusion, calibration, and tiles with their errors."""

import base64
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment
from numpy.typing import NDArray
from PIL import Image

if TYPE_CHECKING:
    from rsmamba_cli.evaluation.results import EvalResult, Shown

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; color: #222 }
table { border-collapse: collapse; margin: .5rem 0 1.5rem }
th, td { padding: .2rem .7rem; border-bottom: 1px solid #ddd; text-align: right }
th:first-child, td:first-child { text-align: left }
figure { margin: 0 0 1rem } img { max-width: 100% } figcaption { color: #555 }
</style></head><body>
<h1>{{ title }}</h1>
<p>{{ "{:,}".format(result.pixels) }} pixels in {{ result.tiles }} image(s)
{%- if result.protocol %}; protocol: {{ result.protocol }}{% endif -%}
{%- if result.intervals %}; 95 % intervals from {{ result.units }} units{% endif %}.</p>
<table><tr><th>metric</th><th>value</th><th>from</th><th>to</th></tr>
{% for name, value in overall %}<tr><td>{{ name }}</td><td>{{ number(value) }}</td>
{%- for end in result.intervals.get(name, ("", "")) %}<td>{{ number(end) }}</td>{% endfor %}</tr>
{% endfor %}</table>
{% if classes %}<h2>Classes</h2>
<table><tr><th>class</th>{% for score in scores %}<th>{{ score }}</th>{% endfor %}</tr>
{% for label in result.class_names %}<tr><td>{{ label }}</td>
{%- for score in scores %}<td>{{ number(result.metrics[score ~ "/" ~ label]) }}</td>
{%- endfor %}</tr>
{% endfor %}</table>{% endif %}
<h2>Confusion</h2>
<p>Pixels; rows are the truth. The darker, the larger the share of the row.</p>
<table><tr><th>truth \\ prediction</th>
{%- for label in result.class_names %}<th>{{ label }}</th>{% endfor %}</tr>
{% for label, row in confusion %}<tr><td>{{ label }}</td>
{%- for count, share in row %}<td style="background: rgba(40, 110, 200, {{ "%.2f" % share }})">
{{- "{:,}".format(count) }}</td>{% endfor %}</tr>
{% endfor %}</table>
{% if bars %}<h2>Calibration</h2>
<p>How often the model is right (bars) where it is as sure as the axis says; on the line it would be
right as often as it says. Height and width are 0 to 1.</p>
<svg width="320" height="320" viewBox="0 0 1 1" role="img" aria-label="reliability diagram">
<rect width="1" height="1" fill="#f6f6f6"/>
{% for left, width, height in bars %}<rect x="{{ left }}" y="{{ 1 - height }}" width="{{ width }}"
 height="{{ height }}" fill="#4a7fc1" stroke="#fff" stroke-width=".004"/>
{% endfor %}<line x1="0" y1="1" x2="1" y2="0" stroke="#b33" stroke-width=".006"/></svg>{% endif %}
{% for heading, pictures in galleries if pictures %}
<h2>{{ heading }}</h2>
<p>Image(s), truth, prediction, errors{% if binary %} (blue: missed, red: too much){% endif %}.</p>
{% for stem, wrong, data in pictures %}<figure><img alt="{{ stem }}"
 src="data:image/png;base64,{{ data }}">
<figcaption>{{ stem }}: {{ "%.1f" % (100 * wrong) }} % of the pixels wrong</figcaption></figure>
{% endfor %}{% endfor %}
{% if result.notes %}<h2>Notes</h2><ul>
{% for note in result.notes %}<li>{{ note }}</li>{% endfor %}
</ul>{% endif %}
</body></html>
"""

_SCORES = ("precision", "recall", "f1", "iou", "boundary_iou", "area_bias")


def evaluation_page(result: "EvalResult", title: str) -> str:
    """Make the page; it needs no other file."""
    confusion = result.confusion
    totals = np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    rows = [
        list(zip(counts, shares, strict=True))
        for counts, shares in zip(confusion.tolist(), (confusion / totals).tolist(), strict=True)
    ]
    scores = [s for s in _SCORES if f"{s}/{result.class_names[0]}" in result.metrics]
    template = Environment(autoescape=True).from_string(_PAGE)
    return template.render(
        title=title,
        result=result,
        overall=[item for item in result.metrics.items() if "/" not in item[0]],
        classes=bool(scores),
        scores=scores,
        confusion=list(zip(result.class_names, rows, strict=True)),
        bars=[] if result.reliability is None else _bars(result.reliability),
        galleries=[
            ("Worst tiles", _pictures(result.worst)),
            ("Random tiles", _pictures(result.random)),
        ],
        binary=len(result.class_names) == 2,
        number=_number,
    )


def _number(value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.4f}" if math.isfinite(value) else "undefined"


def _bars(bins: NDArray[np.float64]) -> list[tuple[float, float, float]]:
    """Left side, width and height of the bins that hold pixels."""
    count, _, right = bins
    width = 1 / len(count)
    return [(i * width, width, right[i] / count[i]) for i in np.flatnonzero(count).tolist()]


def _pictures(shown: "Sequence[Shown]") -> list[tuple[str, float, str]]:
    """Name, share of wrong pixels and PNG (base64) of every tile."""
    out = []
    for tile in shown:
        buffer = io.BytesIO()
        Image.fromarray(tile.picture).save(buffer, format="PNG")
        out.append((tile.stem, tile.wrong, base64.b64encode(buffer.getvalue()).decode()))
    return out
