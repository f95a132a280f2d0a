"""What heads answer with, read off one or several sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.data.helpers import index_of, source_of
from vision_mtl.data.annotations import Category
from vision_mtl.data.categories import map_classes
from vision_mtl.data.dataset import Source
from vision_mtl.data.labels import HeadLabels
from vision_mtl.heads.base import LabelInfo
from vision_mtl.heads.classification import ClassificationConfig
from vision_mtl.heads.fcos import FcosConfig
from vision_mtl.heads.multilabel import MultilabelConfig
from vision_mtl.heads.regression import RegressionConfig
from vision_mtl.models.vocabulary import label_infos, label_sources, trained_categories

NAN = np.nan
HEADS: dict[str, Any] = {
    "objects": FcosConfig(),
    "state": ClassificationConfig(source="csv", file="f", column="c"),
    "presence": MultilabelConfig(),
    "number": RegressionConfig(source="count"),
}
CATEGORIES = (Category(id=1, name="ant"), Category(id=2, name="bee"), Category(id=9, name="cat"))
WHOLE = {
    "state": HeadLabels(("clean", "dirty", "wet"), np.array([0, 0, 1, -1]), None),
    "presence": HeadLabels(
        ("ant", "bee", "cat"),
        np.array([[1, 0, NAN], [1, 1, NAN], [0, 0, NAN], [0, 0, NAN]], np.float32),
        None,
    ),
    "number": HeadLabels((), np.array([1, 2, 3, NAN], np.float32), None),
}
UNKNOWN = {
    "state": HeadLabels(("clean", "dirty", "wet"), np.array([1, -1, -1, -1]), None),
    "presence": HeadLabels(
        ("ant", "bee", "cat"),
        np.array([[NAN] * 3, [NAN, NAN, 1], [NAN, NAN, 0], [NAN, 1, 0]], np.float32),
        None,
    ),
    "number": HeadLabels((), np.full(4, NAN, np.float32), None),
}


def source(folder: Path, labels: dict[str, HeadLabels], positions: list[int]) -> Source:
    index = index_of(folder, [(50, 50)] * 4, {})
    made = source_of(index, labels)
    return Source(
        index, made.images, labels, True, np.array(positions), map_classes(index.categories, CATEGORIES)
    )


@pytest.fixture
def infos(tmp_path: Path) -> dict[str, LabelInfo]:
    return label_infos(
        HEADS, [source(tmp_path / "a", WHOLE, [0, 1, 2, 3]), source(tmp_path / "b", UNKNOWN, [0, 2, 3])]
    )


def test_a_detection_head_answers_with_the_merged_categories(infos: dict[str, LabelInfo]) -> None:
    assert infos["objects"] == LabelInfo(("ant", "bee", "cat"), (1, 2, 9))
    assert trained_categories(HEADS, infos) == CATEGORIES
    assert trained_categories({"state": HEADS["state"]}, infos) is None


def test_counts_are_of_known_labels_of_the_images_in_use(infos: dict[str, LabelInfo]) -> None:
    assert infos["state"] == LabelInfo(("clean", "dirty", "wet"), counts=(2, 2, 0))
    assert infos["presence"] == LabelInfo(("ant", "bee", "cat"), counts=(2, 2, 0), absent=(2, 3, 2))


def test_mean_and_deviation_are_those_of_the_sources_that_have_the_label(infos: dict[str, LabelInfo]) -> None:
    assert infos["number"].mean == pytest.approx(2)
    assert infos["number"].std == pytest.approx((2 / 3) ** 0.5)
    assert infos["number"].counts == ()


def test_equal_numbers_have_the_deviation_one(tmp_path: Path) -> None:
    labels = {"number": HeadLabels((), np.full(4, 5, np.float32), None)}
    infos = label_infos({"number": HEADS["number"]}, [source(tmp_path, labels, [0, 1])])
    assert infos["number"] == LabelInfo(mean=5.0, std=1.0)


def test_a_checkpoint_keeps_them_and_old_ones_have_no_counts(infos: dict[str, LabelInfo]) -> None:
    for info in infos.values():
        tree = msgspec.to_builtins(info)
        assert msgspec.convert(tree, LabelInfo) == info
        del tree["counts"], tree["absent"]
        assert msgspec.convert(tree, LabelInfo).counts == ()


def test_every_head_has_a_source_but_the_detector() -> None:
    found = label_sources(HEADS)
    assert list(found) == list(HEADS)
    assert found["objects"] is None
    assert found["number"] is not None
    assert found["number"].from_boxes
    assert found["state"] is not None
    assert not found["state"].from_boxes
