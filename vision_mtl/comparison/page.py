"""A comparison as one page that needs nothing beside it."""

from __future__ import annotations

from collections.abc import Sequence

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from vision_mtl.comparison.results import Results
from vision_mtl.comparison.tables import Cells

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --soft: #59636e; --line: #d1d9e0; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14181d; --ink: #e6eaee; --soft: #9aa4ae; --line: #39424c; }
}
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif;
  margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }
h2 { margin-top: 2.5rem; }
.conclusion { font-size: 1.15rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .8rem; text-align: right; white-space: pre; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.words td, .words th { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.note { color: var(--soft); font-size: .9rem; }
.plot { background: #fff; border-radius: 6px; padding: .5rem; }
.plot svg { display: block; height: auto; max-width: 100%; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p class="conclusion">{{ results.summary.conclusion }}</p>
{% for table in tables %}
<h2>{{ table.title }}</h2>
{{ grid(table, "") }}
{% if loop.first %}<div class="plot">{{ svg }}</div>{% endif %}
{% endfor %}
{% for way in results.summary.together if way.conflicts %}
{% if loop.first %}<h2>how the heads pull the trunk</h2>{% endif %}
{% for sentence in way.conflicts %}<p>{{ way.name }}: {{ sentence }}</p>{% endfor %}
{% endfor %}
<h2>{{ runs.title }}</h2>
{% for command in results.commands %}<p><code>{{ command }}</code></p>{% endfor %}
<p>{{ how }}</p>
<p class="note">{{ results.machine }};
{% for name, version in results.versions.items() %}
{{ name }} {{ version }}{{ ", " if not loop.last }}
{% endfor %}
</p>
{{ grid(runs, "words") }}
</body>
</html>
"""

GRID = """{% macro grid(table, kind) %}
<div class="scroll"><table class="{{ kind }}">
<thead><tr>{% for column in table.columns %}<th>{{ column }}</th>{% endfor %}</tr></thead>
<tbody>
{% for row in table.rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{% if table.note %}<p class="note">{{ table.note }}</p>{% endif %}
{% endmacro %}
"""


def comparison_page(
    results: Results, title: str, how: str, tables: Sequence[Cells], runs: Cells, svg: str
) -> str:
    """Return the page; every name in it is escaped, and it loads nothing.

    Args:
        results: with a summary.
        title: of the page.
        how: the rules of the comparison, in words.
        tables: scores, then costs.
        runs: every run.
        svg: the plot, an `<svg>` element.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(GRID + PAGE)
    return template.render(results=results, title=title, how=how, tables=tables, runs=runs, svg=Markup(svg))
