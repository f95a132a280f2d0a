"""Label sources that cannot be, and labels that training never saw: every refusal's message."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from vision_mtl.data.annotations import AnnotationIndex
from vision_mtl.data.labels import LabelSource
from vision_mtl.errors import ConfigError, DataError

from .label_files import labels, source, write_index


@pytest.fixture
def index(tmp_path: Path) -> AnnotationIndex:
    return write_index(tmp_path)


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
            source("single", "dominant", groups={"x": ["ant"]}),
            r"heads\.h\.groups: has no meaning with source 'dominant', which takes categories",
        ),
        (
            source("several", "attribute", field="tags", groups={"x": ["y"]}),
            r"heads\.h\.groups: has no meaning with source 'attribute', which takes field; ",
        ),
        (source("single", "attribute", field="kind", groups={}), r"heads\.h\.groups: empty"),
        (source("single", "attribute", field="kind", groups={"x": []}), r"heads\.h\.groups\.x: empty"),
        (
            source("single", "attribute", field="mixed", groups={"x": [3, "a"], "y": ["3"]}),
            r"heads\.h\.groups: the label '3' is in 'x' and in 'y'",
        ),
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
