"""The config's files to checked sources: annotations, images and every head's labels."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vision_mtl.data.annotations import AnnotationIndex, Category, read_annotations
from vision_mtl.data.cache import cache_folder
from vision_mtl.data.categories import ClassMap, map_classes, merge_categories
from vision_mtl.data.config import DataConfig, SourceConfig
from vision_mtl.data.dataset import Source
from vision_mtl.data.idx import is_idx, read_idx
from vision_mtl.data.image_labels import can_answer, shortened
from vision_mtl.data.images import FolderImages, ImageSource, check_images
from vision_mtl.data.labels import HeadLabels, LabelledFile, LabelSource, read_shared_labels
from vision_mtl.data.shapes import ensure_shapes
from vision_mtl.errors import ConfigError, DataError, nearest

logger = logging.getLogger(__name__)

Heads = Mapping[str, LabelSource | None]
"""Head name -> where its labels come from; None for a detection head."""


def data_root(data: DataConfig) -> Path:
    """Return the folder that the sources' paths are relative to; draws the embedded set if need be."""
    return ensure_shapes() if data.embedded else Path(data.root)


def open_sources(data: DataConfig, split: str, heads: Heads) -> list[Source]:
    """Open the training data: categories and the labels' vocabularies are taken from them.

    The categories of all sources whose boxes a head reads are merged by name (`merge_categories`).

    Args:
        data: the config.
        split: `train`, `val` or `test`.
        heads: the heads that are trained.

    Raises:
        ConfigError: the split is empty, a file of it does not exist, or no source supervises a head.
        DataError: annotations, labels or images that cannot be used.
    """
    files = _open_files(data, split)
    root = data_root(data)
    answers = {name: _answers(name, label, files, root, split) for name, label in heads.items()}
    boxed = _boxed(files, heads, answers)
    merged = merge_categories([f.index.categories for f, used in zip(files, boxed, strict=True) if used])
    classes = [map_classes(file.index.categories, merged) for file in files]
    read: dict[str, list[HeadLabels]] = {}
    for name, label in heads.items():
        if label is not None:
            parts = [
                LabelledFile(file.index, own, known)
                for file, own, known in zip(files, classes, answers[name], strict=True)
            ]
            read[name] = read_shared_labels(name, label, parts, root, None)
    opened = []
    for i, file in enumerate(files):
        labels = {name: parts[i] for name, parts in read.items()}
        has_boxes = boxed[i] and all(answers[name][i] for name, label in heads.items() if label is None)
        opened.append(_source(data, file, labels, has_boxes, classes[i]))
    return opened


def open_evaluation(
    data: DataConfig,
    split: str,
    heads: Heads,
    vocabularies: Mapping[str, tuple[str, ...]],
    categories: Sequence[Category] | None,
) -> Source:
    """Open the one source of an evaluation split, whose labels must be among the trained ones.

    Its categories may be some of the trained ones.

    Args:
        data: the config.
        split: `train`, `val` or `test`.
        heads: the heads that are evaluated.
        vocabularies: head name -> class names seen in training, in class order.
        categories: the trained categories; None without a detection head.

    Raises:
        ConfigError: not exactly one source, or a file that does not exist.
        DataError: labels or categories that training never saw, or data that cannot be used.
    """
    files = _open_files(data, split)
    if len(files) != 1:
        raise ConfigError(
            f"data.{split}: found {len(files)} sources, expected one: evaluate them one after another "
            f"with e.g. data.{split}='[{{images: ..., annotations: ...}}]'"
        )
    (file,) = files
    answers = {name: [_may_answer(name, label, file)] for name, label in heads.items()}
    (boxed,) = _boxed(files, heads, answers)
    classes = map_classes(file.index.categories, file.index.categories if categories is None else categories)
    if boxed:
        _refuse_unknown(file, classes)
    labels = {
        name: read_shared_labels(
            name,
            label,
            [LabelledFile(file.index, classes, answers[name][0])],
            data_root(data),
            vocabularies[name],
        )[0]
        for name, label in heads.items()
        if label is not None
    }
    has_boxes = boxed and all(answers[name][0] for name, label in heads.items() if label is None)
    return _source(data, file, labels, has_boxes, classes)


@dataclass(frozen=True)
class _File:
    """A source's annotations, its categories renamed.

    Attributes:
        place: the source's key, e.g. `data.train[0]`.
        config: what the key holds.
        index: the annotations.
        images: the pixels, where they come with the annotations; None where they are files of a folder.
    """

    place: str
    config: SourceConfig
    index: AnnotationIndex
    images: ImageSource | None

    @property
    def annotates_boxes(self) -> bool:
        """Whether an image without a box is known to have no object."""
        return self.config.boxes and len(self.index.categories) > 0


def _reads_boxes(label: LabelSource | None) -> bool:
    return label is None or label.from_boxes


def _may_answer(head: str, label: LabelSource | None, file: _File) -> bool:
    """Return whether the source's `heads` allow the head, and it annotates boxes if the head reads them."""
    named = file.config.heads
    if named is not None and head not in named:
        return False
    if not _reads_boxes(label) or file.annotates_boxes:
        return True
    if named is None:
        return False
    raise ConfigError(
        f"{file.place}.heads: names '{head}', which reads boxes, but the source has boxes=false or no "
        "categories"
    )


