"""What each head answers with, read off the training data once and stored in every checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vision_mtl.data.annotations import Category
from vision_mtl.data.dataset import Source
from vision_mtl.data.labels import LabelSource
from vision_mtl.errors import DataError
from vision_mtl.heads.base import LabelInfo
from vision_mtl.models.multitask import AnyHeadConfig


def label_sources(heads: Mapping[str, AnyHeadConfig]) -> dict[str, LabelSource]:
    """Return where the labels of each label head come from; detection heads are left out."""
    sources = {name: head.label_source() for name, head in heads.items()}
    return {name: source for name, source in sources.items() if source is not None}


def label_infos(heads: Mapping[str, AnyHeadConfig], sources: Sequence[Source]) -> dict[str, LabelInfo]:
    """Return what each head answers with, from the training sources.

    Raises:
        DataError: a detection head and no category in the annotations.
    """
    infos = {}
    for name, head in heads.items():
        source = head.label_source()
        if source is None:
            categories = sources[0].index.categories
            if not categories:
                raise DataError(
                    f"{sources[0].index.path}: $.categories is empty, and head '{name}' detects them"
                )
            infos[name] = LabelInfo(tuple(c.name for c in categories), tuple(c.id for c in categories))
        elif source.kind == "scalar":
            targets = np.concatenate([s.labels[name].targets[s.positions] for s in sources])
            mean, std = float(np.nanmean(targets)), float(np.nanstd(targets))
            infos[name] = LabelInfo(mean=mean, std=std if std > 1e-6 else 1.0)
        else:
            infos[name] = LabelInfo(sources[0].labels[name].vocabulary)
    return infos


def trained_categories(
    heads: Mapping[str, AnyHeadConfig], labels: Mapping[str, LabelInfo]
) -> tuple[Category, ...] | None:
    """Return the categories that a detection head was trained on; None without such a head."""
    for name, head in heads.items():
        if head.label_source() is None:
            pairs = zip(labels[name].ids, labels[name].names, strict=True)
            return tuple(Category(id=number, name=text) for number, text in pairs)
    return None
