"""Keys given twice: found wherever they are read, and nowhere else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vision_mtl.data.annotations import read_annotations
from vision_mtl.errors import DataError

from .coco_files import GOOD, coco, image

TEXT = json.dumps(coco([image(5, attributes={"kind": "a"}), image(6)], [GOOD]))


def read(folder: Path, text: str) -> None:
    file = folder / "set.json"
    file.write_text(text, encoding="utf-8")
    read_annotations(file, None)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"bbox":', '"bbox": [1, 2, 3, 4], "bbox":', r"\$\.annotations\[0\]\.bbox: .*1 annotations: ids 1\)"),
        ('"width":', '"width": 3, "width":', r"\$\.images\[0\]\.width: .*2 images: ids 5, 6\)"),
        ('"kind":', '"kind": "b", "kind":', r"\$\.images\[0\]\.attributes\.kind: .*1 images: ids 5\)"),
        (
            '"name":',
            '"n\\u0061me": "x", "name":',
            r"\$\.categories\[0\]\.name: .*3 categories: ids 90, 0, 7\)",
        ),
        (
            '"annotations":',
            '"annotations": [], "annotations":',
            r"\$\.annotations: the key is given twice, and",
        ),
        ('"iscrowd":', '"iscrowd": null, "iscrowd":', r"\$\.annotations\[0\]\.iscrowd: "),
    ],
)
def test_a_key_given_twice_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in TEXT
    with pytest.raises(DataError, match=rf"set\.json: {message}.*Keep one of them"):
        read(tmp_path, TEXT.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"bbox":', '"more": {"bbox": 1, "id": 2}, "bbox":'),  # deeper, where nobody reads
        ('"name": "cat"', '"name": "name"'),  # a value
        ('"kind": "a"', '"kind": "kind", "id": 3'),
        ('"bbox":', '"score": 1, "score": 2, "bbox":'),  # not read
        ('"images":', '"info": {"images": [], "annotations": "\\u0061"}, "images":'),
        ('"area": 25', '"area": null'),
        ('"bbox":', f'"long": {"9" * 5000}, "id\\u0041": 1, "bbox":'),
    ],
)
def test_what_only_looks_like_it_is_read(tmp_path: Path, old: str, new: str) -> None:
    assert old in TEXT
    read(tmp_path, TEXT.replace(old, new))
