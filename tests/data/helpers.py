"""Small sources made in memory or in a temporary folder."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vision_mtl.data.annotations import AnnotationIndex, Objects, read_annotations
from vision_mtl.data.categories import map_classes
from vision_mtl.data.dataset import Source
from vision_mtl.data.images import BadImageError, Decoded, Needs
from vision_mtl.data.labels import HeadLabels


@dataclass(frozen=True)
class MemoryImages:
    """Random pixels at the annotated sizes; `bad` positions cannot be read."""

    sizes: np.ndarray
    bad: frozenset[int] = field(default_factory=frozenset)

    def path(self, position: int) -> str:
        return f"{position}.png"

    def read(self, position: int, needs: Needs | None = None) -> Decoded:
        if position in self.bad:
            raise BadImageError(self.path(position), "is damaged")
        height, width = self.sizes[position]
        noise = np.random.default_rng(position).integers(0, 256, (height, width, 3), np.uint8)
        return Decoded.whole(noise)


def objects(
    *boxes: list[float], classes: list[int] | None = None, crowd: list[bool] | None = None
) -> Objects:
    return Objects(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(classes if classes is not None else [0] * len(boxes), np.int64),
        np.array(crowd if crowd is not None else [False] * len(boxes), bool),
    )


def write_coco(
    path: Path,
    images: list[dict[str, Any]],
    annotations: list[dict[str, Any]],
    categories: tuple[str, ...] = ("ant", "bee"),
) -> Path:
    """Write a COCO file; annotations are numbered, categories get the ids 1, 2, ..."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = [{"id": i + 1, "iscrowd": 0, **entry} for i, entry in enumerate(annotations)]
    kinds = [{"id": i + 1, "name": name} for i, name in enumerate(categories)]
    path.write_text(json.dumps({"images": images, "annotations": entries, "categories": kinds}))
    return path


def index_of(
    folder: Path, sizes: list[tuple[int, int]], boxes: dict[int, list[tuple[int, list[float]]]]
) -> AnnotationIndex:
    """Return an index of images of (height, width) `sizes`; `boxes`: image -> (category id, xywh)."""
    images = [{"id": i, "file_name": f"{i}.png", "height": h, "width": w} for i, (h, w) in enumerate(sizes)]
    annotations = [
        {"image_id": i, "category_id": category, "bbox": box}
        for i, entries in boxes.items()
        for category, box in entries
    ]
    return read_annotations(write_coco(folder / "set.json", images, annotations), None)


def source_of(
    index: AnnotationIndex,
    labels: dict[str, HeadLabels] | None = None,
    bad: set[int] = frozenset(),  # type: ignore[assignment]
    has_boxes: bool = True,
) -> Source:
    images = MemoryImages(index.sizes, frozenset(bad))
    classes = map_classes(index.categories, index.categories)
    return Source(index, images, labels or {}, has_boxes, np.arange(len(index)), classes)
