"""Typed COCO structs -> checked, packed arrays. What cannot be trusted is an error here, before training."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Raw

from vision_mtl.data.coco_json import Category, CocoFile, listed
from vision_mtl.errors import DataError

XYXY_LIMIT = 0.05  # fraction of boxes that overflow but fit as xyxy, above which the file is refused
OVERHANG_TOLERANCE = 1e-3  # pixels; less is rounding in x + width and not worth reporting


class Finding(msgspec.Struct):
    """How often something was met, and up to ten annotation ids where it was."""

    count: int
    examples: list[int] = []


class ValidationReport(msgspec.Struct):
    """What reading a file put right (`corrected`) or left out of training (`dropped`), by reason."""

    images: int
    negatives: int
    annotations: int
    corrected: dict[str, Finding] = {}
    dropped: dict[str, Finding] = {}

    def lines(self) -> list[str]:
        """Return the report as text: a summary, then one line per reason."""
        text = [
            f"{self.images} images ({self.negatives} without annotations), {self.annotations} annotations"
        ]
        for verb, findings in (("corrected", self.corrected), ("dropped", self.dropped)):
            for reason, finding in findings.items():
                where = f" (annotation {listed(finding.examples, finding.count)})" if finding.examples else ""
                text.append(f"{verb} {finding.count}: {reason}{where}")
        return text


@dataclass(frozen=True)
class CocoData:
    """A checked file: `arrays` holds those of `AnnotationIndex` and the packed names and attributes."""

    arrays: dict[str, np.ndarray]
    categories: tuple[Category, ...]
    attribute_fields: list[str]
    report: ValidationReport


def parse_coco(path: Path, file: CocoFile, has_bom: bool = False) -> CocoData:
    """Check and pack what `path` holds; `has_bom` says whether it began with a byte order mark.

    Annotations are grouped by image, in file order within one.

    Raises:
        DataError: names the file, the JSON pointer, the ids (first ten), their number and the cure.
    """
    corrected: dict[str, Finding] = {}
    dropped: dict[str, Finding] = {}
    if has_bom:
        corrected["UTF-8 byte order mark, skipped"] = Finding(1)

    categories = tuple(sorted(file.categories, key=lambda category: category.id))
    category_ids = _integers([category.id for category in categories])
    _refuse_duplicates(path, "categories", _integers([category.id for category in file.categories]))
    image_ids = _column(file.images, "id", np.int64)
    _refuse_duplicates(path, "images", image_ids)
    sides = [_column(file.images, side, np.int64) for side in ("height", "width")]
    sizes = np.stack(sides, axis=1)
    unsafe = np.array([_leaves_folder(image.file_name) for image in file.images], bool)
    _refuse(path, "images", "file_name", unsafe, image_ids, "a file name that leaves the image folder",
            "Use paths relative to the image folder, without `..` and drive letters.")  # fmt: skip

    entries = file.annotations
    ids, without_id = _numbered([entry.id for entry in entries])
    _refuse_duplicates(path, "annotations", ids)
    rows = _positions(image_ids, _column(entries, "image_id", np.int64))
    _refuse(path, "annotations", "image_id", rows < 0, ids, "an image id that `images` does not have",
            "Add the images or remove their annotations.")  # fmt: skip
    classes = _positions(category_ids, _column(entries, "category_id", np.int64))
    known = f"Known ids: {', '.join(map(str, category_ids[:100]))}."
    _refuse(path, "annotations", "category_id", classes < 0, ids,
            "a category id that `categories` does not have", known)  # fmt: skip
    flat = chain.from_iterable(map(attrgetter("bbox"), entries))
    xywh = np.fromiter(flat, np.float64, 4 * len(entries)).reshape(-1, 4)
    without_crowd = np.array([entry.iscrowd is None for entry in entries], bool)
    crowd = np.array([bool(entry.iscrowd) for entry in entries], bool)
    areas = np.array(
        [entry.area for entry in entries], np.float64
    )  # None becomes NaN, which JSON cannot hold
    products = xywh[:, 2] * xywh[:, 3]
    without_area, negative_area = np.isnan(areas), (areas < 0) & (products >= 0)
    areas = np.where(without_area | negative_area, products, areas)

    usable = _check_boxes(path, xywh, sizes[rows], ids, corrected, dropped)
    _count(corrected, "annotation without id, numbered", without_id, ids)
    _count(corrected, "annotation without iscrowd, taken as 0", without_crowd, ids)
    _count(corrected, "annotation without area, taken as width x height", without_area, ids)
    # pycocotools leaves a negative area out of every range of sizes: the object would count for nothing.
    _count(corrected, "annotation with a negative area, taken as width x height", negative_area, ids)

    order = np.argsort(rows, kind="stable")
    counts = np.bincount(rows, minlength=len(image_ids))
    fields, attribute_arrays = pack_attributes([image.attributes or {} for image in file.images])
    arrays = {
        "image_ids": image_ids,
        "sizes": sizes,
        "offsets": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        "xywh": xywh[order],
        "areas": areas[order],
        "classes": classes[order],
        "crowd": crowd[order],
        "usable": usable[order],
        "annotation_ids": ids[order],
        **pack_names([image.file_name for image in file.images]),
        **attribute_arrays,
    }
    negatives = int((counts == 0).sum())
    report = ValidationReport(len(image_ids), negatives, len(ids), corrected, dropped)
    return CocoData(arrays, categories, fields, report)


def clip_boxes(xywh: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return `xywh` (N, 4) as float32 xyxy inside images of `sizes` (N, 2) or (2,) (height, width)."""
    limits = np.asarray(sizes)[..., [1, 0, 1, 0]]
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], axis=1)
    return np.clip(corners, 0, limits).astype(np.float32)


