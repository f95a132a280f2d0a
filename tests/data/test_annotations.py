"""Annotations: known answers, every refusal's message, and real files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_mtl.data.annotations import AnnotationIndex, read_annotations
from vision_mtl.data.coco_checks import clip_boxes
from vision_mtl.errors import DataError

from .coco_files import CATEGORIES, GOOD, assert_same, box, coco, image, without

REAL = Path(__file__).parents[2].parent / "shared" / "data"
REAL_FILES = sorted(REAL.glob("*/annotations/*.json"))


@pytest.fixture
def read(tmp_path: Path) -> Any:
    """Write content (an object, text or bytes) to a file and read it without cache."""

    def from_content(content: Any) -> AnnotationIndex:
        file = tmp_path / "set.json"
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
        return read_annotations(file, None)

    return from_content


def test_known_answer(read: Any) -> None:
    index = read(
        coco(
            annotations=[
                box(30, 0, [10, 20, 30, 40], 90, area=77.5),
                box(10, 5, [0, 0, 5, 5], 0, segmentation=[[1, 2, 3, 4]]),
                box(20, 0, [190, -5, 20, 10], 7, iscrowd=1),
                box(0, 5, [1.5, 2.5, 3, 4], 7, iscrowd=True),
            ]
        )
    )
    assert len(index) == 2
    assert [category.name for category in index.categories] == ["ant", "bee", "cat"]
    assert [category.id for category in index.categories] == [0, 7, 90]
    assert index.image_ids.tolist() == [5, 0]
    assert [index.file_name(0), index.file_name(1)] == ["5.jpg", "0.jpg"]
    assert index.sizes.tolist() == [[100, 200], [100, 200]]
    assert index.offsets.tolist() == [0, 2, 4]
    assert index.annotation_ids.tolist() == [10, 0, 30, 20]
    assert index.classes.tolist() == [0, 1, 2, 1]
    assert index.crowd.tolist() == [False, True, False, True]
    assert index.areas.tolist() == [25.0, 12.0, 77.5, 200.0]
    assert index.xywh.tolist() == [[0, 0, 5, 5], [1.5, 2.5, 3, 4], [10, 20, 30, 40], [190, -5, 20, 10]]
    assert index.usable.all()
    objects = index.objects(1)
    assert objects.boxes.tolist() == [[10, 20, 40, 60], [190, 0, 200, 5]]
    assert objects.boxes.dtype == np.float32
    assert objects.classes.tolist() == [2, 1]
    assert objects.crowd.tolist() == [False, True]
    assert index.report.corrected["box overhangs its image, clipped for training"].examples == [20]
    assert len(index.fingerprint) == 64


def test_dtypes(read: Any) -> None:
    for index in (read(coco(annotations=[box(1, 5, [0, 0, 5, 5])])), read(coco(images=[], categories=[]))):
        for name in ("image_ids", "sizes", "offsets", "classes", "annotation_ids"):
            assert getattr(index, name).dtype == np.int64, name
        assert index.xywh.dtype == index.areas.dtype == np.float64
        assert index.crowd.dtype == index.usable.dtype == np.bool_
        assert index.xywh.shape[1:] == (4,)
        assert index.sizes.shape[1:] == (2,)


def test_image_without_annotations_is_a_negative(read: Any) -> None:
    index = read(coco())
    objects = index.objects(0)
    assert objects.boxes.shape == (0, 4)
    assert objects.classes.shape == objects.crowd.shape == (0,)
    assert index.report.lines() == ["2 images (2 without annotations), 0 annotations"]


def test_dropped_boxes_stay_in_the_arrays(read: Any) -> None:
    index = read(
        coco(
            annotations=[
                box(1, 5, [10, 10, 0, 5]),
                box(2, 5, [10, 10, 5, -5]),
                box(3, 5, [300, 10, 5, 5]),
                box(4, 5, [-5, 10, 5, 5]),
                box(5, 5, [10, 10, 5, 5]),
            ]
        )
    )
    assert index.usable.tolist() == [False, False, False, False, True]
    assert index.objects(0).boxes.tolist() == [[10, 10, 15, 15]]
    assert index.report.dropped["box of zero or negative size"].examples == [1, 2]
    assert index.report.dropped["box wholly outside its image"].examples == [3, 4]
    assert index.report.lines()[1:] == [
        "dropped 2: box of zero or negative size (annotation ids 1, 2)",
        "dropped 2: box wholly outside its image (annotation ids 3, 4)",
    ]


def test_missing_id_crowd_and_area_are_filled_and_counted(read: Any) -> None:
    index = read(
        coco(
            annotations=[
                without(box(0, 5, [0, 0, 4, 3]), "id", "iscrowd", "area"),
                box(41, 5, [0, 0, 5, 5], area=0.0),
                box(0, 5, [0, 0, 2, 2], id=None, iscrowd=None, area=None),
            ]
        )
    )
    assert index.annotation_ids.tolist() == [42, 41, 43]
    assert index.areas.tolist() == [12.0, 0.0, 4.0]
    assert not index.crowd.any()
    assert {reason: found.count for reason, found in index.report.corrected.items()} == {
        "annotation without id, numbered": 2,
        "annotation without iscrowd, taken as 0": 2,
        "annotation without area, taken as width x height": 2,
    }


def test_negative_area_is_made_again(read: Any) -> None:
    index = read(coco(annotations=[box(1, 5, [0, 0, 4, 3], area=-1.0), box(2, 5, [0, 0, 4, 3], area=-0.0)]))
    assert index.areas.tolist() == [12.0, 0.0]
    assert index.report.lines()[1:] == [
        "corrected 1: annotation with a negative area, taken as width x height (annotation ids 1)"
    ]


def test_box_too_thin_for_float32_has_no_size(read: Any) -> None:
    index = read(coco(annotations=[box(1, 5, [100, 10, 1e-9, 5]), box(2, 5, [200, 10, 1e-9, 5])]))
    assert not index.usable.any()
    assert {reason: found.examples for reason, found in index.report.dropped.items()} == {
        "box of zero or negative size": [1],
        "box wholly outside its image": [2],
    }


def test_byte_order_mark_is_accepted_and_counted(read: Any) -> None:
    index = read(b"\xef\xbb\xbf" + json.dumps(coco()).encode())
    assert len(index) == 2
    assert index.report.lines()[1:] == ["corrected 1: UTF-8 byte order mark, skipped"]


def test_rounding_noise_is_no_correction(read: Any) -> None:
    index = read(coco(annotations=[box(1, 5, [0.1, 0.2, 199.90000001, 99.8])]))
    assert index.report.corrected == {}
    assert index.objects(0).boxes[0, 2:].tolist() == [200, 100]


def test_attributes(read: Any) -> None:
    values = [{"s": "a", "l": ["x", "y"], "n": 1}, {"s": None, "n": 1.5}, {"s": "a", "n": True}, None]
    images = [image(number, attributes=value) for number, value in enumerate(values)]
    index = read(coco([*images, image(9)]))
    assert index.attribute_fields == ["s", "l", "n"]
    assert index.attribute("s") == ["a", None, "a", None, None]
    assert index.attribute("l") == [["x", "y"], None, None, None, None]
    assert [(type(value), value) for value in index.attribute("n")[:3]] == [
        (int, 1),
        (float, 1.5),
        (bool, True),
    ]
    assert index.attribute("no such") == [None] * 5


def test_attribute_of_a_wrong_type_is_refused_where_it_is_used(read: Any) -> None:
    index = read(coco([image(3, attributes={"a": 1}), image(4, attributes={"a": {"b": 1}, "c": "x"})]))
    assert index.attribute("c") == [None, "x"]
    with pytest.raises(DataError, match=r"set\.json: \$\.images\[1\]\.attributes\.a: .*`object`.*image id 4"):
        index.attribute("a")


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


@given(
    st.lists(
        st.tuples(*[st.floats(-500, 500)] * 2, *[st.floats(-10, 500)] * 2),
        max_size=20,
    )
)
def test_clipped_boxes_are_inside(boxes: list[tuple[float, ...]]) -> None:
    clipped = clip_boxes(np.array(boxes, np.float64).reshape(-1, 4), np.array([100, 200]))
    assert (clipped >= 0).all()
    assert (clipped <= [200, 100, 200, 100]).all()


# Real data.


@pytest.mark.skipif(not REAL_FILES, reason=f"no data sets in {REAL}")
@pytest.mark.parametrize("file", REAL_FILES, ids=lambda file: f"{file.parts[-3]}-{file.stem}")
def test_real_file(file: Path, tmp_path: Path) -> None:
    index = read_annotations(file, tmp_path)
    raw = json.loads(file.read_text(encoding="utf-8"))
    assert len(index) == len(raw["images"])
    by_id = {entry["id"]: entry for entry in raw["annotations"]}
    assert sorted(index.annotation_ids.tolist()) == sorted(by_id)
    names = {category["id"]: category["name"] for category in raw["categories"]}
    for i in range(len(index)):
        for a in range(index.offsets[i], index.offsets[i + 1]):
            entry = by_id[int(index.annotation_ids[a])]
            assert entry["image_id"] == index.image_ids[i]
            assert entry["bbox"] == index.xywh[a].tolist()
            assert entry["area"] == index.areas[a]
            assert entry["iscrowd"] == index.crowd[a]
            assert names[entry["category_id"]] == index.categories[index.classes[a]].name
    assert_same(index, read_annotations(file, None))
