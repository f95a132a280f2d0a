"""What the report shows, before it is drawn: each figure's data, and the same as JSON and as CSV.

Every figure has `key`, its file name without ending; `title`; `note`, a sentence below it. Values that
nothing defines are None, in JSON null, in CSV empty.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

SHOWN_BARS = 30
Value = str | int | float | None


@dataclass(frozen=True)
class Curve:
    """One named line through points (x, y); at a y of None it breaks."""

    name: str
    x: Sequence[float]
    y: Sequence[float | None]


@dataclass(frozen=True)
class Curves:
    """Lines over a common axis.

    Attributes:
        x_label: what x is.
        y_label: what y is.
        curves: the lines; without any there is nothing to draw.
        y_range: fixed ends of the y axis; None for what the values need.
        x_range: the same for x.
        log_y: a logarithmic y axis; all values are then above 0.
        diagonal: also draw y = x, where a perfect answer lies.
        zero: also draw y = 0.
    """

    key: str
    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    y_range: tuple[float, float] | None = None
    x_range: tuple[float, float] | None = None
    log_y: bool = False
    diagonal: bool = False
    zero: bool = False
    note: str = ""

    def table(self) -> tuple[list[str], list[list[Value]]]:
        """Return column names and rows: one row per point."""
        rows: list[list[Value]] = []
        for curve in self.curves:
            rows += [[curve.name, x, y] for x, y in zip(curve.x, curve.y, strict=True)]
        return ["series", self.x_label, self.y_label], rows


@dataclass(frozen=True)
class Bars:
    """A horizontal bar for each name, or several.

    Attributes:
        names: N names.
        series: name of the series -> N values, at least 0.
        limit: the end of the axis; None for the largest value.
        shown: how many are drawn at most, the first ones; files have all.
    """

    key: str
    title: str
    names: Sequence[str]
    series: dict[str, Sequence[float | None]]
    limit: float | None = None
    shown: int = SHOWN_BARS
    note: str = ""

    def table(self) -> tuple[list[str], list[list[Value]]]:
        """Return column names and rows: one row per name."""
        rows: list[list[Value]] = [
            [name, *(values[i] for values in self.series.values())] for i, name in enumerate(self.names)
        ]
        return ["name", *self.series], rows


@dataclass(frozen=True)
class Points:
    """Predicted against true numbers, one point per image, with the line where both are equal."""

    key: str
    title: str
    true: Sequence[float]
    predicted: Sequence[float]
    note: str = ""

    def table(self) -> tuple[list[str], list[list[Value]]]:
        """Return column names and rows: one row per point."""
        return ["true", "predicted"], [list(pair) for pair in zip(self.true, self.predicted, strict=True)]


@dataclass(frozen=True)
class Matrix:
    """Counts of what is true (rows) against what was answered (columns)."""

    key: str
    title: str
    rows: Sequence[str]
    columns: Sequence[str]
    counts: Sequence[Sequence[int]]
    note: str = ""

    def table(self) -> tuple[list[str], list[list[Value]]]:
        """Return column names and rows: the matrix, its row names first."""
        return ["true \\ predicted", *self.columns], [
            [name, *counts] for name, counts in zip(self.rows, self.counts, strict=True)
        ]


@dataclass(frozen=True)
class Table:
    """Rows of values; it is shown as text.

    Attributes:
        columns: their names.
        cells: the rows.
        bars: names of columns in [0, 1] that are shown as bars too.
    """

    key: str
    title: str
    columns: Sequence[str]
    cells: Sequence[Sequence[Value]]
    bars: Sequence[str] = ()
    note: str = ""

    def table(self) -> tuple[list[str], list[list[Value]]]:
        """Return column names and rows."""
        return list(self.columns), [list(row) for row in self.cells]


Figure = Curves | Bars | Points | Matrix | Table


@dataclass(frozen=True)
class Section:
    """Figures that belong together, under a heading of the page; `anchor` is the heading's id:
    a head's name, or a word with a hyphen, which no head's name has."""

    anchor: str
    title: str
    figures: Sequence[Figure]
    note: str = ""


def as_json(figure: Figure) -> dict[str, Any]:
    """Return the figure's data, ready for JSON."""
    columns, rows = figure.table()
    return {"title": figure.title, "columns": columns, "rows": rows, "note": figure.note}


def as_csv(figure: Figure) -> str:
    """Return the figure's data as CSV with a header.

    A text that a spreadsheet would take for a formula gets an apostrophe before it.
    """
    output = io.StringIO()
    writer = csv.writer(output, lineterminator="\n")
    columns, rows = figure.table()
    writer.writerow([_harmless(name) for name in columns])
    writer.writerows([_harmless(value) for value in row] for row in rows)
    return output.getvalue()


def _harmless(value: Value) -> Value:
    risky = isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r")
    return f"'{value}" if risky else value