def _refuse(
    path: Path, section: str, field: str, bad: np.ndarray, ids: np.ndarray, problem: str, cure: str
) -> None:
    """Raise a `DataError` where `bad` (N,) is True anywhere; `ids` (N,) are those of the entries."""
    at = np.flatnonzero(bad)
    if len(at):
        raise DataError(
            f"{path}: $.{section}[{at[0]}].{field}: {problem} "
            f"({len(at)} {section}: {listed(ids[at[:10]].tolist(), len(at))}). {cure}"
        )


def _refuse_duplicates(path: Path, section: str, ids: np.ndarray) -> None:
    order = np.argsort(ids, kind="stable")
    repeated = np.zeros(len(ids), bool)
    repeated[order[1:]] = ids[order[1:]] == ids[order[:-1]]
    _refuse(path, section, "id", repeated, ids, "an id that an earlier entry has", "Give each its own id.")


def _check_boxes(
    path: Path,
    xywh: np.ndarray,
    sizes: np.ndarray,
    ids: np.ndarray,
    corrected: dict[str, Finding],
    dropped: dict[str, Finding],
) -> np.ndarray:
    """Return which boxes (A, 4) can be trained on, (A,) bool; `sizes` (A, 2) are those of their images."""
    x, y, width, height = xywh.T
    image_height, image_width = sizes.T
    sized = (width > 0) & (height > 0)
    right = x + width - image_width
    bottom = y + height - image_height
    overflows = sized & ((right > 1) | (bottom > 1))
    fits = (
        (x >= 0) & (y >= 0) & (width > x) & (height > y) & (width <= image_width) & (height <= image_height)
    )
    swapped = overflows & fits
    if swapped.sum() > XYXY_LIMIT * len(xywh):
        _refuse(path, "annotations", "bbox", swapped, ids,
                f"looks like xyxy written as xywh: {swapped.mean():.0%} of all boxes overflow their image "
                "as [x, y, width, height] but fit as [x1, y1, x2, y2]",
                "Write bbox as [x1, y1, x2 - x1, y2 - y1].")  # fmt: skip
    clipped = clip_boxes(xywh, sizes)
    inside = (x < image_width) & (y < image_height) & (x + width > 0) & (y + height > 0)
    sized &= ~inside | (clipped[:, 2:] > clipped[:, :2]).all(axis=1)  # float32 knows no thinner boxes
    usable = sized & inside
    outermost = np.stack([-x, -y, right, bottom]).max(axis=0)
    _count(
        corrected,
        "box overhangs its image, clipped for training",
        usable & (outermost > OVERHANG_TOLERANCE),
        ids,
    )
    _count(dropped, "box of zero or negative size", ~sized, ids)
    _count(dropped, "box wholly outside its image", sized & ~inside, ids)
    return usable


