"""The questions of a quick start: `--labels` and annotations to heads."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from vision_mtl.data.annotations import AnnotationIndex
from vision_mtl.data.image_labels import Value, read_values, several, shortened
from vision_mtl.data.label_csv import column_names
from vision_mtl.data.label_kinds import SHOWN, asked_by
from vision_mtl.data.labels import LabelSource
from vision_mtl.data.layout import path_in
from vision_mtl.errors import ConfigError, nearest

ATTRIBUTE = "attribute"


class Question(NamedTuple):
    """One head that is proposed.

    Attributes:
        name: of the head.
        head: its settings.
        note: why, in words.
        labels: per image of the training file the classes that a split should have on both sides.
    """

    name: str
    head: dict[str, Any]
    note: str
    labels: list[list[str]]


def propose_heads(index: AnnotationIndex, root: Path, labels: Sequence[str]) -> list[Question]:
    """Return a detection head where there are boxes, and one head for each of `labels`.

    Args:
        index: the annotations that are trained on.
        root: the folder of the data set, where csv files may lie too.
        labels: `FILE:column`, `FILE` where the file has one column beside `file_name`, or `attribute:field`.

    Raises:
        ConfigError: nothing to learn, a file or column that is not there, or labels of which nothing can be
            learned.
        DataError: a csv file that cannot be read, or that no image is in.
    """
    questions = []
    rows, objects = index.all_objects()
    if len(rows):
        categories = [category.name for category in index.categories]
        present: list[list[str]] = [[] for _ in range(len(index))]
        for row, place in zip(rows.tolist(), objects.classes.tolist(), strict=True):
            present[row].append(categories[place])
        note = f"{len(rows):,} boxes of {len(categories)} categories: {shortened(categories, SHOWN)}"
        questions.append(Question("objects", {"type": "fcos"}, note, present))
    for text in labels:
        questions.append(_question(text, index, root, [question.name for question in questions]))
    if not questions:
        raise ConfigError(
            f"{index.path}: found no boxes, and no --labels were given, so there is nothing to learn; "
            f"{unasked(index, root, labels) or 'give --labels FILE.csv:column'}"
        )
    return questions


def unasked(index: AnnotationIndex, root: Path, labels: Sequence[str]) -> str:
    """Return which labels there are that were not asked for, or an empty text."""
    known = [f"{ATTRIBUTE}:{field}" for field in index.attribute_fields]
    known += sorted(path.name for path in root.glob("*.csv"))
    left = [name for name in known if not any(f"{text}:".startswith(f"{name}:") for text in labels)]
    return f"there are also --labels {', '.join(left[:6])}" if left else ""


def _question(text: str, index: AnnotationIndex, root: Path, taken: Collection[str]) -> Question:
    """Return the head for one `--labels`."""
    where, column = _source(text, index, root)
    values = _values(where, index, root)
    try:
        asked = asked_by(values)
    except ValueError as error:
        raise ConfigError(f"--labels {text}: {error}; correct the labels, or leave them out") from error
    head: dict[str, Any] = {"type": asked.kind, **where}
    if asked.kind == "classification" and "objects" in taken:
        head["pool"] = "attention"  # the label may be about something small
    classes: list[list[str]] = [[] for _ in values]
    if asked.kind != "regression":
        classes = [_classes(value) for value in values]
    name = _head_name(column, taken)
    unknown = sum(value is None or value == "" for value in values)
    missing = f"; {unknown} of {len(values)} images have no label" if unknown else ""
    return Question(name, head, f"{asked.reason}{missing}", [[f"{name} {c}" for c in own] for own in classes])


def _source(text: str, index: AnnotationIndex, root: Path) -> tuple[dict[str, Any], str]:
    """Return the head's keys that name its labels, and the field's or column's name."""
    if text.startswith(f"{ATTRIBUTE}:"):
        field = text.removeprefix(f"{ATTRIBUTE}:")
        if field not in index.attribute_fields:
            known = ", ".join(index.attribute_fields) or "none"
            raise ConfigError(
                f"--labels {text}: no image of {index.path} has the attribute '{field}'"
                f"{nearest(field, index.attribute_fields) or '.'} Known attributes: {known}"
            )
        return {"source": "attribute", "field": field}, field
    name, _, column = text.rpartition(":")
    if not name or _find(text, root):
        name, column = text, ""
    file = _find(name, root)
    if file is None:
        csv = ", ".join(sorted(path.name for path in root.glob("*.csv"))) or "no csv file"
        raise ConfigError(
            f"--labels {text}: no file '{name}', here or in '{root}', which holds {csv}. Expected "
            f"FILE.csv:column, or {ATTRIBUTE}:field for images[].attributes.field of the annotations"
        )
    columns = column_names(file)
    if not column and len(columns) == 1:
        (column,) = columns
    if column not in columns:
        found = f"no column '{column}'{nearest(column, columns)}" if column else "found no column"
        raise ConfigError(
            f"--labels {text}: {found}; name one as {name}:COLUMN. Columns of {file}: "
            f"{', '.join(columns) or 'none'}"
        )
    return {"source": "csv", "file": path_in(root, file), "column": column}, column


def _find(name: str, root: Path) -> Path | None:
    """Return the file of this name, from here or in the data set's folder."""
    return next((path for path in (Path(name), root / name) if path.is_file()), None)


def _values(where: dict[str, Any], index: AnnotationIndex, root: Path) -> list[Value]:
    """Return the labels of all images as they are written."""
    if where["source"] == "attribute":
        return list(index.attribute(where["field"]))
    return read_values(where["column"], LabelSource(kind="single", **where), index, root)


def _classes(value: Value) -> list[str]:
    if isinstance(value, list):
        return value
    return several(str(value)) if value is not None else []


def _head_name(column: str, taken: Collection[str]) -> str:
    """Return a name that a head can have, for a column of any name."""
    name = re.sub(r"\W+", "_", column).strip("_") or "label"
    if not name.isidentifier():
        name = f"label_{name}"
    while name in taken or name == "objects" or hasattr(nn.ModuleDict(), name):
        name += "_label"
    return name
