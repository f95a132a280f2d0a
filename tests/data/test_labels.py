"""Labels: known answers per source, the rule for boxes in two ways, and every refusal's message."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_mtl.data.annotations import AnnotationIndex, read_annotations
from vision_mtl.data.labels import BoxRule, HeadLabels, LabelSource, read_labels
from vision_mtl.errors import ConfigError, DataError

BCCD = Path(__file__).parents[2].parent / "shared" / "data" / "bccd"
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


@pytest.fixture
def index(tmp_path: Path) -> AnnotationIndex:
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
    file = tmp_path / "set.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    return read_annotations(file, None)


def source(kind: str, name: str, **fields: Any) -> LabelSource:
    return msgspec.convert({"kind": kind, "source": name, **fields}, LabelSource)


def labels(
    index: AnnotationIndex, wanted: LabelSource, vocabulary: tuple[str, ...] | None = None
) -> HeadLabels:
    return read_labels("h", wanted, index, Path(index.path).parent, vocabulary)


def write_csv(index: AnnotationIndex, text: str | bytes) -> Path:
    file = Path(index.path).parent / "labels.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def test_boxes(index: AnnotationIndex) -> None:
    found = labels(index, source("several", "boxes"))
    assert found.vocabulary == ("ant", "bee", "cat")
    assert found.targets.dtype == np.float32
    assert found.targets.tolist() == [[0, 1, 1], [0, 0, 1], [0, 0, 0], [0, 0, 0], [0, 1, 1], [1, 1, 0]]
    assert not found.unknown.any()


def test_dominant(index: AnnotationIndex) -> None:
    found = labels(index, source("single", "dominant"))
    assert found.vocabulary == ("ant", "bee", "cat")
    assert found.targets.dtype == np.int64
    assert found.targets.tolist() == [2, 2, -1, -1, 1, 0]
    assert found.unknown.tolist() == [False, False, True, True, False, False]


def test_count(index: AnnotationIndex) -> None:
    found = labels(index, source("scalar", "count"))
    assert found.vocabulary == ()
    assert found.targets.dtype == np.float32
    assert found.targets.tolist() == [3, 1, 0, 0, 2, 2]


def test_named_categories(index: AnnotationIndex) -> None:
    named = ["cat", "ant"]
    assert labels(index, source("scalar", "count", categories=named)).targets.tolist() == [2, 1, 0, 0, 1, 1]
    several = labels(index, source("several", "boxes", categories=named))
    assert several.vocabulary == ("cat", "ant")
    assert several.targets.tolist() == [[1, 0], [1, 0], [0, 0], [0, 0], [1, 0], [0, 1]]
    single = labels(index, source("single", "dominant", categories=named))
    assert single.targets.tolist() == [0, 0, -1, -1, 0, 1]


def test_given_vocabulary_orders_the_classes(index: AnnotationIndex) -> None:
    vocabulary = ("cat", "dog", "bee", "ant")
    several = labels(index, source("several", "boxes"), vocabulary)
    assert several.vocabulary == vocabulary
    assert several.targets[0].tolist() == [1, 0, 1, 0]
    assert labels(index, source("single", "dominant"), vocabulary).targets.tolist() == [0, 0, -1, -1, 0, 3]


@pytest.mark.parametrize(
    ("kind", "name"),
    [("several", "boxes"), ("single", "dominant"), ("scalar", "count")],
    ids=lambda value: value,
)
def test_targets_agree_with_from_objects(index: AnnotationIndex, kind: str, name: str) -> None:
    found = labels(index, source(kind, name))
    rule = pickle.loads(pickle.dumps(found.from_objects))
    for i in range(len(index)):
        objects = index.objects(i)
        target = rule(objects.classes, objects.boxes, objects.crowd)
        assert np.array_equal(target, found.targets[i])
        assert target.dtype == found.targets.dtype


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 2), st.booleans(), *[st.floats(0, 50, width=32)] * 4),
        max_size=30,
    ),
    st.permutations([0, 1, -1]),
    st.sampled_from(["boxes", "dominant", "count"]),
)
def test_rule_against_plain_loops(
    objects: list[tuple[int, int, bool, float, float, float, float]], slots: list[int], name: str
) -> None:
    objects = sorted(objects, key=lambda entry: entry[0])
    rows = np.array([entry[0] for entry in objects], np.int64)
    classes = np.array([entry[1] for entry in objects], np.int64)
    crowd = np.array([entry[2] for entry in objects], bool)
    corners = np.array([entry[3:] for entry in objects], np.float32).reshape(-1, 4)
    boxes = np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:]], axis=1)
    targets = BoxRule(name, np.array(slots), 2).targets(rows, classes, boxes, crowd, 4)
    for image in range(4):
        mine = [n for n in range(len(rows)) if rows[n] == image and not crowd[n] and slots[classes[n]] >= 0]
        covered: dict[int, float] = {}
        for n in mine:
            width, height = (boxes[n, 2:] - boxes[n, :2]).astype(float)
            covered[slots[classes[n]]] = covered.get(slots[classes[n]], 0.0) + width * height
        if name == "boxes":
            assert targets[image].tolist() == [float(slot in covered) for slot in (0, 1)]
        elif name == "count":
            assert targets[image] == len(mine)
        else:
            assert targets[image] == max(sorted(covered), key=lambda slot: covered[slot], default=-1)


def test_attribute_single(index: AnnotationIndex) -> None:
    found = labels(index, source("single", "attribute", field="kind"))
    assert found.vocabulary == ("a", "b")
    assert found.targets.tolist() == [1, 0, -1, -1, 1, -1]
    assert found.from_objects is None
    again = labels(index, source("single", "attribute", field="kind"), ("b", "x", "a"))
    assert again.targets.tolist() == [0, 2, -1, -1, 0, -1]


def test_attribute_values_become_text(index: AnnotationIndex) -> None:
    found = labels(index, source("single", "attribute", field="mixed"))
    assert found.vocabulary == ("1.5", "3", "True", "a")
    assert found.targets.tolist() == [3, 1, 2, 0, -1, -1]


def test_attribute_several(index: AnnotationIndex) -> None:
    found = labels(index, source("several", "attribute", field="tags"))
    assert found.vocabulary == ("x", "y")
    assert found.targets[:3].tolist() == [[1, 1], [0, 0], [0, 1]]
    assert np.isnan(found.targets[3:]).all()
    assert found.unknown.tolist() == [False] * 3 + [True] * 3


def test_attribute_scalar(index: AnnotationIndex, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        found = labels(index, source("scalar", "attribute", field="grade"))
    assert found.targets[:2].tolist() == [3.0, 1.5]
    assert np.isnan(found.targets[2:]).all()
    assert "head 'h': 4 of 6 images have no label" in caplog.text


CSV = """\ufefffile_name,kind,tags,grade
0.jpg,b,x|y,2
1.jpg, a ,|,-1e3
2.jpg,,,

