"""The config's files to checked sources: annotations, images and every head's labels."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vision_mtl.data.annotations import AnnotationIndex, Category, read_annotations
from vision_mtl.data.cache import cache_folder
from vision_mtl.data.config import DataConfig, SourceConfig
from vision_mtl.data.dataset import Source
from vision_mtl.data.images import FolderImages, check_images
from vision_mtl.data.labels import HeadLabels, LabelSource, read_labels
from vision_mtl.data.shapes import ensure_shapes
from vision_mtl.errors import ConfigError, DataError

logger = logging.getLogger(__name__)


def data_root(data: DataConfig) -> Path:
    """Return the folder that the sources' paths are relative to; draws the embedded set if need be."""
    return ensure_shapes() if data.embedded else Path(data.root)


def open_sources(data: DataConfig, split: str, labels: Mapping[str, LabelSource]) -> list[Source]:
    """Open the training data: the labels' vocabularies are taken from them.

    Args:
        data: the config.
        split: `train`, `val` or `test`.
        labels: head name -> where its labels come from, for label heads.

    Raises:
        ConfigError: the split is empty, or a file of it does not exist.
        DataError: annotations, labels or images that cannot be used.
    """
    indices = _read_indices(data, split)
    for index in indices[1:]:
        check_categories(index, indices[0].categories, indices[0].path)
    root = data_root(data)
    tables = []
    for index in indices:
        tables.append({name: read_labels(name, source, index, root, None) for name, source in labels.items()})
    if len(indices) > 1:
        # Labels that only one of several files knows are known to all of them.
        shared = {name: _joined([table[name] for table in tables]) for name in labels}
        tables = [
            {name: read_labels(name, source, index, root, shared[name]) for name, source in labels.items()}
            for index in indices
        ]
    return _with_images(data, split, indices, tables)


def open_evaluation(
    data: DataConfig,
    split: str,
    labels: Mapping[str, LabelSource],
    vocabularies: Mapping[str, tuple[str, ...]],
    categories: Sequence[Category] | None,
) -> Source:
    """Open the one source of an evaluation split, whose labels must be among the trained ones.

    Args:
        data: the config.
        split: `train`, `val` or `test`.
        labels: head name -> where its labels come from.
        vocabularies: head name -> class names seen in training, in class order.
        categories: the trained categories; None where no head reads boxes.

    Raises:
        ConfigError: not exactly one source, or a file that does not exist.
        DataError: labels or categories that training never saw, or data that cannot be used.
    """
    indices = _read_indices(data, split)
    if len(indices) != 1:
        raise ConfigError(
            f"data.{split}: found {len(indices)} sources, expected one: evaluate them one after another "
            f"with e.g. data.{split}='[{{images: ..., annotations: ...}}]'"
        )
    if categories is not None:
        check_categories(indices[0], categories, "training")
    root = data_root(data)
    table = {
        name: read_labels(name, source, indices[0], root, vocabularies[name])
        for name, source in labels.items()
    }
    return _with_images(data, split, indices, [table])[0]


def check_categories(index: AnnotationIndex, expected: Sequence[Category], origin: str) -> None:
    """Raise DataError with the difference if the categories are not those of `origin`."""
    if list(index.categories) == list(expected):
        return
    ours, theirs = ({f"{c.id} {c.name}" for c in cs} for cs in (index.categories, expected))
    raise DataError(
        f"{index.path}: $.categories differ from those of {origin}: only here {sorted(ours - theirs)[:10]}, "
        f"only there {sorted(theirs - ours)[:10]}; give every file the same categories, also those without boxes"
    )


def _joined(labels: Sequence[HeadLabels]) -> tuple[str, ...]:
    first = labels[0].vocabulary
    if all(table.vocabulary == first for table in labels):
        return first
    return tuple(sorted({name for table in labels for name in table.vocabulary}))


def _read_indices(data: DataConfig, split: str) -> list[AnnotationIndex]:
    sources: list[SourceConfig] = getattr(data, split)
    if not sources:
        raise ConfigError(
            f"data.{split}: found no source, expected e.g. [{{images: {split}, annotations: {split}.json}}]"
        )
    root = data_root(data)
    indices = []
    for i, source in enumerate(sources):
        for key in ("annotations", "images"):
            path = root / getattr(source, key)
            fits = path.is_file() if key == "annotations" else path.is_dir()
            if not fits:
                kind = "file" if key == "annotations" else "folder"
                raise ConfigError(
                    f"data.{split}[{i}].{key}: no {kind} '{path}'; set data.root (now '{data.root}') or this path"
                )
        indices.append(read_annotations(root / source.annotations))
        for line in indices[-1].report.lines():
            logger.info("%s: %s", indices[-1].path, line)
    return indices


def _with_images(
    data: DataConfig,
    split: str,
    indices: Sequence[AnnotationIndex],
    tables: Sequence[dict[str, HeadLabels]],
) -> list[Source]:
    root = data_root(data)
    opened = []
    for source, index, labels in zip(getattr(data, split), indices, tables, strict=True):
        folder = root / source.images
        check = check_images(folder, index, cache_folder() / "images", data.max_pixels, data.follow_links)
        if data.bad_images == "error":
            check.raise_if_bad()
        elif check.bad:
            logger.warning("%s: %d of %d images are left out", index.path, len(check.bad), len(index))
            for reason in check.bad.values():
                logger.info("left out: %s", reason)
        positions = np.setdiff1d(np.arange(len(index)), np.fromiter(check.bad, np.int64, len(check.bad)))
        if not len(positions):
            raise DataError(
                f"{index.path}: no image is left: {len(index)} annotated, {len(check.bad)} unreadable"
            )
        images = FolderImages(folder, index.file_name, data.max_pixels)
        opened.append(Source(index, images, labels, source.boxes, positions))
    return opened
