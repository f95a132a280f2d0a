"""What each head answers with, read off the training data once and stored in every checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vision_mtl.data.annotations import Category
from vision_mtl.data.dataset import Source
from vision_mtl.data.labels import LabelSource
from vision_mtl.heads.base import LabelInfo
from vision_mtl.models.multitask import AnyHeadConfig


def label_sources(heads: Mapping[str, AnyHeadConfig]) -> dict[str, LabelSource | None]:
    """Return where the labels of each head come from; None for a detection head."""
    return {name: head.label_source() for name, head in heads.items()}


def label_infos(heads: Mapping[str, AnyHeadConfig], sources: Sequence[Source]) -> dict[str, LabelInfo]:
    """Return what each head answers with, from the training sources, opened for these heads."""
    infos = {}
    for name, head in heads.items():
        label = head.label_source()
        if label is None:
            categories = sources[0].classes.categories
            infos[name] = LabelInfo(tuple(c.name for c in categories), tuple(c.id for c in categories))
        else:
            targets = [source.labels[name].targets[source.positions] for source in sources]
            infos[name] = label_info(label, sources[0].labels[name].vocabulary, targets)
    return infos


def label_info(label: LabelSource, names: tuple[str, ...], targets: Sequence[np.ndarray]) -> LabelInfo:
    """Return what a label head answers with, from its targets in each source; unknown ones count for nothing.

    Args:
        label: of what kind they are.
        names: of the classes; () for numbers.
        targets: see `HeadLabels`.
    """
    if label.kind == "scalar":
        numbers = np.concatenate(targets)
        mean, std = float(np.nanmean(numbers)), float(np.nanstd(numbers))
        return LabelInfo(mean=mean, std=std if std > 1e-6 else 1.0)
    if label.kind == "single":
        counts = [np.bincount(part[part >= 0], minlength=len(names)) for part in targets]
        return LabelInfo(names, counts=tuple(np.sum(counts, axis=0).tolist()))
    present, absent = (
        np.sum([(part == value).sum(axis=0) for part in targets], axis=0).tolist() for value in (1, 0)
    )
    return LabelInfo(names, counts=tuple(present), absent=tuple(absent))


def trained_categories(
    heads: Mapping[str, AnyHeadConfig], labels: Mapping[str, LabelInfo]
) -> tuple[Category, ...] | None:
    """Return the categories that a detection head was trained on; None without such a head."""
    for name, head in heads.items():
        if head.label_source() is None:
            pairs = zip(labels[name].ids, labels[name].names, strict=True)
            return tuple(Category(id=number, name=text) for number, text in pairs)
    return None
