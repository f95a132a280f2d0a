"""COCO JSON -> `AnnotationIndex`: packed arrays, validated once, cached and shared between workers."""

from __future__ import annotations

import codecs
import hashlib
import logging
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from vision_mtl.data.cache import cache_folder
from vision_mtl.data.coco_checks import Finding, ValidationReport, clip_boxes, parse_coco
from vision_mtl.data.coco_json import Category, decode_coco
from vision_mtl.data.index_cache import DamagedCacheError, read_packed, write_packed
from vision_mtl.errors import DataError

__all__ = ["AnnotationIndex", "Category", "Finding", "Objects", "ValidationReport", "read_annotations"]

FORMAT = 2  # of the cache file; raise it with any change to the arrays or to what validation decides

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Objects:
    """Objects that can be trained on, crowds included.

    Attributes:
        boxes: (N, 4) float32 xyxy in original pixels, clipped to the image.
        classes: (N,) int64, contiguous from 0.
        crowd: (N,) bool.
    """

    boxes: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray


class Facts(msgspec.Struct):
    """What an index holds besides arrays; stored as JSON in the cache file."""

    categories: tuple[Category, ...]
    fingerprint: str
    report: ValidationReport
    attribute_fields: list[str]


class AnnotationIndex:
    """The annotations of I images and A objects, grouped by image. All arrays are to be read only.

    Attributes:
        path: the JSON file.
        categories: sorted by id; the contiguous class is the position.
        image_ids: (I,) int64, in file order.
        sizes: (I, 2) int64, (height, width).
        offsets: (I + 1,) int64; image i owns `offsets[i]:offsets[i + 1]` of the arrays of length A.
        xywh: (A, 4) float64, exactly as in the file: evaluation uses these.
        areas: (A,) float64 as in the file, width x height where missing.
        classes: (A,) int64.
        crowd: (A,) bool.
        usable: (A,) bool, False for boxes that training leaves out.
        annotation_ids: (A,) int64.
        fingerprint: SHA-256 of the JSON file's content.
        report: what validation corrected and dropped.
    """

    def __init__(
        self,
        path: str,
        arrays: dict[str, np.ndarray],
        facts: Facts,
        cache: Path | None = None,
        rename: Mapping[str, str] | None = None,
    ) -> None:
        """Hold the `arrays` of `parse_coco`; `cache` is the folder they are mapped from, if any, and `rename`
        gives categories other names."""
        self.path = path
        self.categories = facts.categories
        self.classes = arrays["classes"]
        if rename:
            self.categories, places = _renamed(facts.categories, rename)
            self.classes = places[self.classes]
        self.fingerprint = facts.fingerprint
        self.report = facts.report
        self.image_ids = arrays["image_ids"]
        self.sizes = arrays["sizes"]
        self.offsets = arrays["offsets"]
        self.xywh = arrays["xywh"]
        self.areas = arrays["areas"]
        self.crowd = arrays["crowd"]
        self.usable = arrays["usable"]
        self.annotation_ids = arrays["annotation_ids"]
        self._arrays = arrays
        self._facts = facts
        self._cache = cache
        self._rename = rename

    def __len__(self) -> int:
        return len(self.image_ids)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle a mapped index as the file to map, so that spawned workers share its pages."""
        if self._cache is None:
            return AnnotationIndex, (self.path, self._arrays, self._facts, None, self._rename)
        return _reopen, (self.path, self._cache, self.fingerprint, self._rename)

    def renamed(self, names: Mapping[str, str]) -> AnnotationIndex:
        """Return these annotations with other category names: the file's name -> the new one.

        Categories that end up under one of the new names become one class, with the id of the first.
        """
        return AnnotationIndex(self.path, self._arrays, self._facts, self._cache, names)

    def without_objects(self) -> AnnotationIndex:
        """Return the same images without any annotation."""
        none = {
            name: self._arrays[name][:0]
            for name in ("xywh", "areas", "classes", "crowd", "usable", "annotation_ids")
        }
        arrays = {**self._arrays, **none, "offsets": np.zeros_like(self.offsets)}
        return AnnotationIndex(self.path, arrays, self._facts, None, self._rename)

    def file_name(self, i: int) -> str:
        """Return image i's file name, relative to the image folder."""
        start, stop = self._arrays["name_offsets"][i : i + 2].tolist()
        return self._arrays["names"][start:stop].tobytes().decode()

    def objects(self, i: int) -> Objects:
        """Return image i's usable objects."""
        part = slice(self.offsets[i], self.offsets[i + 1])
        usable = self.usable[part]
        boxes = clip_boxes(self.xywh[part][usable], self.sizes[i])
        return Objects(boxes, self.classes[part][usable], self.crowd[part][usable])

    def all_objects(self) -> tuple[np.ndarray, Objects]:
        """Return the position of each usable object's image, (N,) int64, and the objects of all images."""
        rows = np.repeat(np.arange(len(self)), np.diff(self.offsets))[self.usable]
        boxes = clip_boxes(self.xywh[self.usable], self.sizes[rows])
        return rows, Objects(boxes, self.classes[self.usable], self.crowd[self.usable])

    @property
    def attribute_fields(self) -> list[str]:
        """The fields that any image's `attributes` has."""
        return self._facts.attribute_fields

    def attribute(self, field: str) -> list[str | int | float | bool | list[str] | None]:
        """Return `images[i].attributes.<field>` per image, None where it is absent or null.

        Raises:
            DataError: a value is neither text, number, boolean nor a list of texts.
        """
        if field not in self.attribute_fields:
            return [None] * len(self)
        number = self.attribute_fields.index(field)
        codes = self._arrays[f"codes/{number}"]
        text = self._arrays[f"values/{number}"].tobytes()
        try:
            values = msgspec.json.decode(text, type=list[str | int | float | bool | list[str]])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            place = re.search(r"`\$\[(\d+)\]", str(error))
            image = int(np.flatnonzero(codes == int(place[1]))[0]) if place else 0
            raise DataError(
                f"{self.path}: $.images[{image}].attributes.{field}: {error} "
                f"(image id {self.image_ids[image]}). "
                "An attribute used as a label is text, a number, a boolean, a list of texts or null."
            ) from error
        return [values[code] if code >= 0 else None for code in codes.tolist()]


