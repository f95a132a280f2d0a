"""Which rows of a file's output layers are which of our classes, and what those layers read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vision_mtl.heads.base import LabelInfo


class Layout(NamedTuple):
    """How the rows of a tensor are made of classes: (groups, background + classes, numbers), flattened.

    The groups are a dense head's anchors; their number is left to the shape.

    Attributes:
        background: 1 where a row of the background comes before the classes', as for a softmax.
        numbers: rows per class, e.g. 4 where each class has a box of its own.
    """

    background: int
    numbers: int


# Ends of the names of the modules whose weight and bias have rows per class.
LAYOUTS = {
    ".classification_head.cls_logits": Layout(0, 1),
    ".box_predictor.cls_score": Layout(1, 1),
    ".box_predictor.bbox_pred": Layout(1, 4),
    ".pooled.logits": Layout(0, 1),
}


# An output layer -> the layers beside it that it reads; on others its weights would say nothing.
READS = {
    "cls_logits": "conv",
    "bbox_reg": "conv",
    "bbox_ctrness": "conv",
    "bbox_pred": "conv",
    "box_predictor": "box_head",
    "logits": "hidden",
}


def read_by(key: str) -> str | None:
    """Return the start of the names of what the output layer of the head's tensor `key` reads; None if `key`
    is of no output layer."""
    parts = key.split(".")
    for i, part in enumerate(parts[2:], 2):
        if part in READS:
            return ".".join([*parts[:i], READS[part], ""])
    return None


def layout_of(key: str) -> Layout | None:
    """Return how the rows of the tensor `key` are made of classes; None if it has no rows per class."""
    module = key.rpartition(".")[0]
    return next((layout for end, layout in LAYOUTS.items() if module.endswith(end)), None)


def answers(info: LabelInfo) -> tuple[str, ...]:
    """Return the names of a head's classes; for regression its unit, in which alone a row makes sense."""
    return info.names or (f"a number with mean {info.mean:g} and deviation {info.std:g}",)


def match_classes(ours: LabelInfo, theirs: LabelInfo) -> list[int | None]:
    """Return for each of our classes its position among theirs, or None.

    The same id and name is the same class. Otherwise the name decides, if only one of theirs has it: as it
    is written, or without regard to case.
    """
    names = answers(theirs)
    folded = [name.casefold() for name in names]
    by_both = {(number, name): i for i, (number, name) in enumerate(zip(theirs.ids, folded, strict=False))}
    by_name, by_folded = _unique(names), _unique(folded)
    found = []
    for i, name in enumerate(answers(ours)):
        low = name.casefold()
        position = by_name.get(name, by_folded.get(low))
        found.append(by_both.get((ours.ids[i], low), position) if ours.ids else position)
    return found


def _unique(names: Sequence[str]) -> dict[str, int]:
    """Return the position of each name that is there once."""
    counts = Counter(names)
    return {name: i for i, name in enumerate(names) if counts[name] == 1}


def with_rows(
    ours: Tensor, theirs: Tensor, layout: Layout, rows: Sequence[int | None], count: int
) -> Tensor | None:
    """Return `ours` with the rows of the matched classes, and of the background, taken from `theirs`.

    Args:
        ours: (groups * (background + K) * numbers, ...).
        theirs: (groups * (background + count) * numbers, ...).
        layout: of both.
        rows: for each of our K classes its position among their `count`, or None to keep ours.
        count: how many classes `theirs` has.

    Returns:
        None if the shapes are not such, or nothing is taken.
    """
    first, numbers = layout
    sizes = [(first + classes) * numbers for classes in (len(rows), count)]
    if len(ours) % sizes[0] or theirs.shape != (len(ours) // sizes[0] * sizes[1], *ours.shape[1:]):
        return None
    pairs = [(0, 0)] * first + [(first + i, first + row) for i, row in enumerate(rows) if row is not None]
    if not pairs:
        return None
    to, fro = (list(side) for side in zip(*pairs, strict=True))
    taken = ours.clone(memory_format=torch.contiguous_format).unflatten(0, (-1, first + len(rows), numbers))
    taken[:, to] = theirs.to(ours.dtype).unflatten(0, (-1, first + count, numbers))[:, fro]
    return taken.flatten(0, 2)