def _count(findings: dict[str, Finding], reason: str, met: np.ndarray, ids: np.ndarray) -> None:
    if met.any():
        findings[reason] = Finding(int(met.sum()), ids[met][:10].tolist())


def _column(entries: Sequence[Any], field: str, dtype: type) -> np.ndarray:
    """Return one field of N entries, (N,)."""
    return np.fromiter(map(attrgetter(field), entries), dtype, len(entries))


def _integers(values: Sequence[Any]) -> np.ndarray:
    return np.array(values, np.int64)


def _numbered(ids: list[int | None]) -> tuple[np.ndarray, np.ndarray]:
    """Return ids with the missing ones numbered past the largest, and which were missing, both (A,)."""
    missing = np.array([value is None for value in ids], bool)
    filled = _integers([0 if value is None else value for value in ids])
    filled[missing] = max(0, filled.max(initial=0)) + 1 + np.arange(missing.sum())
    return filled, missing


def _positions(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return where in `known` each of `wanted` is, -1 where it is not."""
    if not len(known):
        return np.full(len(wanted), -1, np.int64)
    low, high = int(known.min()), int(known.max())
    if high - low < 16 * (len(known) + len(wanted)):  # a table takes a fraction of the time of a search
        table = np.full(high - low + 1, -1, np.int64)
        table[known - low] = np.arange(len(known))
        inside = (wanted >= low) & (wanted <= high)
        return np.where(inside, table[np.where(inside, wanted - low, 0)], -1)
    order = np.argsort(known)
    nearest = order[np.searchsorted(known, wanted, sorter=order).clip(max=len(known) - 1)]
    return np.where(known[nearest] == wanted, nearest, -1)


def _leaves_folder(name: str) -> bool:
    parts = name.replace("\\", "/")
    if parts[0] == "/" or parts[1:2] == ":" or "\0" in parts:
        return True
    return ".." in parts and posixpath.normpath(parts).split("/")[0] == ".."


def pack_names(names: list[str]) -> dict[str, np.ndarray]:
    """Return `names` (bytes,) uint8, texts end to end, and `name_offsets` (I + 1,) int64, their bounds."""
    encoded = [name.encode() for name in names]
    ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return {"names": np.frombuffer(b"".join(encoded), np.uint8), "name_offsets": ends}


def pack_attributes(attributes: list[dict[str, Raw]]) -> tuple[list[str], dict[str, np.ndarray]]:
    """Return the fields, and per field number f two arrays.

    `codes/f` (I,) int32 points into the JSON list whose text is `values/f` (bytes,) uint8; -1 is no value.
    The values are typed only when the field is used: one that is not may hold anything.
    """
    fields = list(dict.fromkeys(chain.from_iterable(attributes)))
    arrays: dict[str, np.ndarray] = {}
    for number, field in enumerate(fields):
        texts = [bytes(entry[field]) if field in entry else b"null" for entry in attributes]
        known = {text: code for code, text in enumerate(dict.fromkeys(t for t in texts if t != b"null"))}
        arrays[f"codes/{number}"] = np.array([known.get(text, -1) for text in texts], np.int32)
        arrays[f"values/{number}"] = np.frombuffer(b"[" + b",".join(known) + b"]", np.uint8)
    return fields, arrays
