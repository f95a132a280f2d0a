"""Sections to one HTML file that loads nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from vision_mtl.reporting.report.charts import draw
from vision_mtl.reporting.report.figures import Figure, Section, Table, Value
from vision_mtl.reporting.report.provenance import Provenance
from vision_mtl.reporting.report.summary import Cell, HeadRow

SHOWN_ROWS = 500  # of a table in the page; files have all


def report_page(
    title: str,
    subtitle: str,
    rows: Sequence[HeadRow],
    compared: str | None,
    sections: Sequence[Section],
    data: Section,
    gallery: Mapping[str, Any],
    origin: Provenance,
) -> str:
    """Return the page; every name in it is escaped.

    Args:
        title: of the page.
        subtitle: a sentence below it.
        rows: of the table of heads.
        compared: what the changes are against; None for no changes.
        sections: figures under headings, in order.
        data: the one that comes after the gallery.
        gallery: as `gallery` returns it.
        origin: how to make the numbers again.
    """
    environment = Environment(
        loader=PackageLoader("vision_mtl.reporting.report", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = _cell
    return environment.get_template("report.html").render(
        title=title,
        subtitle=subtitle,
        rows=rows,
        compared=compared,
        sections=sections,
        data=data,
        gallery=script_json(gallery),
        shown_images=len(gallery["images"]),
        origin=origin,
        picture=_picture,
        shown_change=_change,
        is_table=lambda figure: isinstance(figure, Table),
        is_number=lambda value: isinstance(value, int | float),
        shown_rows=SHOWN_ROWS,
        style=_asset(environment, "report.css"),
        script=_asset(environment, "report.js"),
    )


def script_json(content: Any) -> Markup:
    """Return JSON that stands safely inside a `<script>` element: no text in it can end it."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)  # ASCII, with escaped surrogates
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _picture(figure: Figure) -> Markup | None:
    canvas = draw(figure)
    return None if canvas is None else Markup(canvas.page_svg(figure.title))


def _asset(environment: Environment, name: str) -> Markup:
    """Return a template file as it is: our own style sheet or script."""
    assert environment.loader is not None
    return Markup(environment.loader.get_source(environment, name)[0])


def _change(cell: Cell) -> str:
    """Return how far a metric moved, as precise as it is shown itself; empty where that shows nothing."""
    assert cell.change is not None
    text = f"{abs(cell.change):.3f}" if isinstance(cell.value, float) else f"{abs(cell.change):g}"
    return "" if float(text) == 0 else text


def _cell(value: Value) -> str:
    """Return a name or a count as it is, a measure to three decimals, None as a dash."""
    if value is None:
        return "\N{EN DASH}"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