def read_annotations(
    path: str | Path, cache: Path | Literal["default"] | None = "default"
) -> AnnotationIndex:
    """Read a COCO JSON file, from the cache where path, size, time of change and inode are those stored.

    Args:
        path: the JSON file.
        cache: the folder of the cache, `cache_folder()` by default; None reads the JSON and writes nothing.

    Raises:
        DataError: the file cannot be read or used.
    """
    path = Path(path)
    folder = cache_folder() if cache == "default" else cache
    if folder is None:
        return AnnotationIndex(str(path), *_read(path)[1:])
    file = _cache_file(path, folder)
    stored = _load(path, file, _stamp_of(path))
    if stored is None:
        stamp, arrays, facts = _read(path)
        try:
            write_packed(file, arrays, {"stamp": stamp, "facts": msgspec.json.encode(facts).decode()})
        except OSError as error:
            logger.warning("annotations of %s are not cached: %s. Set VISION_MTL_CACHE.", path, error)
            return AnnotationIndex(str(path), arrays, facts)
        # Mapped pages are shared with worker processes; the arrays just made would not be.
        stored = _load(path, file, stamp)
        if stored is None:
            return AnnotationIndex(str(path), arrays, facts)
    return AnnotationIndex(str(path), *stored, cache=folder)


def _reopen(path: str, cache: Path, fingerprint: str, rename: Mapping[str, str] | None) -> AnnotationIndex:
    index = read_annotations(path, cache)
    if index.fingerprint != fingerprint:
        raise DataError(f"{path}: the file changed while it was in use. Start the command again.")
    return index.renamed(rename) if rename else index


def _renamed(
    categories: Sequence[Category], rename: Mapping[str, str]
) -> tuple[tuple[Category, ...], np.ndarray]:
    """Return the categories under their new names, those of one new name joined, and where each of the C old
    ones is among them, (C,) int64."""
    kept: list[Category] = []
    places: list[int] = []
    joined: dict[str, int] = {}
    for category in categories:
        name = rename.get(category.name, category.name)
        place = joined.get(name, len(kept))
        if place == len(kept):
            kept.append(Category(id=category.id, name=name))
        if name in rename.values():
            joined[name] = place
        places.append(place)
    return tuple(kept), np.array(places, np.int64)


def _read(path: Path) -> tuple[str, dict[str, np.ndarray], Facts]:
    """Return the stamp of the very file that was read, its arrays and its facts."""
    stamp, content = _content(path)
    has_bom = content.startswith(codecs.BOM_UTF8)
    with ThreadPoolExecutor(1) as pool:  # hashing leaves the interpreter free to decode
        digest = pool.submit(hashlib.sha256, content)
        file = decode_coco(path, content)
        fingerprint = digest.result().hexdigest()
    del content, digest  # it is larger than all that is made from it
    data = parse_coco(path, file, has_bom)
    return stamp, data.arrays, Facts(data.categories, fingerprint, data.report, data.attribute_fields)


def _content(path: Path) -> tuple[str, bytes]:
    """Return the stamp of the very file that was read, and its content."""
    try:
        with path.open("rb") as stream:
            return _stamp(path, os.fstat(stream.fileno())), stream.read()
    except OSError as error:
        raise _unreadable(path, error) from error


def _stamp_of(path: Path) -> str:
    try:
        return _stamp(path, path.stat())
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(
        f"{path}: cannot read the annotations ({error.strerror}). Expected a COCO JSON file; "
        "check data.root and the split's `annotations`."
    )


def _stamp(path: Path, stat: os.stat_result) -> str:
    return f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ino}"


def _cache_file(path: Path, folder: Path) -> Path:
    key = hashlib.sha256(os.fsencode(path.resolve())).hexdigest()[:24]
    return folder / f"annotations-v{FORMAT}-{key}.safetensors"


def _load(path: Path, file: Path, stamp: str) -> tuple[dict[str, np.ndarray], Facts] | None:
    """Return what the cache file holds, None where it is missing, stale, damaged or unreadable."""
    try:
        arrays, metadata = read_packed(file)
    except FileNotFoundError:
        return None
    except (DamagedCacheError, OSError) as error:
        logger.warning("reading %s again, its cache cannot be used: %s", path, error)
        return None
    if metadata["stamp"] != stamp:
        return None
    return arrays, msgspec.json.decode(metadata["facts"], type=Facts)
