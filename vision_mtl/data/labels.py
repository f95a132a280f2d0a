"""Image-level label sources -> one target array per head."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np

from vision_mtl.data.annotations import AnnotationIndex
from vision_mtl.data.box_labels import BoxRule, box_rules
from vision_mtl.data.categories import ClassMap, map_classes
from vision_mtl.data.image_labels import Value, image_targets, read_values
from vision_mtl.errors import ConfigError, DataError

ALLOWED = {
    "single": ("dominant", "attribute", "csv"),
    "several": ("boxes", "attribute", "csv"),
    "scalar": ("count", "attribute", "csv"),
}
NEEDED = {"boxes": (), "dominant": (), "count": (), "attribute": ("field",), "csv": ("file", "column")}

logger = logging.getLogger(__name__)


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
        groups: for one class per image from `attribute` or `csv`: class name -> the labels that it stands
            for, by their text; the classes are in this order, and a label in no group is unknown.
    """

    kind: Literal["single", "several", "scalar"]
    source: Literal["boxes", "dominant", "count", "attribute", "csv"]
    field: str | None = None
    file: str | None = None
    column: str | None = None
    categories: list[str] | None = None
    groups: dict[str, list[str | int | float | bool]] | None = None

    @property
    def from_boxes(self) -> bool:
        """Whether the labels are made from boxes, and change with those that augmentation leaves."""
        return self.source in ("boxes", "dominant", "count")


@dataclass
class HeadLabels:
    """One head's truth for I images.

    Attributes:
        vocabulary: K class names; () for scalar labels.
        targets: of the unaugmented images. single: (I,) int64, -1 unknown; several: (I, K) float32
            of 0 and 1, NaN unknown; scalar: (I,) float32, NaN unknown.
        from_objects: (classes (N,), boxes (N, 4) xyxy, crowd (N,)) -> one image's target, for labels that
            change with the boxes that augmentation leaves; None for labels of the whole image.
    """

    vocabulary: tuple[str, ...]
    targets: np.ndarray
    from_objects: BoxRule | None

    @property
    def unknown(self) -> np.ndarray:
        """(I,) bool, True where the image has no label; one known class of several is a label."""
        if self.targets.dtype == np.int64:
            return self.targets < 0
        unknown = np.isnan(self.targets)
        return unknown if unknown.ndim == 1 else unknown.all(axis=1)

    @property
    def unknown_target(self) -> np.ndarray:
        """One image's target where it has no label: () int64 of -1, () or (K,) float32 of NaN."""
        value = -1 if self.targets.dtype == np.int64 else np.nan
        return np.full(self.targets.shape[1:], value, self.targets.dtype)

    def of_augmented(self) -> HeadLabels:
        """Return what labels augmented images: no targets where they are made from the boxes that are left.

        So a loader process that is sent the labels, and not forked, does not hold them all for nothing.
        """
        return self if self.from_objects is None else replace(self, targets=self.targets[:0])


@dataclass(frozen=True)
class LabelledFile:
    """What one file's labels are read from.

    Attributes:
        index: the images and their annotations.
        classes: where its categories are among the trained ones; all files have the same of these.
        supervises: False where the file is not to answer for the head: its labels are all unknown.
    """

    index: AnnotationIndex
    classes: ClassMap
    supervises: bool = True


def read_labels(
    head: str, source: LabelSource, index: AnnotationIndex, root: Path, vocabulary: tuple[str, ...] | None
) -> HeadLabels:
    """Read one head's labels of a file by itself; see `read_shared_labels`."""
    file = LabelledFile(index, map_classes(index.categories, index.categories))
    return read_shared_labels(head, source, [file], root, vocabulary)[0]


