"""One column of a csv file -> one label per image, matched by file name."""

from __future__ import annotations

import csv
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vision_mtl.errors import DataError, nearest

FLOAT32_MAX = float(np.finfo(np.float32).max)

logger = logging.getLogger(__name__)


def read_column(
    head: str, file: Path, column: str, names: Sequence[str], numbers: bool
) -> list[str | None] | list[float | None]:
    """Return the cell per image, None where there is no row or the cell is empty.

    Rows of other images are ignored: one file may serve several splits.

    Args:
        head: the head's name, for messages.
        file: UTF-8, with a header that has `file_name` and `column`.
        column: the column to read.
        names: the images' file names, as the annotation file has them.
        numbers: whether cells are numbers rather than text.

    Raises:
        DataError: names the file and the lines.
    """
    place = f"{file}: head '{head}'"
    cells = _cells(place, file, column, set(names))
    if not cells:
        raise DataError(
            f"{place}: no row matches any of the {len(names)} images, whose file names look like "
            f"{', '.join(names[:3])}. Write file_name as the annotation file does; if these images are not "
            "about the head, leave the head out of the source's `heads`."
        )
    without_row = sum(name not in cells for name in names)
    if without_row:
        logger.warning(
            "%s: %d of %d images have no row, their label is unknown", place, without_row, len(names)
        )
    if not numbers:
        return [cells[name][0] or None if name in cells else None for name in names]
    values = {name: _number(cell) for name, (cell, _) in cells.items()}
    wrong = [(line, cell) for name, (cell, line) in cells.items() if cell and values[name] is None]
    if wrong:
        lines = ", ".join(f"line {line} ({cell!r})" for line, cell in wrong[:10])
        raise DataError(
            f"{place}: {len(wrong)} cells of column '{column}' are neither finite numbers nor empty: {lines}"
        )
    return [values.get(name) for name in names]


def column_names(file: Path) -> list[str]:
    """Return the columns that a file has beside `file_name`.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            header = [name.strip() for name in next(csv.reader(stream, strict=True), [])]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: cannot read the header ({error}); expected a csv file in UTF-8") from error
    return [name for name in header if name != "file_name"]


def has_rows(head: str, file: Path, column: str, names: Sequence[str]) -> bool:
    """Return whether the file has a row for any of the images; arguments and errors as for `read_column`."""
    return bool(_cells(f"{file}: head '{head}'", file, column, set(names)))


def _cells(place: str, file: Path, column: str, wanted: set[str]) -> dict[str, tuple[str, int]]:
    """Return file name -> (cell, line) for the images of `wanted`."""
    cells: dict[str, tuple[str, int]] = {}
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.reader(stream, strict=True)
            header = [name.strip() for name in next(rows, [])]
            for name in ("file_name", column):
                if name not in header:
                    raise DataError(
                        f"{place}: no column '{name}'{nearest(name, header) or '.'} "
                        f"The header is: {', '.join(header) or 'empty'}"
                    )
            name_at, cell_at = header.index("file_name"), header.index(column)
            for row in rows:
                if not row:
                    continue
                if len(row) != len(header):
                    raise DataError(
                        f"{place}: line {rows.line_num}: {len(row)} cells, the header has {len(header)}"
                    )
                name, cell = row[name_at].strip(), row[cell_at].strip()
                if name not in wanted:
                    continue
                first, line = cells.setdefault(name, (cell, rows.line_num))
                if first != cell:
                    raise DataError(
                        f"{place}: '{name}' has two labels in column '{column}': {first!r} in line {line}, "
                        f"{cell!r} in line {rows.line_num}. Keep one row per image."
                    )
    except OSError as error:
        raise DataError(f"{place}: cannot read the labels ({error.strerror}). Check `file`.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{place}: not UTF-8 ({error}). Save the file as UTF-8.") from error
    except csv.Error as error:
        raise DataError(f"{place}: line {rows.line_num}: not valid csv ({error})") from error
    return cells


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if abs(value) <= FLOAT32_MAX else None
