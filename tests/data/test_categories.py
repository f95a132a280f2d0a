"""Categories by name: merged, found again, renamed."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from vision_mtl.data.annotations import AnnotationIndex, Category, Objects, read_annotations
from vision_mtl.data.categories import map_classes, merge_categories, places_by_name

from .coco_files import assert_same
from .helpers import index_of, write_coco


def categories(**ids: int) -> tuple[Category, ...]:
    return tuple(Category(id=number, name=name) for name, number in ids.items())


@pytest.mark.parametrize(
    ("files", "merged"),
    [
        ([categories(ant=3, bee=7)], categories(ant=3, bee=7)),
        ([categories(ant=3, bee=7), categories(ant=3, bee=7)], categories(ant=3, bee=7)),
        ([categories(ant=3), categories(ant=9, bee=7)], categories(ant=3, bee=7)),  # the first file's id
        ([categories(ant=3), categories(bee=3)], categories(ant=3, bee=4)),  # 3 is taken
        ([categories(ant=3, bee=20), categories(cat=3, dog=20)], categories(ant=3, bee=20, cat=21, dog=22)),
        ([categories(ant=9), categories(bee=1), categories(cat=2, ant=3)], categories(ant=9, bee=1, cat=2)),
        ([categories(ant=0), ()], categories(ant=0)),
        ([(), categories(ant=0)], categories(ant=0)),
        ([categories(ant=-5), categories(bee=-5)], categories(ant=-5, bee=-4)),
        ([], ()),
    ],
)
def test_merging(files: list[tuple[Category, ...]], merged: tuple[Category, ...]) -> None:
    assert merge_categories(files) == merged


def test_a_name_that_a_file_has_twice_stays_two_classes() -> None:
    twice = (Category(id=0, name="ant"), Category(id=1, name="ant"))
    assert merge_categories([twice, twice]) == twice
    assert merge_categories([categories(ant=5), twice]) == (
        Category(id=5, name="ant"),
        Category(id=1, name="ant"),
    )
    assert map_classes(twice, twice).classes.tolist() == [0, 1]


def test_places_by_name() -> None:
    assert places_by_name(["b", "x", "a"], ["a", "b", "c"]).tolist() == [1, -1, 0]
    assert places_by_name(["a", "b", "a", "a"], ["a", "a", "b"]).tolist() == [0, 2, 1, -1]
    assert places_by_name([], ["a"]).dtype == places_by_name(["a"], []).dtype == np.int64


def test_map_of_classes() -> None:
    found = map_classes(categories(cat=1, ant=2, elk=3), categories(ant=9, bee=1, cat=4))
    assert found.classes.tolist() == [2, 0, -1]
    assert found.annotated.tolist() == [True, False, True]
    objects = Objects(np.zeros((4, 4), np.float32), np.array([0, 2, 1, 0]), np.zeros(4, bool))
    assert found.of(objects).classes.tolist() == [2, -1, 0, 2]
    nothing = map_classes((), ())
    assert nothing.annotated.tolist() == []
    empty = Objects(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))
    assert nothing.of(empty).classes.tolist() == []


# Renamed in the index

BOXES = {0: [(1, [0, 0, 9, 9]), (2, [1, 1, 9, 9]), (3, [2, 2, 9, 9])], 2: [(3, [0, 0, 5, 5])]}


@pytest.fixture
def index(tmp_path: Path) -> AnnotationIndex:
    images = [{"id": i, "file_name": f"{i}.png", "height": 50, "width": 50} for i in range(3)]
    annotations = [
        {"image_id": i, "category_id": category, "bbox": bbox}
        for i, objects in BOXES.items()
        for category, bbox in objects
    ]
    path = write_coco(tmp_path / "set.json", images, annotations, ("ant", "bee", "cat"))
    return read_annotations(path)


def test_renaming_changes_names_alone(index: AnnotationIndex) -> None:
    renamed = index.renamed({"bee": "wasp"})
    assert renamed.categories == categories(ant=1, wasp=2, cat=3)
    assert renamed.classes.tolist() == index.classes.tolist() == [0, 1, 2, 2]
    assert renamed.xywh is index.xywh
    assert index.categories == categories(ant=1, bee=2, cat=3)
    assert_same(index.renamed({}), index)


@pytest.mark.parametrize(
    ("rename", "expected", "classes"),
    [
        ({"cat": "ant"}, categories(ant=1, bee=2), [0, 1, 0, 0]),
        ({"ant": "cat"}, categories(cat=1, bee=2), [0, 1, 0, 0]),
        ({"ant": "x", "bee": "x", "cat": "x"}, categories(x=1), [0, 0, 0, 0]),
        ({"ant": "bee", "bee": "ant"}, categories(bee=1, ant=2, cat=3), [0, 1, 2, 2]),
    ],
)
def test_categories_of_one_name_become_one_class(
    index: AnnotationIndex, rename: dict[str, str], expected: tuple[Category, ...], classes: list[int]
) -> None:
    renamed = index.renamed(rename)
    assert renamed.categories == expected
    assert renamed.classes.tolist() == classes
    assert renamed.objects(0).classes.tolist() == classes[:3]
    assert renamed.all_objects()[1].classes.tolist() == classes


def test_a_name_that_the_file_has_twice_is_left_alone(tmp_path: Path) -> None:
    path = write_coco(tmp_path / "set.json", [], [], ("ant", "ant", "bee"))
    renamed = read_annotations(path, None).renamed({"bee": "cat"})
    assert [category.name for category in renamed.categories] == ["ant", "ant", "cat"]


def test_a_renamed_index_reaches_other_processes(index: AnnotationIndex, tmp_path: Path) -> None:
    in_memory = index_of(tmp_path / "other", [(50, 50)], {0: [(2, [0, 0, 9, 9])]})
    for one in (index, in_memory):
        renamed = one.renamed({"ant": "bee"})
        assert_same(pickle.loads(pickle.dumps(renamed)), renamed)
    assert len(pickle.dumps(index.renamed({"ant": "bee"}))) < 1000  # the file to map, not its arrays
