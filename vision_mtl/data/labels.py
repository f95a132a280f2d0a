"""Image-level label sources -> one target array per head."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from vision_mtl.data.annotations import AnnotationIndex
from vision_mtl.data.coco_json import listed
from vision_mtl.data.label_csv import FLOAT32_MAX, read_column
from vision_mtl.errors import ConfigError, DataError, nearest

ALLOWED = {
    "single": ("dominant", "attribute", "csv"),
    "several": ("boxes", "attribute", "csv"),
    "scalar": ("count", "attribute", "csv"),
}
NEEDED = {"boxes": (), "dominant": (), "count": (), "attribute": ("field",), "csv": ("file", "column")}

logger = logging.getLogger(__name__)

Value = str | int | float | bool | list[str] | None


class LabelSource(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Where a head's labels come from; the config structs of the heads carry the same fields.

    Attributes:
        kind: one class per image (`single`), any number of classes (`several`) or a number (`scalar`).
        source: `boxes` (categories that have a box), `dominant` (the category that covers most area),
            `count` (number of boxes), `attribute` (of the annotation file's images) or `csv`.
            Crowds count for none of them. Numbers and booleans are classes by their text in Python:
            3 is "3", true is "True".
        field: for `attribute`, the key in `images[].attributes`.
        file: for `csv`, a file with a `file_name` column, relative to the data root. An empty cell is an
            unknown label; for `several`, labels are separated by `|` and a lone `|` says: none of them.
        column: for `csv`, the column of the labels.
        categories: for `boxes`, `dominant` and `count`, the categories that matter; all when not given.
    """

    kind: Literal["single", "several", "scalar"]
    source: Literal["boxes", "dominant", "count", "attribute", "csv"]
    field: str | None = None
    file: str | None = None
    column: str | None = None
    categories: list[str] | None = None


@dataclass
class HeadLabels:
    """One head's truth for I images.

    Attributes:
        vocabulary: K class names; () for scalar labels.
        targets: of the unaugmented images. single: (I,) int64, -1 unknown; several: (I, K) float32
            of 0 and 1, rows of NaN unknown; scalar: (I,) float32, NaN unknown.
        from_objects: (classes (N,), boxes (N, 4) xyxy, crowd (N,)) -> one image's target, for labels that
            change with the boxes that augmentation leaves; None for labels of the whole image. Picklable.
    """

    vocabulary: tuple[str, ...]
    targets: np.ndarray
    from_objects: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray | np.generic] | None

    @property
    def unknown(self) -> np.ndarray:
        """(I,) bool, True where the image has no label."""
        if self.targets.dtype == np.int64:
            return self.targets < 0
        return np.isnan(self.targets).reshape(len(self.targets), -1).any(axis=1)

    @property
    def unknown_target(self) -> np.ndarray:
        """One image's target where it has no label: () int64 of -1, () or (K,) float32 of NaN."""
        value = -1 if self.targets.dtype == np.int64 else np.nan
        return np.full(self.targets.shape[1:], value, self.targets.dtype)


@dataclass(frozen=True)
class BoxRule:
    """A label computed from boxes: the one rule for whole data sets and for single augmented images.

    Attributes:
        source: `boxes`, `dominant` or `count`.
        slots: (C,) int64, each category's place in the vocabulary; -1 where it does not matter.
        size: K, the number of places.
    """

    source: str
    slots: np.ndarray
    size: int

    def __call__(self, classes: np.ndarray, boxes: np.ndarray, crowd: np.ndarray) -> np.ndarray | np.generic:
        """Return one image's target from N objects: (K,) float32, int64 or float32."""
        return self.targets(np.zeros(len(classes), np.int64), classes, boxes, crowd, 1)[0]

    def targets(
        self, rows: np.ndarray, classes: np.ndarray, boxes: np.ndarray, crowd: np.ndarray, images: int
    ) -> np.ndarray:
        """Return the targets of all images; `rows` (N,) says to which image each object belongs."""
        slots = self.slots[classes]
        counted = (slots >= 0) & ~crowd
        cells = (rows * self.size + slots)[counted]
        numbers = np.bincount(cells, minlength=images * self.size).reshape(images, self.size)
        if self.source == "boxes":
            return (numbers > 0).astype(np.float32)
        if self.source == "count":
            return numbers.sum(axis=1).astype(np.float32)
        sides = (boxes[:, 2:] - boxes[:, :2])[counted].astype(np.float64)
        areas = np.bincount(cells, sides[:, 0] * sides[:, 1], images * self.size).reshape(images, self.size)
        present = numbers > 0
        largest = np.where(present, areas, -1.0).argmax(axis=1)
        return np.where(present.any(axis=1), largest, -1)


def read_labels(
    head: str, source: LabelSource, index: AnnotationIndex, root: Path, vocabulary: tuple[str, ...] | None
) -> HeadLabels:
    """Read one head's labels of all images of `index`.

    Args:
        head: the head's name, for messages.
        source: where the labels come from.
        index: the images.
        root: the data root, against which a csv file is resolved.
        vocabulary: the classes seen in training; None builds them from these data, sorted (category names:
            in class order, or as `source.categories` lists them).

    Raises:
        ConfigError: a combination or a name in `source` that cannot be.
        DataError: labels that are missing, contradictory, of the wrong type or not in `vocabulary`.
    """
    check_source(head, source)
    if source.source in ("boxes", "dominant", "count"):
        labels = _from_boxes(head, source, index, vocabulary)
    else:
        labels = _of_images(head, source, index, root, vocabulary)
    unknown = labels.unknown
    if unknown.all():
        raise DataError(
            f"{index.path}: head '{head}': none of the {len(index)} images has a label "
            f"({_described(source, root)}). Check the source, or remove the head."
        )
    if unknown.any():
        logger.info("head '%s': %d of %d images have no label", head, unknown.sum(), len(index))
    return labels