def _answers(
    head: str, label: LabelSource | None, files: Sequence[_File], root: Path, split: str
) -> list[bool]:
    """Return which files supervise a head: those whose `heads` name it, and those without `heads` that can.

    Where none can, all that may are returned, for the error that says what there is.
    """
    may = [_may_answer(head, label, file) for file in files]
    if not any(may):
        missing = "boxes=false, no categories, or " if _reads_boxes(label) else ""
        raise ConfigError(
            f"heads.{head}: no source of data.{split} supervises it: every one has {missing}`heads` "
            "without it"
        )
    if label is None or label.from_boxes or len(files) == 1:
        return may
    can = [
        allowed and (file.config.heads is not None or can_answer(head, label, file.index, root))
        for file, allowed in zip(files, may, strict=True)
    ]
    return can if any(can) else may


def _boxed(files: Sequence[_File], heads: Heads, answers: Mapping[str, Sequence[bool]]) -> list[bool]:
    """Return which files annotate boxes that a head reads; without such a head, which annotate boxes."""
    readers = [name for name, label in heads.items() if _reads_boxes(label)]
    return [
        file.annotates_boxes and (not readers or any(answers[name][i] for name in readers))
        for i, file in enumerate(files)
    ]


def _refuse_unknown(file: _File, classes: ClassMap) -> None:
    """Raise DataError with both lists if the file has categories that are not trained."""
    names = [category.name for category in file.index.categories]
    trained = [category.name for category in classes.categories]
    unknown = [name for name, place in zip(names, classes.classes, strict=True) if place < 0]
    if unknown:
        raise DataError(
            f"{file.index.path}: $.categories: training never saw {shortened(unknown)}"
            f"{nearest(unknown[0], trained) or '.'} Trained on: {shortened(trained)}. Give a category its "
            f"trained name with {file.place}.rename, or train with data that have it."
        )


def _open_files(data: DataConfig, split: str) -> list[_File]:
    sources: list[SourceConfig] = getattr(data, split)
    if not sources:
        raise ConfigError(
            f"data.{split}: found no source, expected e.g. [{{images: {split}, annotations: {split}.json}}]"
        )
    root = data_root(data)
    files = []
    for i, source in enumerate(sources):
        place = f"data.{split}[{i}]"
        annotations, images = root / source.annotations, root / source.images
        packed = is_idx(annotations)
        if not annotations.is_file():
            raise ConfigError(f"{place}.annotations: no file '{annotations}'; {_where(root)}")
        if not (images.is_file() if packed else images.is_dir()):
            kind = "file" if packed else "folder"
            raise ConfigError(f"{place}.images: no {kind} '{images}'; {_where(root)}")
        index, pixels = read_idx(images, annotations) if packed else (read_annotations(annotations), None)
        for line in index.report.lines():
            logger.info("%s: %s", index.path, line)
        files.append(_File(place, source, _renamed(place, index, source.rename), pixels))
    return files


def _renamed(place: str, index: AnnotationIndex, rename: Mapping[str, str]) -> AnnotationIndex:
    names = [category.name for category in index.categories]
    for name in rename:
        if name not in names:
            raise ConfigError(
                f"{place}.rename: {index.path} has no category '{name}'{nearest(name, names) or '.'} "
                f"Its categories: {shortened(names) or 'none'}"
            )
    return index.renamed(rename)


def _where(root: Path) -> str:
    """Return what to do about a path under `root` that is not there."""
    if not root.is_dir():
        return f"there is no folder data.root='{root}': set it to the folder of the data set"
    inside = sorted(path.name for path in root.iterdir())
    listed = ", ".join(inside[:10]) + (", ..." if len(inside) > 10 else "")
    return f"data.root='{root}' holds {listed or 'nothing'}: set data.root or this path"


def _source(
    data: DataConfig, file: _File, labels: dict[str, HeadLabels], has_boxes: bool, classes: ClassMap
) -> Source:
    """Return the source with its images, checked where they are files."""
    index = file.index
    known = classes.annotated
    if has_boxes and not known.all():
        logger.info("%s: annotates %d of the %d classes", index.path, known.sum(), len(known))
    if file.images is not None:
        return Source(index, file.images, labels, has_boxes, np.arange(len(index)), classes)
    folder = data_root(data) / file.config.images
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
    images = FolderImages(folder, index.file_name, data.max_pixels, data.reduced_decoding)
    return Source(index, images, labels, has_boxes, positions, classes)


def fingerprints(sources: Sequence[Source]) -> dict[str, str]:
    """Return SHA-256 sums of what the sources' annotation files and whole-image labels say."""
    found = {}
    for source in sources:
        found[source.index.path] = source.index.fingerprint
        for name, labels in source.labels.items():
            if labels.from_objects is None:
                digest = hashlib.sha256(labels.targets.tobytes()).hexdigest()
                found[f"the labels of {name} for {source.index.path}"] = digest
    return found
