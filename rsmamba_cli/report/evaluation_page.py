"""An evaluation as one HTML file: figures, confusion, calibration, and tiles with their errors."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rsmamba_cli.report.html import render

if TYPE_CHECKING:
    from rsmamba_cli.evaluation.results import EvalResult

_PAGE = """{% extends "frame" %}{% import "parts" as parts %}{% block body %}
<p>{{ "{:,}".format(result.pixels) }} pixels in {{ result.tiles }} image(s)
{%- if result.protocol %}; protocol: {{ result.protocol }}{% endif -%}
{%- if result.intervals %}; 95 % intervals from {{ result.units }} units{% endif %}.</p>
<table><tr><th>metric</th><th>value</th><th>from</th><th>to</th></tr>
{% for name, value in result.metrics.items() if "/" not in name %}<tr><td>{{ name }}</td>
<td>{{ value | figure }}</td>
{%- for end in result.intervals.get(name, ("", "")) %}<td>{{ end | figure }}</td>{% endfor %}</tr>
{% endfor %}</table>
{{ parts.class_scores(result) }}
{{ parts.confusion(result) }}
{% if bars %}<h2>Calibration</h2>
<p>How often the model is right (bars) where it is as sure as the axis says; on the line it would be
right as often as it says. Height and width are 0 to 1.</p>
<svg width="320" height="320" viewBox="0 0 1 1" role="img" aria-label="reliability diagram">
<rect width="1" height="1" fill="#f6f6f6"/>
{% for left, width, height in bars %}<rect x="{{ left }}" y="{{ 1 - height }}" width="{{ width }}"
 height="{{ height }}" fill="#4a7fc1" stroke="#fff" stroke-width=".004"/>
{% endfor %}<line x1="0" y1="1" x2="1" y2="0" stroke="#b33" stroke-width=".006"/></svg>{% endif %}
{{ parts.galleries(result) }}
{{ parts.notes(result.notes) }}
{% endblock %}
"""


def evaluation_page(result: "EvalResult", title: str) -> str:
    """Make the page; it needs no other file."""
    bars = [] if result.reliability is None else _bars(result.reliability)
    return render(_PAGE, title, result=result, bars=bars)


def _bars(bins: NDArray[np.float64]) -> list[tuple[float, float, float]]:
    """Left side, width and height of the bins that hold pixels."""
    count, _, right = bins
    width = 1 / len(count)
    return [(i * width, width, right[i] / count[i]) for i in np.flatnonzero(count).tolist()]
