"""The config's files to checked sources: annotations, images and every head's labels."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    boxed = [source.boxes for source in getattr(data, split)]
    read = {name: _read_shared(name, label, indices, boxed, root) for name, label in labels.items()}
    tables = [{name: parts[i] for name, parts in read.items()} for i in range(len(indices))]
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
    boxes = getattr(data, split)[0].boxes
    table = {
        name: read_labels(name, label, indices[0], root, vocabularies[name])
        if boxes or not _from_boxes(label)
        else _unknown(label, vocabularies[name], len(indices[0]))
        for name, label in labels.items()
    }
    return _with_images(data, split, indices, [table])[0]


def check_categories(index: AnnotationIndex, expected: Sequence[Category], origin: str) -> None:
    """Raise DataError with the difference if the categories are not those of `origin`."""
    if list(index.categories) == list(expected):
        return
    ours, theirs = ({f"{c.id} {c.name}" for c in cs} for cs in (index.categories, expected))
    raise DataError(
        f"{index.path}: $.categories differ from those of {origin}: only here {sorted(ours - theirs)[:10]}, "
        f"only there {sorted(theirs - ours)[:10]}; give every file the same categories, "
        "also those without boxes"
    )


@dataclass(frozen=True)
class _Constant:
    """The label of every image of a file that does not annotate it, whatever boxes are left."""

    target: np.ndarray | np.generic

    def __call__(self, classes: np.ndarray, boxes: np.ndarray, crowd: np.ndarray) -> np.ndarray | np.generic:
        return self.target


def _from_boxes(label: LabelSource) -> bool:
    return label.source in ("boxes", "dominant", "count")


def _unknown(label: LabelSource, vocabulary: tuple[str, ...], images: int) -> HeadLabels:
    """Return labels that are unknown for every image."""
    shape = (images, len(vocabulary)) if label.kind == "several" else (images,)
    value, dtype = (-1, np.int64) if label.kind == "single" else (np.nan, np.float32)
    targets = np.full(shape, value, dtype)
    return HeadLabels(vocabulary, targets, _Constant(targets[0]) if _from_boxes(label) and images else None)


def _read_shared(
    head: str, label: LabelSource, indices: Sequence[AnnotationIndex], boxed: Sequence[bool], root: Path
) -> list[HeadLabels]:
    """Read one head's labels of several files, with one vocabulary.

    A file that cannot have the label (no boxes, or not the attribute) has it unknown, if another one has it.
    """
    if _from_boxes(label):
        known = [i for i, boxes in enumerate(boxed) if boxes]
        if not known:
            raise ConfigError(
                f"heads.{head}.source: '{label.source}' is made from boxes, and every source has boxes=false"
            )
    else:
        known = [
            i for i, x in enumerate(indices) if label.source == "csv" or label.field in x.attribute_fields
        ]
    known = known or list(range(len(indices)))  # to get the error that names the attributes there are
    found = {i: read_labels(head, label, indices[i], root, None) for i in known}
    vocabulary = _joined(list(found.values()))
    for i in known:
        if found[i].vocabulary != vocabulary:
            found[i] = read_labels(head, label, indices[i], root, vocabulary)
    return [
        found[i] if i in found else _unknown(label, vocabulary, len(index)) for i, index in enumerate(indices)
    ]


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
                raise ConfigError(f"data.{split}[{i}].{key}: no {kind} '{path}'; {_where(root)}")
        indices.append(read_annotations(root / source.annotations))
        for line in indices[-1].report.lines():
            logger.info("%s: %s", indices[-1].path, line)
    return indices


def _where(root: Path) -> str:
    """Return what to do about a path under `root` that is not there."""
    if not root.is_dir():
        return f"there is no folder data.root='{root}': set it to the folder of the data set"
    inside = sorted(path.name for path in root.iterdir())
    listed = ", ".join(inside[:10]) + (", ..." if len(inside) > 10 else "")
    return f"data.root='{root}' holds {listed or 'nothing'}: set data.root or this path"


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