def read_shared_labels(
    head: str,
    source: LabelSource,
    files: Sequence[LabelledFile],
    root: Path,
    vocabulary: tuple[str, ...] | None,
) -> list[HeadLabels]:
    """Read one head's labels of all images of several files, with one vocabulary.

    A label made from boxes is known only as far as the file annotates the categories that it is about:
    `boxes` class by class, `dominant` and `count` where all of them are annotated.

    Args:
        head: the head's name, for messages.
        source: where the labels come from.
        files: at least one of them supervises the head, at training.
        root: the data root, against which a csv file is resolved.
        vocabulary: the classes seen in training; None builds them from these data, sorted (category names:
            in class order, or as `source.categories` lists them; groups: as they are listed).

    Raises:
        ConfigError: a combination or a name in `source` that cannot be.
        DataError: labels that are missing, contradictory, of the wrong type or not in `vocabulary`.
    """
    check_source(head, source)
    place = ", ".join(file.index.path for file in files if file.supervises)
    if source.from_boxes:
        found = _from_boxes(head, source, place, files, vocabulary)
    else:
        values: list[Sequence[Value]] = [
            read_values(head, source, file.index, root) if file.supervises else [None] * len(file.index)
            for file in files
        ]
        vocabulary, targets = image_targets(head, source, place, values, vocabulary)
        found = [HeadLabels(vocabulary, part, None) for part in targets]
    for file, labels in zip(files, found, strict=True):
        if file.supervises and (labels.from_objects is None or labels.from_objects.answers):
            _check_labelled(head, _described(source, root), file.index, labels.unknown)
    return found


def _from_boxes(
    head: str,
    source: LabelSource,
    place: str,
    files: Sequence[LabelledFile],
    vocabulary: tuple[str, ...] | None,
) -> list[HeadLabels]:
    names = [category.name for category in files[0].classes.categories]
    annotated = [file.classes.annotated & file.supervises for file in files]
    vocabulary, rules = box_rules(head, source, place, names, annotated, vocabulary)
    found = []
    for file, rule in zip(files, rules, strict=True):
        rows, own = file.index.all_objects()
        objects = file.classes.of(own)
        targets = rule.targets(rows, objects.classes, objects.boxes, objects.crowd, len(file.index))
        found.append(HeadLabels(vocabulary, targets, rule))
    return found


def _check_labelled(head: str, origin: str, index: AnnotationIndex, unknown: np.ndarray) -> None:
    """Raise DataError where no image has a label; log how many have none."""
    if unknown.all():
        raise DataError(
            f"{index.path}: head '{head}': none of the {len(index)} images has a label "
            f"({origin}). Check the source, or remove the head."
        )
    if unknown.any():
        logger.info("head '%s': %d of %d images have no label", head, unknown.sum(), len(index))


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
    if source.kind == "single" and needed:
        taken = (*needed, "groups")
    for name in ("field", "file", "column", "categories", "groups"):
        if getattr(source, name) is not None and name not in taken:
            raise ConfigError(
                f"heads.{head}.{name}: has no meaning with source '{source.source}', "
                f"which takes {', '.join(taken)}; remove it"
            )
    if source.categories == []:
        raise ConfigError(f"heads.{head}.categories: empty; name some or leave it out for all")
    if source.groups is not None:
        _check_groups(f"heads.{head}.groups", source.groups)


def _check_groups(place: str, groups: dict[str, list[str | int | float | bool]]) -> None:
    """Raise ConfigError for no group, an empty one, or a label in two."""
    if not groups:
        raise ConfigError(f"{place}: empty; name some or leave it out for a class per label")
    group_of: dict[str, str] = {}
    for name, members in groups.items():
        if not members:
            raise ConfigError(f"{place}.{name}: empty; list the labels that it stands for")
        for label in map(str, members):
            if group_of.setdefault(label, name) != name:
                raise ConfigError(f"{place}: the label '{label}' is in '{group_of[label]}' and in '{name}'")


def _described(source: LabelSource, root: Path) -> str:
    if source.source == "csv":
        return f"column '{source.column}' of {root / str(source.file)}"
    return f"attribute '{source.field}'" if source.source == "attribute" else f"source '{source.source}'"
