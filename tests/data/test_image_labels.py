"""Labels of the whole image: known answers from attributes and csv files, groups, and refusals."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vision_mtl.data.annotations import AnnotationIndex, read_annotations
from vision_mtl.data.categories import map_classes
from vision_mtl.data.labels import LabelledFile, read_labels, read_shared_labels
from vision_mtl.errors import ConfigError, DataError

from .helpers import write_coco
from .label_files import labels, source, write_csv, write_index

BCCD = Path(__file__).parents[2].parent / "shared" / "data" / "bccd"


@pytest.fixture
def index(tmp_path: Path) -> AnnotationIndex:
    return write_index(tmp_path)


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


def test_groups(index: AnnotationIndex) -> None:
    wanted = source("single", "attribute", field="mixed", groups={"number": [3, "1.5"], "letter": ["a"]})
    found = labels(index, wanted)
    assert found.vocabulary == ("number", "letter")  # as they are listed
    assert found.targets.tolist() == [1, 0, -1, 0, -1, -1]  # True is in no group
    assert labels(index, wanted, ("letter", "number")).targets.tolist() == [0, 1, -1, 1, -1, -1]


def test_groups_of_a_csv_file(index: AnnotationIndex) -> None:
    write_csv(index, "file_name,digit\n0.jpg,6\n1.jpg,05\n2.jpg,5\n3.jpg,9\n4.jpg,\n")
    wanted = source("single", "csv", file="labels.csv", column="digit", groups={"low": [5], "high": [6, 9]})
    assert labels(index, wanted).targets.tolist() == [1, -1, 0, 1, -1, -1]


def test_a_label_of_a_group_that_never_occurs(index: AnnotationIndex) -> None:
    wanted = source("single", "attribute", field="kind", groups={"low": ["a"], "high": ["b", "bb"]})
    message = r"heads\.h\.groups\.high: no image has the label 'bb'; did you mean 'b'\? .*occur: a, b"
    with pytest.raises(ConfigError, match=message):
        labels(index, wanted)
    assert labels(index, wanted, ("low", "high")).targets.tolist() == [1, 0, -1, -1, 1, -1]  # no training


def file_of(folder: Path, *attributes: dict[str, Any]) -> LabelledFile:
    """Return a file of images with these attributes."""
    images = [
        {"id": i, "file_name": f"{i}.jpg", "height": 50, "width": 50, "attributes": entry}
        for i, entry in enumerate(attributes)
    ]
    index = read_annotations(write_coco(folder / "set.json", images, []), None)
    return LabelledFile(index, map_classes(index.categories, index.categories))


def test_several_files_share_a_vocabulary(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = [
        file_of(tmp_path / "first", {"kind": "b"}, {"kind": "a"}),
        file_of(tmp_path / "second", {"kind": "c"}, {"kind": None}, {"kind": "a"}),
    ]
    wanted = source("single", "attribute", field="kind")
    with caplog.at_level(logging.INFO):
        first, second = read_shared_labels("h", wanted, files, tmp_path, None)
    assert first.vocabulary == second.vocabulary == ("a", "b", "c")
    assert first.targets.tolist() == [1, 0]
    assert second.targets.tolist() == [2, -1, 0]
    assert "head 'h': 1 of 3 images have no label" in caplog.text
    grouped = source("single", "attribute", field="kind", groups={"x": ["a", "c"], "y": ["b"]})
    first, second = read_shared_labels("h", grouped, files, tmp_path, None)
    assert first.targets.tolist() == [1, 0]
    assert second.targets.tolist() == [0, -1, 0]


@pytest.mark.parametrize(
    ("kind", "value", "unknown"),
    [
        ("single", "a", [-1, -1]),
        ("several", ["a", "b"], [[np.nan, np.nan], [np.nan, np.nan]]),
        ("scalar", 2.5, [np.nan, np.nan]),
    ],
)
def test_a_file_that_does_not_supervise_the_head(
    tmp_path: Path, kind: str, value: Any, unknown: list[Any]
) -> None:
    other = file_of(tmp_path / "other", {"what": {"a": "mapping"}}, {})
    files = [
        LabelledFile(other.index, other.classes, supervises=False),
        file_of(tmp_path / "one", {"what": value}),
    ]
    first, second = read_shared_labels("h", source(kind, "attribute", field="what"), files, tmp_path, None)
    np.testing.assert_array_equal(first.targets, unknown)
    assert first.targets.dtype == second.targets.dtype
    assert first.unknown.all()
    assert not second.unknown.any()


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
