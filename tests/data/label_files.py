"""One annotation file for the tests of labels, and short ways to read labels from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from vision_mtl.data.annotations import AnnotationIndex, read_annotations
from vision_mtl.data.labels import HeadLabels, LabelSource, read_labels

CATEGORIES = ["ant", "bee", "cat"]
# Per image: (category, [x, y, width, height], crowd).
BOXES: list[list[tuple[str, list[float], int]]] = [
    [("bee", [0, 0, 10, 10], 0), ("cat", [0, 0, 5, 10], 0), ("cat", [50, 0, 5, 20], 0)],  # cat: 150 over 100
    [("ant", [0, 0, 100, 100], 1), ("cat", [0, 0, 2, 2], 0)],  # the large one is a crowd
    [("ant", [0, 0, 50, 50], 1)],  # crowd only
    [],
    [("cat", [0, 0, 10, 10], 0), ("bee", [20, 20, 10, 10], 0)],  # a tie
    [
        ("bee", [90, 90, 50, 50], 0),
        ("ant", [0, 0, 11, 10], 0),
        ("cat", [0, 0, 0, 9], 0),
    ],  # clipped to 10 x 10
]
ATTRIBUTES: list[dict[str, Any] | None] = [
    {"kind": "b", "tags": ["x", "y"], "grade": 3, "mixed": "a"},
    {"kind": "a", "tags": [], "grade": 1.5, "mixed": 3},
    {"kind": None, "tags": ["y"], "grade": None, "mixed": True},
    {"kind": "", "nothing": None, "mixed": 1.5},
    {"kind": "b"},
    None,
]


def write_index(folder: Path) -> AnnotationIndex:
    """Write `set.json` with six images of 100 x 100 pixels, category ids 0, 10, 20; return it as read."""
    images = [
        {"id": i, "file_name": f"{i}.jpg", "height": 100, "width": 100, "attributes": attributes}
        for i, attributes in enumerate(ATTRIBUTES)
    ]
    boxes = [
        {"image_id": i, "category_id": 10 * CATEGORIES.index(name), "bbox": bbox, "iscrowd": crowd}
        for i, objects in enumerate(BOXES)
        for name, bbox, crowd in objects
    ]
    annotations = [{"id": number, **entry} for number, entry in enumerate(boxes)]
    categories = [{"id": 10 * place, "name": name} for place, name in enumerate(CATEGORIES)]
    file = folder / "set.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return read_annotations(file, None)


def write_csv(index: AnnotationIndex, text: str | bytes) -> Path:
    """Write `labels.csv` beside the annotations."""
    file = Path(index.path).parent / "labels.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def source(kind: str, name: str, **fields: Any) -> LabelSource:
    return msgspec.convert({"kind": kind, "source": name, **fields}, LabelSource)


def labels(
    index: AnnotationIndex, wanted: LabelSource, vocabulary: tuple[str, ...] | None = None
) -> HeadLabels:
    """Return the labels of a head `h`."""
    return read_labels("h", wanted, index, Path(index.path).parent, vocabulary)
