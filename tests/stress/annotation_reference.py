"""A slow and plain reading of COCO annotations, entry by entry, to judge the fast one by."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np

from vision_mtl.data.annotations import AnnotationIndex

OVERHANGS = "box overhangs its image, clipped for training"
UNSIZED = "box of zero or negative size"
OUTSIDE = "box wholly outside its image"
WITHOUT_ID = "annotation without id, numbered"
WITHOUT_CROWD = "annotation without iscrowd, taken as 0"
WITHOUT_AREA = "annotation without area, taken as width x height"
NEGATIVE_AREA = "annotation with a negative area, taken as width x height"


@dataclass
class Expected:
    """What reading a file must give: per image its entries, in file order, and the counts by reason."""

    categories: list[tuple[int, str]]
    images: list[dict[str, Any]]
    entries: list[list[dict[str, Any]]]
    found: Counter[str]


def expect(document: dict[str, Any]) -> Expected:
    """Return what reading `document`, a file without fatal faults, must give."""
    categories = sorted((entry["id"], entry["name"]) for entry in document["categories"])
    classes = {number: place for place, (number, _) in enumerate(categories)}
    sizes = {image["id"]: (image["height"], image["width"]) for image in document["images"]}
    by_image: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in document["images"]}
    found: Counter[str] = Counter()
    given = [entry["id"] for entry in document["annotations"] if entry.get("id") is not None]
    following = max([0, *given]) + 1
    for entry in document["annotations"]:
        number = entry.get("id")
        if number is None:
            number, following = following, following + 1
            found[WITHOUT_ID] += 1
        crowd = entry.get("iscrowd")
        found[WITHOUT_CROWD] += crowd is None
        x, y, width, height = (float(value) for value in entry["bbox"])
        area = entry.get("area")
        found[WITHOUT_AREA] += area is None
        negative = area is not None and area < 0 <= width * height
        found[NEGATIVE_AREA] += negative
        read = {
            "id": number,
            "class": classes[entry["category_id"]],
            "crowd": bool(crowd),
            "xywh": [x, y, width, height],
            "area": width * height if area is None or negative else float(area),
            "box": _clipped(x, y, width, height, sizes[entry["image_id"]], found),
        }
        by_image[entry["image_id"]].append(read)
    entries = [by_image[image["id"]] for image in document["images"]]
    return Expected(categories, document["images"], entries, +found)


def _clipped(
    x: float, y: float, width: float, height: float, size: tuple[int, int], found: Counter[str]
) -> list[float] | None:
    """Return xyxy inside an image of (height, width) `size`, None for a box that training drops."""
    if width <= 0 or height <= 0:
        found[UNSIZED] += 1
        return None
    bottom, right = size
    box = [max(0.0, x), max(0.0, y), min(float(right), x + width), min(float(bottom), y + height)]
    if box[2] <= box[0] or box[3] <= box[1]:
        found[OUTSIDE] += 1
        return None
    short = [float(np.float32(value)) for value in box]
    if short[2] <= short[0] or short[3] <= short[1]:
        found[UNSIZED] += 1  # too thin for float32
        return None
    found[OVERHANGS] += max(-x, -y, x + width - right, y + height - bottom) > 1e-3
    return short


def differences(index: AnnotationIndex, expected: Expected) -> list[str]:
    """Return in what an index differs from what was expected, in words."""
    flat = [entry for entries in expected.entries for entry in entries]
    wanted = {
        "image_ids": np.array([image["id"] for image in expected.images], np.int64),
        "sizes": np.array([[i["height"], i["width"]] for i in expected.images], np.int64).reshape(-1, 2),
        "offsets": np.cumsum([0, *map(len, expected.entries)]).astype(np.int64),
        "xywh": np.array([entry["xywh"] for entry in flat], np.float64).reshape(-1, 4),
        "areas": np.array([entry["area"] for entry in flat], np.float64),
        "classes": np.array([entry["class"] for entry in flat], np.int64),
        "crowd": np.array([entry["crowd"] for entry in flat], bool),
        "usable": np.array([entry["box"] is not None for entry in flat], bool),
        "annotation_ids": np.array([entry["id"] for entry in flat], np.int64),
    }
    wrong = [
        name
        for name, array in wanted.items()
        if getattr(index, name).dtype != array.dtype or not np.array_equal(getattr(index, name), array)
    ]
    if [(category.id, category.name) for category in index.categories] != expected.categories:
        wrong.append("categories")
    for i, (image, entries) in enumerate(zip(expected.images, expected.entries, strict=True)):
        kept = [entry for entry in entries if entry["box"] is not None]
        objects = index.objects(i)
        if index.file_name(i) != image["file_name"]:
            wrong.append(f"file_name({i})")
        if objects.boxes.tolist() != [entry["box"] for entry in kept]:
            wrong.append(f"objects({i}).boxes")
        if objects.classes.tolist() != [entry["class"] for entry in kept]:
            wrong.append(f"objects({i}).classes")
        if objects.crowd.tolist() != [entry["crowd"] for entry in kept]:
            wrong.append(f"objects({i}).crowd")
    for field in index.attribute_fields:
        values = [(image.get("attributes") or {}).get(field) for image in expected.images]
        if index.attribute(field) != values:
            wrong.append(f"attribute({field})")
    found = {**index.report.corrected, **index.report.dropped}
    counts = Counter({reason: finding.count for reason, finding in found.items()})
    counts.pop("UTF-8 byte order mark, skipped", None)  # of the bytes, not of the tree
    if counts != expected.found:
        wrong.append(f"findings {dict(counts)} instead of {dict(expected.found)}")
    return wrong
