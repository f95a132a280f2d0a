"""Annotations: known answers and real files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_mtl.data.annotations import read_annotations
from vision_mtl.data.coco_checks import clip_boxes
from vision_mtl.errors import DataError

from .coco_files import assert_same, box, coco, image, without

REAL = Path(__file__).parents[2].parent / "shared" / "data"
REAL_FILES = sorted(REAL.glob("*/annotations/*.json"))


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
