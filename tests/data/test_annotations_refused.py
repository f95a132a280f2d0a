"""Annotations: every refusal's message, and what is just not refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vision_mtl.data.annotations import read_annotations
from vision_mtl.errors import DataError

from .coco_files import CATEGORIES, GOOD, box, coco, image, without

TEN = [box(n, 5, [0, 0, 5, 5], 1234) for n in range(12)]
REFUSED: dict[str, tuple[Any, str]] = {
    "truncated": (
        '{"images": [],\n "annotations": [{"id": 1',
        r"line 2, column 26: not valid JSON .*truncated.* again",
    ),
    "wrong type, then truncated": (
        '{"images": [{"id": "1"}],\n "annotations": [',
        r"line 2, column 18: not valid JSON .*truncated",
    ),
    "wrong type, then deep": (
        '{"images": [{"id": "1"}], "info": ' + "[" * 100_000 + "]" * 100_000 + "}",
        r"nested too deeply",
    ),
    "empty file": ("", r"line 1, column 1: not valid JSON"),
    "malformed": ('{"images": [],\n  oops}', r"line 2, column 3: not valid JSON"),
    "NaN": (coco(annotations=[box(1, 5, [0, 0, float("nan"), 5])]), r"line 1, column \d+: .*NaN"),
    "Infinity": (coco(annotations=[box(1, 5, [0, 0, float("inf"), 5])]), r"line 1, column \d+: .*Infinity"),
    "1e999": (
        json.dumps(coco(annotations=[GOOD])).replace("[0, 0, 5, 5]", "[0, 0, 1e999, 5]"),
        r"\$\.annotations\[0\]\.bbox\[2\]: Number out of range .*ids 1\)\. .*four finite numbers",
    ),
    "huge number": (
        coco(annotations=[box(1, 5, [0, 0, 1e200, 5])]),
        r"\$\.annotations\[0\]\.bbox\[2\]: Expected `float` <= 1000000000\.0",
    ),
    "infinite area": (
        json.dumps(coco(annotations=[GOOD])).replace("25", "1e999"),
        r"\$\.annotations\[0\]\.area: Number out of range .*ids 1\)",
    ),
    "wrong root": (
        [1],
        r"\$: Expected `object`, got `array`\. A COCO file is an object with the lists `images`",
    ),
    "no annotations": (without(coco(), "annotations"), r"\$: Object missing required field `annotations`"),
    "annotations null": ({**coco(), "annotations": None}, r"\$\.annotations: Expected `array`, got `null`"),
    "not UTF-8": (
        json.dumps(coco([image(1, file_name="X")])).encode().replace(b"X", b"\xff"),
        r"not UTF-8 .*Save the file as UTF-8",
    ),
    "deep": ('{"info": ' + "[" * 100_000 + "]" * 100_000 + "}", r"nested too deeply .*Write the file again"),
    "text id": (
        coco(annotations=[GOOD, box("2", 5, [0, 0, 5, 5]), box("3", 5, [0, 0, 5, 5])]),  # type: ignore[arg-type]
        r"\$\.annotations\[1\]\.id: Expected `int \| null`, got `str` "
        r"\(2 bad annotations: ids \"2\", \"3\"\)\. Ids are JSON integers",
    ),
    "text image id": (
        coco(annotations=[GOOD, box(2, "5", [0, 0, 5, 5])]),  # type: ignore[arg-type]
        r"\$\.annotations\[1\]\.image_id: Expected `int`, got `str` \(1 bad annotations: ids 2\)",
    ),
    "float id": (coco([image(1.5)]), r"\$\.images\[0\]\.id: Expected `int`, got `float`"),  # type: ignore[arg-type]
    "id that float64 does not hold": (
        coco([image(2**53), image(2**53 + 1)]),
        r"\$\.images\[1\]\.id: Expected `int` <= 9007199254740992 \(1 bad images: ids 9007199254740993\)",
    ),
    "long id": (
        coco([image("x" * 1000)]),  # type: ignore[arg-type]
        r"1 bad images: ids \"x{36}\.\.\.\)\. Ids are",
    ),
    "three numbers": (
        coco(annotations=[GOOD, box(2, 5, [0, 0, 5, 5]) | {"bbox": [1, 2, 3]}]),
        r"\$\.annotations\[1\]\.bbox: Expected `array` of length 4 \(1 bad annotations: ids 2\)\. A box is",
    ),
    "no bbox": (
        coco(annotations=[without(GOOD, "bbox"), without(GOOD, "bbox", "id")]),
        r"\$\.annotations\[0\]: Object missing required field `bbox` .*ids 1, missing\)\. A box is",
    ),
    "no object": (
        coco(annotations=[GOOD, 3]),
        r"\$\.annotations\[1\]: Expected `object`, got `int` .*missing",
    ),  # type: ignore[list-item]
    "iscrowd 2": (
        coco(annotations=[box(8, 5, [0, 0, 5, 5], iscrowd=2)]),
        r"\$\.annotations\[0\]\.iscrowd: .*2 .*ids 8\)\. iscrowd is 0, 1",
    ),
    "unknown category": (
        coco(annotations=[GOOD, *TEN[:1], *[entry | {"id": 50 + entry["id"]} for entry in TEN[1:]]]),
        r"\$\.annotations\[1\]\.category_id: a category id that `categories` does not have "
        r"\(12 annotations: ids 0, 51, 52, 53, 54, 55, 56, 57, 58, 59, \.\.\.\)\. Known ids: 0, 7, 90",
    ),
    "unknown image": (
        coco(annotations=[GOOD, box(2, 6, [0, 0, 5, 5])]),
        r"\$\.annotations\[1\]\.image_id: an image id that `images` does not have \(1 annotations: ids 2\)",
    ),
    "no images": (coco([], [GOOD]), r"\$\.annotations\[0\]\.image_id: an image id"),
    "duplicate annotation": (
        coco(annotations=[GOOD, box(2, 5, [0, 0, 5, 5]), GOOD, GOOD]),
        r"\$\.annotations\[2\]\.id: an id that an earlier entry has \(2 annotations: ids 1, 1\)",
    ),
    "duplicate image": (
        coco([image(4), image(3), image(4)]),
        r"\$\.images\[2\]\.id: an id .*1 images: ids 4\)",
    ),
    "duplicate category": (
        coco(categories=[*CATEGORIES, {"id": 7, "name": "x"}]),
        r"\$\.categories\[3\]\.id: an id .*1 categories: ids 7\)",
    ),
    "no file name": (coco([without(image(1), "file_name")]), r"\$\.images\[0\]: .*`file_name` .*ids 1\)"),
    "empty file name": (
        coco([image(1, file_name="")]),
        r"\$\.images\[0\]\.file_name: .*length >= 1 .*ids 1\)",
    ),
    "zero width": (
        coco([image(1), image(2, width=0), image(3, width=-4)]),
        r"\$\.images\[1\]\.width: Expected `int` >= 1 \(2 bad images: ids 2, 3\)\. Image sizes",
    ),
    "xyxy": (
        coco(annotations=[box(1, 5, [10, 10, 5, 5]), box(2, 5, [150, 50, 190, 90])]),
        r"\$\.annotations\[1\]\.bbox: looks like xyxy written as xywh: 50% .*1 annotations: ids 2\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case: str, read: Any) -> None:
    content, message = REFUSED[case]
    with pytest.raises(DataError, match=r"(?s)set\.json: .*" + message):
        read(content)


@pytest.mark.parametrize(
    "name", ["/etc/a.jpg", "../a.jpg", "a/../../b.jpg", "C:\\a.jpg", "\\\\host\\a.jpg", "a\0b"]
)
def test_file_name_outside_the_folder(name: str, read: Any) -> None:
    with pytest.raises(DataError, match=r"\$\.images\[1\]\.file_name: a file name that leaves .*ids 2\)"):
        read(coco([image(1), image(2, file_name=name)]))


@pytest.mark.parametrize("name", ["a/b.jpg", "a/../b.jpg", "..a.jpg", "a..jpg", "ä/日.jpg"])
def test_file_name_inside_the_folder(name: str, read: Any) -> None:
    assert read(coco([image(1, file_name=name)])).file_name(0) == name


def test_few_overflowing_boxes_are_clipped_not_refused(read: Any) -> None:
    boxes = [box(n, 5, [10, 10, 5, 5]) for n in range(19)]
    assert read(coco(annotations=[*boxes, box(99, 5, [150, 50, 190, 90])])).usable.all()


@pytest.mark.parametrize("cache", [None, "folder"])
def test_unreadable_file(tmp_path: Path, cache: str | None) -> None:
    folder = tmp_path / cache if cache else None
    with pytest.raises(
        DataError, match=r"none\.json: cannot read the annotations \(No such file.*data\.root"
    ):
        read_annotations(tmp_path / "none.json", folder)
    with pytest.raises(DataError, match=r"cannot read the annotations \(Is a directory"):
        read_annotations(tmp_path, folder)
