"""Labels made from boxes: one rule for whole data sets and for single augmented images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vision_mtl.data.image_labels import checked_vocabulary
from vision_mtl.errors import ConfigError, nearest

if TYPE_CHECKING:
    from vision_mtl.data.labels import LabelSource


@dataclass(frozen=True)
class BoxRule:
    """A label computed from the boxes of one source's images.

    Attributes:
        source: `boxes`, `dominant` or `count`.
        slots: (K,) int64, each trained class's place among the V categories that matter; -1 where it does
            not matter.
        known: (V,) bool, the places whose categories the source annotates.
    """

    source: str
    slots: np.ndarray
    known: np.ndarray

    @property
    def answers(self) -> bool:
        """Whether an image of the source can have a label: which of the categories are there can be told of
        each by itself, but the largest one or their number only of all of them."""
        return bool(self.known.any() if self.source == "boxes" else self.known.all())

    def __call__(self, classes: np.ndarray, boxes: np.ndarray, crowd: np.ndarray) -> np.ndarray | np.generic:
        """Return one image's target from N objects: (V,) float32, int64 or float32."""
        return self.targets(np.zeros(len(classes), np.int64), classes, boxes, crowd, 1)[0]

    def targets(
        self, rows: np.ndarray, classes: np.ndarray, boxes: np.ndarray, crowd: np.ndarray, images: int
    ) -> np.ndarray:
        """Return the targets of all images, unknown ones as NaN or -1.

        Args:
            rows: (N,) int64, the image of each object.
            classes: (N,) int64, trained classes; -1 for objects of other categories.
            boxes: (N, 4) xyxy.
            crowd: (N,) bool; crowds count for nothing.
            images: how many there are.
        """
        slots = self.slots[classes]
        counted = (classes >= 0) & (slots >= 0) & ~crowd
        if self.source == "count":
            counts = np.bincount(rows[counted], minlength=images)
            return np.where(self.known.all(), counts, np.nan).astype(np.float32)
        size = len(self.known)
        cells = (rows * size + slots)[counted]
        numbers = np.bincount(cells, minlength=images * size).reshape(images, size)
        if self.source == "boxes":
            return np.where(self.known, numbers > 0, np.nan).astype(np.float32)
        sides = (boxes[:, 2:] - boxes[:, :2])[counted].astype(np.float64)
        areas = np.bincount(cells, sides[:, 0] * sides[:, 1], images * size).reshape(images, size)
        present = numbers > 0
        largest = np.where(present, areas, -1.0).argmax(axis=1)
        return np.where(self.known.all() & present.any(axis=1), largest, -1)


def box_rules(
    head: str,
    source: LabelSource,
    place: str,
    names: Sequence[str],
    annotated: Sequence[np.ndarray],
    vocabulary: tuple[str, ...] | None,
) -> tuple[tuple[str, ...], list[BoxRule]]:
    """Return a head's class names, () for `count`, and the rule of each source.

    Args:
        head: the head's name, for messages.
        source: where the labels come from.
        place: the annotation files, for messages.
        names: of the K trained categories.
        annotated: (K,) bool for each source, all False where it does not supervise the head.
        vocabulary: the class names seen in training; None at training: the named categories, or all that a
            source annotates (`boxes`) or that are trained (`dominant`).

    Raises:
        ConfigError: a category that there is not, or a label that no source can tell.
        DataError: categories that are not in `vocabulary`.
    """
    training = vocabulary is None
    if training:
        _check_named(head, source.categories or (), place, names)
    matter = tuple(dict.fromkeys(source.categories or names))
    if source.source == "count":
        vocabulary = ()
    else:
        seen = tuple(name for name, some in zip(names, np.any(annotated, axis=0), strict=True) if some)
        if not source.categories and not (training and source.source == "dominant"):
            matter = tuple(dict.fromkeys(seen))
        vocabulary = matter = checked_vocabulary(head, place, matter, vocabulary)
    places = {name: k for k, name in enumerate(matter)}
    slots = np.array([places.get(name, -1) for name in names], np.int64)
    rules = []
    for mask in annotated:
        known = np.zeros(len(matter), bool)
        known[slots[mask & (slots >= 0)]] = True
        rules.append(BoxRule(source.source, slots, known))
    if training and not any(rule.answers for rule in rules):
        raise ConfigError(
            f"heads.{head}.source: '{source.source}' can be told only where all its categories are annotated "
            f"({', '.join(matter)}), and no source has them all; in heads.{head}.categories, name some that "
            "one source has"
        )
    return vocabulary, rules


def _check_named(head: str, categories: Sequence[str], place: str, names: Sequence[str]) -> None:
    for name in categories:
        if name not in names:
            raise ConfigError(
                f"heads.{head}.categories: {place} has no category '{name}'"
                f"{nearest(name, names) or '.'} Its categories: {', '.join(names)}"
            )
