"""Labels made from boxes: known answers, the rule in two ways, and categories that are not annotated."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vision_mtl.data.annotations import AnnotationIndex
from vision_mtl.data.box_labels import BoxRule
from vision_mtl.data.categories import map_classes, merge_categories
from vision_mtl.data.labels import HeadLabels, LabelledFile, LabelSource, read_shared_labels
from vision_mtl.errors import ConfigError

from .helpers import index_of
from .label_files import labels, source, write_index

every_rule = pytest.mark.parametrize(
    ("kind", "name"),
    [("several", "boxes"), ("single", "dominant"), ("scalar", "count")],
    ids=lambda value: value,
)


@pytest.fixture
def index(tmp_path: Path) -> AnnotationIndex:
    return write_index(tmp_path)


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
    vocabulary = ("cat", "bee", "ant")
    several = labels(index, source("several", "boxes"), vocabulary)
    assert several.vocabulary == vocabulary
    assert several.targets[0].tolist() == [1, 1, 0]
    assert labels(index, source("single", "dominant"), vocabulary).targets.tolist() == [0, 0, -1, -1, 0, 2]


def test_what_the_file_does_not_annotate_is_unknown(index: AnnotationIndex) -> None:
    vocabulary = ("cat", "dog", "bee", "ant")
    several = labels(index, source("several", "boxes"), vocabulary)
    np.testing.assert_array_equal(several.targets[0], [1, np.nan, 1, 0])
    assert np.isnan(several.targets[:, 1]).all()
    assert not np.isnan(several.targets[:, [0, 2, 3]]).any()
    assert not several.unknown.any()  # three classes are known
    assert labels(index, source("single", "dominant"), vocabulary).unknown.all()  # a dog may be larger
    named = source("scalar", "count", categories=["cat", "dog"])
    assert labels(index, named, ()).unknown.all()


@every_rule
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
        st.tuples(st.integers(0, 3), st.integers(-1, 2), st.booleans(), *[st.floats(0, 50, width=32)] * 4),
        max_size=30,
    ),
    st.permutations([0, 1, -1]),
    st.sampled_from(["boxes", "dominant", "count"]),
    st.tuples(st.booleans(), st.booleans()),
)
def test_rule_against_plain_loops(
    objects: list[tuple[int, int, bool, float, float, float, float]],
    slots: list[int],
    name: str,
    known: tuple[bool, bool],
) -> None:
    objects = sorted(objects, key=lambda entry: entry[0])
    rows = np.array([entry[0] for entry in objects], np.int64)
    classes = np.array([entry[1] for entry in objects], np.int64)
    crowd = np.array([entry[2] for entry in objects], bool)
    corners = np.array([entry[3:] for entry in objects], np.float32).reshape(-1, 4)
    boxes = np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:]], axis=1)
    rule = BoxRule(name, np.array(slots), np.array(known))
    targets = rule.targets(rows, classes, boxes, crowd, 4)
    for image in range(4):
        mine = [
            n
            for n in range(len(rows))
            if rows[n] == image and not crowd[n] and classes[n] >= 0 and slots[classes[n]] >= 0
        ]
        covered: dict[int, float] = {}
        for n in mine:
            width, height = (boxes[n, 2:] - boxes[n, :2]).astype(float)
            covered[slots[classes[n]]] = covered.get(slots[classes[n]], 0.0) + width * height
        if name == "boxes":
            expected = [float(slot in covered) if known[slot] else np.nan for slot in (0, 1)]
            np.testing.assert_array_equal(targets[image], expected)
        elif name == "count":
            np.testing.assert_array_equal(targets[image], len(mine) if all(known) else np.nan)
        else:
            largest = max(sorted(covered), key=lambda slot: covered[slot], default=-1)
            assert targets[image] == (largest if all(known) else -1)
    assert rule.answers == (any(known) if name == "boxes" else all(known))


# Two files: categories 1 and 2 are ant and bee in the first one; bee and cat in the second.


@pytest.fixture
def files(tmp_path: Path) -> list[LabelledFile]:
    boxes = {0: [(1, [0, 0, 9, 9]), (2, [0, 0, 20, 20])], 1: [(2, [0, 0, 9, 9])]}
    first, second = (index_of(tmp_path / name, [(50, 50)] * 3, boxes) for name in ("first", "second"))
    second = second.renamed({"ant": "bee", "bee": "cat"})
    merged = merge_categories([first.categories, second.categories])
    assert [category.name for category in merged] == ["ant", "bee", "cat"]
    return [LabelledFile(index, map_classes(index.categories, merged)) for index in (first, second)]


def shared(files: list[LabelledFile], wanted: LabelSource) -> list[HeadLabels]:
    return read_shared_labels("h", wanted, files, Path(), None)


UNKNOWN = np.nan


def test_boxes_of_two_files_are_known_class_by_class(files: list[LabelledFile]) -> None:
    first, second = shared(files, source("several", "boxes"))
    assert first.vocabulary == second.vocabulary == ("ant", "bee", "cat")
    np.testing.assert_array_equal(first.targets, [[1, 1, UNKNOWN], [0, 1, UNKNOWN], [0, 0, UNKNOWN]])
    np.testing.assert_array_equal(second.targets, [[UNKNOWN, 1, 1], [UNKNOWN, 0, 1], [UNKNOWN, 0, 0]])


def test_the_rule_of_each_file_is_its_own(files: list[LabelledFile]) -> None:
    _, second = shared(files, source("several", "boxes"))
    cats = np.array([2, 2]), np.array([[0, 0, 5, 5], [5, 5, 9, 9]], np.float32), np.zeros(2, bool)
    assert second.from_objects is not None
    np.testing.assert_array_equal(second.from_objects(*cats), [UNKNOWN, 0, 1])


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (source("single", "dominant", categories=["bee", "cat"]), [[-1, -1, -1], [1, 1, -1]]),
        (source("single", "dominant", categories=["ant", "bee"]), [[1, 1, -1], [-1, -1, -1]]),
        (source("scalar", "count", categories=["cat", "bee"]), [[UNKNOWN] * 3, [2, 1, 0]]),
        (source("scalar", "count", categories=["bee"]), [[1, 1, 0], [1, 0, 0]]),
    ],
    ids=["dominant of the second", "dominant of the first", "count of the second", "count of both"],
)
def test_all_wanted_categories_must_be_annotated(
    files: list[LabelledFile], wanted: LabelSource, expected: list[list[float]]
) -> None:
    for found, targets in zip(shared(files, wanted), expected, strict=True):
        np.testing.assert_array_equal(found.targets, targets)


@pytest.mark.parametrize(("kind", "name"), [("single", "dominant"), ("scalar", "count")])
def test_a_label_that_no_file_can_tell_is_refused(files: list[LabelledFile], kind: str, name: str) -> None:
    message = rf"heads\.h\.source: '{name}' .*\(ant, bee, cat\), and no source has them all; .*categories"
    with pytest.raises(ConfigError, match=message):
        shared(files, source(kind, name))


def test_a_name_that_neither_file_has(files: list[LabelledFile]) -> None:
    with pytest.raises(ConfigError, match=r"no category 'cart'; did you mean 'cat'\? .*: ant, bee, cat"):
        shared(files, source("several", "boxes", categories=["cart"]))


@every_rule
def test_a_file_that_does_not_supervise_the_head(files: list[LabelledFile], kind: str, name: str) -> None:
    only_first = [files[0], LabelledFile(files[1].index, files[1].classes, supervises=False)]
    first, second = shared(only_first, source(kind, name, categories=["ant", "bee"]))
    assert second.unknown.all()
    assert (first.targets >= 0).any()
    objects = files[1].classes.of(files[1].index.objects(0))
    assert second.from_objects is not None
    target = second.from_objects(objects.classes, objects.boxes, objects.crowd)
    np.testing.assert_array_equal(target, second.unknown_target)


def test_classes_that_only_others_annotate_are_not_asked_for(files: list[LabelledFile]) -> None:
    only_first = [files[0], LabelledFile(files[1].index, files[1].classes, supervises=False)]
    assert shared(only_first, source("several", "boxes"))[0].vocabulary == ("ant", "bee")
