"""Labels of the whole image: what an attribute or a csv file says, grouped and turned into targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vision_mtl.data.annotations import AnnotationIndex
from vision_mtl.data.coco_json import listed
from vision_mtl.data.label_csv import FLOAT32_MAX, has_rows, read_column
from vision_mtl.errors import ConfigError, DataError, nearest

if TYPE_CHECKING:
    from vision_mtl.data.labels import LabelSource

Value = str | int | float | bool | list[str] | None


def can_answer(head: str, source: LabelSource, index: AnnotationIndex, root: Path) -> bool:
    """Return whether any image of the file has the attribute, or a row in the csv file.

    Raises:
        DataError: the csv file cannot be read.
    """
    if source.source == "csv":
        return has_rows(head, root / str(source.file), str(source.column), _file_names(index))
    return source.field in index.attribute_fields


def read_values(head: str, source: LabelSource, index: AnnotationIndex, root: Path) -> list[Value]:
    """Return the label per image as it is written, None where it is unknown.

    Raises:
        DataError: labels that are missing, contradictory or of the wrong type.
    """
    if source.source == "attribute":
        return _attribute(head, str(source.field), source.kind, index)
    names = _file_names(index)
    numbers = source.kind == "scalar"
    cells = read_column(head, root / str(source.file), str(source.column), names, numbers)
    if source.kind != "several":
        return list(cells)
    return [several(cell) if isinstance(cell, str) else cell for cell in cells]


def several(cell: str) -> list[str]:
    """Return the labels of a csv cell that holds any number of them, with `|` between."""
    return [part.strip() for part in cell.split("|") if part.strip()]


def image_targets(
    head: str,
    source: LabelSource,
    place: str,
    values: Sequence[Sequence[Value]],
    vocabulary: tuple[str, ...] | None,
) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """Return a head's class names, () for numbers, and the targets of each file; see `HeadLabels`.

    Args:
        head: the head's name, for messages.
        source: what the values mean.
        place: the files, for messages.
        values: for each file those of `read_values`.
        vocabulary: the class names seen in training; None at training: those of the groups, or all values,
            sorted.

    Raises:
        ConfigError: a group's value that no image has.
        DataError: labels that are not in `vocabulary`, or none at all.
    """
    if source.kind == "scalar":
        numbers = [[np.nan if value is None else value for value in part] for part in values]
        return (), [np.array(part, np.float32) for part in numbers]
    if source.kind == "single":
        texts = [[None if value is None else str(value) for value in part] for part in values]
        if source.groups is not None:
            texts = _grouped(head, _group_of(source.groups), texts, at_training=vocabulary is None)
        found = sorted({text for part in texts for text in part if text is not None})
        vocabulary = checked_vocabulary(head, place, tuple(source.groups or found), vocabulary)
        return vocabulary, [_single(part, vocabulary) for part in texts]
    lists = [[value if isinstance(value, list) else None for value in part] for part in values]
    found = sorted({name for part in lists for value in part for name in value or ()})
    vocabulary = checked_vocabulary(head, place, tuple(found), vocabulary)
    return vocabulary, [_several(part, vocabulary) for part in lists]


def checked_vocabulary(
    head: str, place: str, seen: tuple[str, ...], vocabulary: tuple[str, ...] | None
) -> tuple[str, ...]:
    """Return `vocabulary`, or `seen` where there is none yet, after checking that it holds all of `seen`.

    Raises:
        DataError: naming the files `place`.
    """
    if vocabulary is None:
        if not seen:
            raise DataError(f"{place}: head '{head}': no label occurs, so there is no class to learn")
        return seen
    unseen = [name for name in seen if name not in set(vocabulary)]
    if unseen:
        raise DataError(
            f"{place}: head '{head}': {len(unseen)} labels that training never saw: {shortened(unseen)}. "
            f"Trained on: {shortened(vocabulary)}. Correct the labels, or train with data that have them."
        )
    return vocabulary


def shortened(names: Sequence[str], limit: int = 100) -> str:
    """Return the first names, and how many there are if that is more."""
    return ", ".join(names[:limit]) + (f", ... ({len(names)} in all)" if len(names) > limit else "")


def _single(texts: Sequence[str | None], vocabulary: tuple[str, ...]) -> np.ndarray:
    """Return (I,) int64, -1 unknown."""
    places: dict[str | None, int] = {name: place for place, name in enumerate(vocabulary)}
    return np.array([places.get(text, -1) for text in texts], np.int64)


def _several(lists: Sequence[list[str] | None], vocabulary: tuple[str, ...]) -> np.ndarray:
    """Return (I, K) float32 of 0 and 1, rows of NaN unknown."""
    targets = np.full((len(lists), len(vocabulary)), np.nan, np.float32)
    columns = {name: place for place, name in enumerate(vocabulary)}
    for row, value in enumerate(lists):
        if value is not None:
            targets[row] = 0
            targets[row, [columns[name] for name in value]] = 1
    return targets


def _group_of(groups: Mapping[str, Sequence[object]]) -> dict[str | None, str]:
    """Return value -> group; `check_source` has seen that no value is in two."""
    return {str(value): name for name, members in groups.items() for value in members}


def _grouped(
    head: str, group_of: dict[str | None, str], texts: Sequence[Sequence[str | None]], at_training: bool
) -> list[list[str | None]]:
    """Return each text's group, None where it is in none; at training every value of a group must occur."""
    seen = sorted({text for part in texts for text in part if text is not None})
    for value, group in group_of.items():
        if at_training and value not in seen:
            raise ConfigError(
                f"heads.{head}.groups.{group}: no image has the label '{value}'"
                f"{nearest(str(value), seen) or '.'} Labels that occur: {shortened(seen) or 'none'}"
            )
    return [[group_of.get(text) for text in part] for part in texts]


def _file_names(index: AnnotationIndex) -> list[str]:
    return [index.file_name(i) for i in range(len(index))]


def _attribute(head: str, field: str, kind: str, index: AnnotationIndex) -> list[Value]:
    """Return the attribute per image, of the type that `kind` asks for; empty text is unknown."""
    known = index.attribute_fields
    if field not in known:
        raise DataError(
            f"{index.path}: $.images[*].attributes.{field}: head '{head}': no image has this attribute"
            f"{nearest(field, known) or '.'} Known attributes: {', '.join(known) or 'none'}. "
            "If this file is not about the head, leave the head out of the source's `heads`."
        )
    values: list[Value] = [None if value == "" else value for value in index.attribute(field)]
    fits, expected = _TYPES[kind]
    wrong = [i for i, value in enumerate(values) if value is not None and not fits(value)]
    if wrong:
        ids = listed(index.image_ids[wrong[:10]].tolist(), len(wrong))
        raise DataError(
            f"{index.path}: $.images[{wrong[0]}].attributes.{field}: head '{head}': "
            f"{values[wrong[0]]!r} is not {expected} ({len(wrong)} images: {ids}). "
            "Correct them, set them to null, or use another type of head."
        )
    return values


def _is_number(value: Value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= FLOAT32_MAX


_TYPES: dict[str, tuple[Callable[[Value], bool], str]] = {
    "single": (lambda value: not isinstance(value, list), "one label"),
    "several": (lambda value: isinstance(value, list), "a list of texts"),
    "scalar": (_is_number, "a number that float32 holds"),
}
