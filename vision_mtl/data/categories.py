"""Categories of several files to the classes of one model: merged by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from vision_mtl.data.annotations import Category, Objects


@dataclass(frozen=True)
class ClassMap:
    """Where the C categories of a file are among the K classes that are trained.

    Attributes:
        categories: the K trained ones, in class order.
        classes: (C,) int64, the trained class of each of the file's categories; -1 where it has none.
    """

    categories: tuple[Category, ...]
    classes: np.ndarray

    @property
    def annotated(self) -> np.ndarray:
        """(K,) bool, the trained classes that the file has; its images say nothing of the others."""
        return np.isin(np.arange(len(self.categories)), self.classes)

    def of(self, objects: Objects) -> Objects:
        """Return the file's objects with their trained classes, -1 where a category has none."""
        return Objects(objects.boxes, self.classes[objects.classes], objects.crowd)


def map_classes(categories: Sequence[Category], trained: Sequence[Category]) -> ClassMap:
    """Return where a file's `categories` are among the `trained` ones, by name."""
    places = places_by_name([c.name for c in categories], [c.name for c in trained])
    return ClassMap(tuple(trained), places)


def merge_categories(files: Sequence[Sequence[Category]]) -> tuple[Category, ...]:
    """Return the union of the files' categories by name, in the order in which they first appear.

    The first file's categories keep their ids. A later one keeps its id if no earlier category has it, and
    gets the next number after the largest otherwise, so that every id stays the name of one category.
    """
    merged: list[Category] = []
    ids: set[int] = set()
    for categories in files:
        for category, place in zip(categories, map_classes(categories, merged).classes, strict=True):
            if place < 0:
                number = category.id if category.id not in ids else max(ids) + 1
                merged.append(Category(id=number, name=category.name))
                ids.add(number)
    return tuple(merged)


def places_by_name(names: Sequence[str], known: Sequence[str]) -> np.ndarray:
    """Return where in `known` each of `names` is, (len(names),) int64; -1 where it is not.

    Of a name that is there several times, the first answers to the first, the second to the second.
    """
    places = {key: place for place, key in enumerate(_numbered(known))}
    return np.array([places.get(key, -1) for key in _numbered(names)], np.int64)


def _numbered(names: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Yield each name with how often it came before."""
    seen: Counter[str] = Counter()
    for name in names:
        yield name, seen[name]
        seen[name] += 1
