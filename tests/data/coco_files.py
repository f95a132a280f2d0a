"""COCO files for tests, entry by entry."""

from __future__ import annotations

from typing import Any

import numpy as np

from vision_mtl.data.annotations import AnnotationIndex


def image(id_: int, **more: Any) -> dict[str, Any]:
    return {"id": id_, "file_name": f"{id_}.jpg", "height": 100, "width": 200, **more}


def box(id_: int, image_id: int, bbox: list[float], category: int = 7, **more: Any) -> dict[str, Any]:
    area = bbox[2] * bbox[3]
    entry = {
        "id": id_,
        "image_id": image_id,
        "category_id": category,
        "bbox": bbox,
        "area": area,
        "iscrowd": 0,
    }
    return {**entry, **more}


def without(entry: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if key not in keys}


CATEGORIES = [{"id": 90, "name": "cat"}, {"id": 0, "name": "ant"}, {"id": 7, "name": "bee"}]


def coco(
    images: list[dict[str, Any]] | None = None,
    annotations: list[dict[str, Any]] | None = None,
    categories: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    images = [image(5), image(0)] if images is None else images
    return {
        "images": images,
        "annotations": annotations or [],
        "categories": CATEGORIES if categories is None else categories,
    }


GOOD = box(1, 5, [0, 0, 5, 5])


def assert_same(first: AnnotationIndex, second: AnnotationIndex) -> None:
    for name in (
        "image_ids",
        "sizes",
        "offsets",
        "xywh",
        "areas",
        "classes",
        "crowd",
        "usable",
        "annotation_ids",
    ):
        assert np.array_equal(getattr(first, name), getattr(second, name)), name
        assert getattr(first, name).dtype == getattr(second, name).dtype, name
    assert first.categories == second.categories
    assert first.fingerprint == second.fingerprint
    assert first.report == second.report
    assert [first.file_name(i) for i in range(len(first))] == [
        second.file_name(i) for i in range(len(second))
    ]
    assert first.attribute_fields == second.attribute_fields
    assert all(first.attribute(field) == second.attribute(field) for field in first.attribute_fields)