def check_source(head: str, source: LabelSource) -> None:
    """Raise a `ConfigError` where the fields of `source` do not go together."""
    allowed = ALLOWED[source.kind]
    if source.source not in allowed:
        raise ConfigError(
            f"heads.{head}.source: '{source.source}' does not give a {source.kind} label; "
            f"expected one of {', '.join(allowed)}"
        )
    needed = NEEDED[source.source]
    for name in needed:
        if not getattr(source, name):
            raise ConfigError(f"heads.{head}.{name}: source '{source.source}' needs it")
    taken = needed or ("categories",)
    for name in ("field", "file", "column", "categories"):
        if getattr(source, name) is not None and name not in taken:
            raise ConfigError(
                f"heads.{head}.{name}: has no meaning with source '{source.source}', "
                f"which takes {', '.join(taken)}; remove it"
            )
    if source.categories == []:
        raise ConfigError(f"heads.{head}.categories: empty; name some or leave it out for all")


def _from_boxes(
    head: str, source: LabelSource, index: AnnotationIndex, vocabulary: tuple[str, ...] | None
) -> HeadLabels:
    names = [category.name for category in index.categories]
    wanted = tuple(dict.fromkeys(source.categories or names))
    for name in wanted:
        if name not in names:
            raise ConfigError(
                f"heads.{head}.categories: {index.path} has no category '{name}'"
                f"{nearest(name, names) or '.'} Its categories: {', '.join(names)}"
            )
    if source.source == "count":
        counted = np.array([0 if name in wanted else -1 for name in names], np.int64)
        vocabulary, rule = (), BoxRule("count", counted, 1)
    else:
        vocabulary = _checked(head, index, wanted, vocabulary)
        places = {name: place for place, name in enumerate(vocabulary)}
        slots = np.array([places[name] if name in wanted else -1 for name in names], np.int64)
        rule = BoxRule(source.source, slots, len(vocabulary))
    rows, objects = index.all_objects()
    targets = rule.targets(rows, objects.classes, objects.boxes, objects.crowd, len(index))
    return HeadLabels(vocabulary, targets, rule)


def _of_images(
    head: str, source: LabelSource, index: AnnotationIndex, root: Path, vocabulary: tuple[str, ...] | None
) -> HeadLabels:
    if source.source == "csv":
        assert source.file is not None  # check_source
        assert source.column is not None
        names = [index.file_name(i) for i in range(len(index))]
        cells = read_column(head, root / source.file, source.column, names, source.kind == "scalar")
        values: list[Value] = [
            [part.strip() for part in cell.split("|") if part.strip()]
            if source.kind == "several" and isinstance(cell, str)
            else cell
            for cell in cells
        ]
    else:
        assert source.field is not None  # check_source
        values = _attribute(head, source.field, source.kind, index)
    if source.kind == "scalar":
        numbers = [np.nan if value is None else value for value in values]
        return HeadLabels((), np.array(numbers, np.float32), None)
    if source.kind == "single":
        texts = [None if value is None else str(value) for value in values]
        vocabulary = _checked(head, index, tuple(sorted({t for t in texts if t is not None})), vocabulary)
        places: dict[str | None, int] = {name: place for place, name in enumerate(vocabulary)}
        return HeadLabels(vocabulary, np.array([places.get(text, -1) for text in texts], np.int64), None)
    lists = [value if isinstance(value, list) else None for value in values]
    seen = {name for value in lists if value is not None for name in value}
    vocabulary = _checked(head, index, tuple(sorted(seen)), vocabulary)
    targets = np.full((len(index), len(vocabulary)), np.nan, np.float32)
    columns = {name: place for place, name in enumerate(vocabulary)}
    for row, value in enumerate(lists):
        if value is not None:
            targets[row] = 0
            targets[row, [columns[name] for name in value]] = 1
    return HeadLabels(vocabulary, targets, None)


def _attribute(head: str, field: str, kind: str, index: AnnotationIndex) -> list[Value]:
    """Return the attribute per image, of the type that `kind` asks for; empty text is unknown."""
    known = index.attribute_fields
    if field not in known:
        raise DataError(
            f"{index.path}: $.images[*].attributes.{field}: head '{head}': no image has this attribute"
            f"{nearest(field, known) or '.'} Known attributes: {', '.join(known) or 'none'}"
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


def _checked(
    head: str, index: AnnotationIndex, seen: tuple[str, ...], vocabulary: tuple[str, ...] | None
) -> tuple[str, ...]:
    """Return `vocabulary`, or `seen` where there is none yet, after checking that it holds all of `seen`."""
    if vocabulary is None:
        if not seen:
            raise DataError(f"{index.path}: head '{head}': no label occurs, so there is no class to learn")
        return seen
    unseen = [name for name in seen if name not in set(vocabulary)]
    if unseen:
        raise DataError(
            f"{index.path}: head '{head}': {len(unseen)} labels that training never saw: {_some(unseen)}. "
            f"Trained on: {_some(vocabulary)}. Correct the labels, or train with data that have them."
        )
    return vocabulary


def _some(names: list[str] | tuple[str, ...], limit: int = 100) -> str:
    return ", ".join(names[:limit]) + (f", ... ({len(names)} in all)" if len(names) > limit else "")


def _described(source: LabelSource, root: Path) -> str:
    if source.source == "csv":
        return f"column '{source.column}' of {root / str(source.file)}"
    return f"attribute '{source.field}'" if source.source == "attribute" else f"source '{source.source}'"
