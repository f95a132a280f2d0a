"""Numbers to tables that a person reads in a terminal or a log."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vision_mtl.metrics.classification import ClassRow, LabelRow
from vision_mtl.metrics.detection import ClassAP
from vision_mtl.metrics.operating_point import OperatingPoint

HEADLINES = ("mAP", "accuracy")


def heads_table(heads: dict[str, dict[str, float | None]], title: str | None = None) -> Table:
    """Return one row per head: mAP beside accuracy, and whatever else the head measures after them.

    Args:
        heads: head name -> metric name -> value, None where nothing defines it.
    """
    table = _table(title)
    table.add_column("head", no_wrap=True)
    for name in HEADLINES:
        table.add_column(name, justify="right", no_wrap=True, style="bold")
    table.add_column("more", ratio=1)
    for head, metrics in heads.items():
        # No space inside a pair, so that a line never breaks between a name and its value.
        more = "  ".join(f"{name}={_cell(value)}" for name, value in metrics.items() if name not in HEADLINES)
        headlines = (_cell(metrics.get(name)) for name in HEADLINES)
        table.add_row(Text(head), *headlines, Text(more))
    return table


def per_class_table(
    rows: Sequence[ClassAP] | Sequence[ClassRow] | Sequence[LabelRow] | Sequence[OperatingPoint],
    sort: str = "ap",
    title: str | None = None,
) -> Table:
    """Return one row per class and one column per field, sorted by the field `sort`.

    Names rise, numbers fall, and None comes last; equal ones keep their order.
    """
    table = _table(title)
    for field in rows[0]._fields if rows else ():
        table.add_column(field.replace("_", " "), justify="left" if field == "name" else "right")
    for row in sorted(rows, key=lambda row: _sort_key(getattr(row, sort))):
        table.add_row(*(Text(_cell(value)) for value in row))
    return table


def text(table: Table, width: int = 100) -> str:
    """Return the table as plain text, at most `width` characters wide."""
    output = io.StringIO()
    Console(file=output, width=width, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in output.getvalue().splitlines())


def _table(title: str | None) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)


def _cell(value: str | float | None) -> str:
    """Return a name or a count as it is, a measure to four decimals, None as a dash."""
    if value is None:
        return "\N{EN DASH}"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _sort_key(value: str | float | None) -> tuple[bool, str | float]:
    if value is None:
        return True, 0
    return False, value if isinstance(value, str) else -value