3.jpg,b, y ,0
other.jpg,z,z,9
"""


def test_csv(index: AnnotationIndex, caplog: pytest.LogCaptureFixture) -> None:
    write_csv(index, CSV)
    single = labels(index, source("single", "csv", file="labels.csv", column="kind"))
    assert single.vocabulary == ("a", "b")
    assert single.targets.tolist() == [1, 0, -1, 1, -1, -1]
    assert single.from_objects is None
    assert "2 of 6 images have no row" in caplog.text
    several = labels(index, source("several", "csv", file="labels.csv", column="tags"))
    assert several.vocabulary == ("x", "y")
    assert several.targets[[0, 1, 3]].tolist() == [[1, 1], [0, 0], [0, 1]]
    assert several.unknown.tolist() == [False, False, True, False, True, True]
    scalar = labels(index, source("scalar", "csv", file="labels.csv", column="grade"))
    assert scalar.targets[[0, 1, 3]].tolist() == [2, -1000, 0]
    assert scalar.unknown.tolist() == [False, False, True, False, True, True]


def test_csv_repeated_row_with_the_same_label(index: AnnotationIndex) -> None:
    write_csv(index, "file_name,kind\n0.jpg,a\n0.jpg,a\nother.jpg,a\nother.jpg,b\n")
    assert labels(index, source("single", "csv", file="labels.csv", column="kind")).targets[0] == 0


WRONG_CSV = {
    "column": (
        "file_name,kid\n0.jpg,a\n",
        "single",
        r"no column 'kind'; did you mean 'kid'\? .*file_name, kid",
    ),
    "file_name": ("name,kind\n0.jpg,a\n", "single", r"no column 'file_name'.* The header is: name, kind"),
    "empty file": ("", "single", r"no column 'file_name'\. The header is: empty"),
    "two labels": (
        "file_name,kind\n0.jpg,a\n1.jpg,a\n0.jpg,b\n",
        "single",
        r"'0\.jpg' has two labels in column 'kind': 'a' in line 2, 'b' in line 4",
    ),
    "no match": (
        "file_name,kind\nx/0.jpg,a\n",
        "single",
        r"no row matches any of the 6 images, .*0\.jpg, 1\.jpg, 2\.jpg",
    ),
    "ragged": ("file_name,kind\n0.jpg,a\n1.jpg\n", "single", r"line 3: 1 cells, the header has 2"),
    "quotes": ('file_name,kind\n0.jpg,"a" b\n', "single", r"line 2: not valid csv"),
    "encoding": ("file_name,kind\n0.jpg,ä\n".encode("latin-1"), "single", r"not UTF-8"),
    "number": (
        "file_name,kind\n0.jpg,1\n1.jpg,high\n2.jpg,nan\n3.jpg,1e39\n4.jpg,\n",
        "scalar",
        r"3 cells of column 'kind' .*: line 3 \('high'\), line 4 \('nan'\), line 5 \('1e39'\)",
    ),
    "all empty": (
        "file_name,kind\n0.jpg,\n",
        "scalar",
        r"none of the 6 images has a label \(column 'kind' of .*labels\.csv\)",
    ),
    "all empty, single": ("file_name,kind\n0.jpg,\n", "single", r"no label occurs"),
}


@pytest.mark.parametrize("case", WRONG_CSV)
def test_csv_refused(case: str, index: AnnotationIndex) -> None:
    text, kind, message = WRONG_CSV[case]
    write_csv(index, text)
    with pytest.raises(DataError, match=r"head 'h': .*" + message) as raised:
        labels(index, source(kind, "csv", file="labels.csv", column="kind"))
    assert "labels.csv" in str(raised.value) or "set.json" in str(raised.value)


def test_csv_missing_file(index: AnnotationIndex) -> None:
    with pytest.raises(DataError, match=r"none\.csv: head 'h': cannot read the labels \(No such file"):
        labels(index, source("single", "csv", file="none.csv", column="kind"))


@pytest.mark.parametrize(
    ("kind", "name", "allowed"),
    [
        ("single", "count", "dominant, attribute, csv"),
        ("single", "boxes", "dominant, attribute, csv"),
        ("several", "dominant", "boxes, attribute, csv"),
        ("several", "count", "boxes, attribute, csv"),
        ("scalar", "boxes", "count, attribute, csv"),
        ("scalar", "dominant", "count, attribute, csv"),
    ],
)
def test_impossible_pair(index: AnnotationIndex, kind: str, name: str, allowed: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"heads\.h\.source: '{name}' .*{kind} label; expected one of {allowed}"
    ):
        labels(index, source(kind, name))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (source("single", "attribute"), r"heads\.h\.field: source 'attribute' needs it"),
        (source("single", "csv", column="c"), r"heads\.h\.file: source 'csv' needs it"),
        (source("single", "csv", file="f"), r"heads\.h\.column: source 'csv' needs it"),
        (source("single", "dominant", field="f"), r"heads\.h\.field: has no meaning .*takes categories"),
        (
            source("single", "attribute", field="f", categories=["ant"]),
            r"heads\.h\.categories: has no meaning",
        ),
        (source("scalar", "count", categories=[]), r"heads\.h\.categories: empty"),
        (
            source("scalar", "count", categories=["ant", "been"]),
            r"heads\.h\.categories: .*set\.json has no category 'been'; did you mean 'bee'\? .*ant, bee, cat",
        ),
    ],
)
def test_impossible_settings(index: AnnotationIndex, wanted: LabelSource, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        labels(index, wanted)


@pytest.mark.parametrize(
    ("wanted", "vocabulary", "message"),
    [
        (
            source("single", "attribute", field="kinds"),
            None,
            r"attributes\.kinds: .*did you mean 'kind'\? .*kind, tags",
        ),
        (source("single", "attribute", field="nothing"), None, r"head 'h': no label occurs"),
        (source("scalar", "attribute", field="nothing"), None, r"none of the 6 images .*attribute 'nothing'"),
        (
            source("single", "attribute", field="tags"),
            None,
            r"images\[0\]\.attributes\.tags: .*not one label.*ids 0",
        ),
        (
            source("several", "attribute", field="kind"),
            None,
            r"images\[0\]\.attributes\.kind: .*'b' is not a list",
        ),
        (
            source("scalar", "attribute", field="mixed"),
            None,
            r"images\[0\]\.attributes\.mixed: .*'a' is not a number .*\(2 images: ids 0, 2\)",
        ),
        (
            source("single", "attribute", field="kind"),
            ("b", "c"),
            r"1 labels .*never saw: a\. Trained on: b, c",
        ),
        (source("several", "attribute", field="tags"), ("z",), r"2 labels .*never saw: x, y\. Trained on: z"),
        (source("several", "boxes"), ("ant",), r"2 labels .*never saw: bee, cat\. Trained on: ant"),
        (source("single", "dominant"), ("bee", "cat"), r"1 labels .*never saw: ant\. Trained on: bee, cat"),
    ],
)
def test_refused(
    index: AnnotationIndex, wanted: LabelSource, vocabulary: tuple[str, ...] | None, message: str
) -> None:
    with pytest.raises(DataError, match=r"set\.json: .*" + message):
        labels(index, wanted, vocabulary)


def test_unknown_setting_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field `columns`"):
        source("single", "csv", columns="x")


@pytest.mark.skipif(not BCCD.exists(), reason=f"no data set in {BCCD}")
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_real_csv_agrees_with_the_attribute(split: str) -> None:
    index = read_annotations(BCCD / "annotations" / f"instances_{split}.json", None)
    attribute = read_labels("h", source("single", "attribute", field="wbc_subtype"), index, BCCD, None)
    table = source("single", "csv", file="labels.csv", column="wbc_subtype")
    from_csv = read_labels("h", table, index, BCCD, attribute.vocabulary)
    assert set(attribute.vocabulary) >= {"EOSINOPHIL", "LYMPHOCYTE", "MONOCYTE", "NEUTROPHIL"}
    assert np.array_equal(attribute.targets, from_csv.targets)
    counted = read_labels("h", source("scalar", "count", categories=["WBC"]), index, BCCD, None)
    column = read_labels(
        "h", source("scalar", "csv", file="labels.csv", column="n_wbc_boxes"), index, BCCD, None
    )
    assert np.array_equal(counted.targets, column.targets)
