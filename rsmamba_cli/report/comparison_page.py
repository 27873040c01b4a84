"""A comparison of two models or maps as one HTML file."""

from typing import TYPE_CHECKING

from rsmamba_cli.report.html import render

if TYPE_CHECKING:
    from rsmamba_cli.evaluation.results import Comparison

_PAGE = """{% extends "frame" %}{% import "parts" as parts %}{% block body %}
<p>First: {{ found.first }}<br>Second: {{ found.second }}</p>
{% for heading, each in (("Figures", false), ("Classes", true)) if not each or many %}
<h2>{{ heading }}</h2>
<table><tr><th>metric</th><th>first</th><th>second</th><th>difference</th><th>from</th><th>to</th>
<th>p</th></tr>
{% for name, d in found.differences.items() if ("/" in name) == each %}<tr><td>{{ name }}</td>
{%- for value in (d.first, d.second, d.second - d.first, d.low, d.high, d.p) %}
<td>{{ value | figure }}</td>{% endfor %}</tr>
{% endfor %}</table>{% endfor %}
<p>95 % intervals and p of the difference: {{ found.units }} units, drawn anew for both at once
(paired bootstrap). Of many figures, some differ by chance.</p>
<h2>What only one has right</h2>
<table><tr><th></th><th>first only</th><th>second only</th><th>p (McNemar)</th></tr>
<tr><td>pixels</td>{% for n in found.pixels_only %}<td>{{ "{:,}".format(n) }}</td>{% endfor %}
<td>{{ found.pixels_p | figure }}</td></tr>
{% if found.objects_only %}<tr><td>true objects found</td>
{%- for n in found.objects_only %}<td>{{ "{:,}".format(n) }}</td>{% endfor %}
<td>{{ found.objects_p | figure }}</td></tr>{% endif %}</table>
<p>The test of pixels is too sure: neighbours are not independent.</p>
{{ parts.notes(found.notes) }}
{% endblock %}
"""


def comparison_page(found: "Comparison", title: str) -> str:
    """Make the page; it needs no other file."""
    return render(_PAGE, title, found=found, many=any("/" in n for n in found.differences))
