"""The config's files to sources: what is missing, what does not fit together, what stays unknown."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vision_mtl.data.annotations import Category
from vision_mtl.data.config import DataConfig, SourceConfig
from vision_mtl.data.labels import LabelSource
from vision_mtl.data.sources import open_evaluation, open_sources
from vision_mtl.errors import ConfigError, DataError

KIND = {"kind": LabelSource(kind="single", source="attribute", field="kind")}
PRESENCE = {"presence": LabelSource(kind="several", source="boxes")}
COUNT = {"count": LabelSource(kind="scalar", source="count")}
CATEGORIES = [Category(id=3, name="bolt"), Category(id=7, name="nut"), Category(id=21, name="washer")]


def config(tiny, *sources: dict[str, Any], **settings: Any) -> DataConfig:
    """Return a config whose splits all hold the tiny set, or `sources` in its place."""
    found = [
        SourceConfig(**{"images": "images", "annotations": "annotations.json", **s}) for s in sources or [{}]
    ]
    return DataConfig(root=str(tiny.root), train=found, val=found, test=found, **settings)


def variant(tiny, name: str, change) -> str:
    """Write a changed copy of the annotations; return its name."""
    tree = json.loads(tiny.annotations.read_text())
    change(tree)
    (tiny.root / name).write_text(json.dumps(tree))
    return name


def test_training_source(tiny_coco):
    (source,) = open_sources(config(tiny_coco), "train", {**KIND, **PRESENCE, **COUNT})
    assert source.positions.tolist() == list(range(8))
    assert source.labels["kind"].vocabulary == ("clean", "dirty")
    assert source.labels["presence"].vocabulary == ("bolt", "nut", "washer")
    assert source.labels["count"].targets.tolist() == [1, 2, 1, 0, 1, 3, 2, 1]
    assert source.images.read(0).pixels.shape == (64, 96, 3)


@pytest.mark.parametrize(("key", "kind"), [("images", "folder"), ("annotations", "file")])
def test_missing_file(tiny_coco, key, kind):
    with pytest.raises(ConfigError, match=rf"data\.val\[0\]\.{key}: no {kind} '.*absent'") as error:
        open_evaluation(config(tiny_coco, {key: "absent"}), "val", {}, {}, None)
    assert "holds annotations.json, images: set data.root or this path" in str(error.value)


def test_missing_root(tiny_coco):
    data = config(tiny_coco)
    data.root = str(tiny_coco.root / "absent")
    with pytest.raises(ConfigError, match=r"there is no folder data\.root='.*absent'"):
        open_sources(data, "train", {})


def test_empty_split():
    with pytest.raises(ConfigError, match=r"data\.train: found no source"):
        open_sources(DataConfig(), "train", {})


def test_several_training_sources(tiny_coco):
    other = variant(tiny_coco, "other.json", lambda t: t["images"][0]["attributes"].update(kind="new"))
    sources = open_sources(config(tiny_coco, {}, {"annotations": other}), "train", {**KIND, **PRESENCE})
    assert [s.labels["kind"].vocabulary for s in sources] == [("clean", "dirty", "new")] * 2
    assert sources[0].labels["kind"].targets[0] == 0
    assert sources[1].labels["kind"].targets[0] == 2


def test_several_evaluation_sources_are_refused(tiny_coco):
    with pytest.raises(ConfigError, match=r"data\.val: found 2 sources, expected one"):
        open_evaluation(config(tiny_coco, {}, {}), "val", {}, {}, None)


def rename_nut(tree):
    tree["categories"][1]["name"] = "rivet"


def test_a_category_that_training_never_saw_lists_both(tiny_coco):
    other = variant(tiny_coco, "other.json", rename_nut)
    message = (
        r"other\.json: \$\.categories: training never saw rivet\. Trained on: bolt, nut, washer\. "
        r"Give a category its trained name with data\.val\[0\]\.rename"
    )
    with pytest.raises(DataError, match=message):
        open_evaluation(config(tiny_coco, {"annotations": other}), "val", {}, {}, CATEGORIES)
    open_evaluation(config(tiny_coco), "val", {}, {}, CATEGORIES)
    renamed = config(tiny_coco, {"annotations": other, "rename": {"rivet": "nut"}})
    assert open_evaluation(renamed, "val", {}, {}, CATEGORIES).classes.classes.tolist() == [0, 1, 2]


def test_unseen_label_lists_both(tiny_coco):
    with pytest.raises(DataError, match=r"never saw: dirty.*Trained on: clean, worn"):
        open_evaluation(config(tiny_coco), "val", KIND, {"kind": ("clean", "worn")}, None)


def damage(tiny, *numbers: int) -> None:
    for number in numbers:
        (tiny.images / f"{number:03}.png").write_bytes(b"<html>")


def test_bad_images(tiny_coco):
    damage(tiny_coco, 2, 5)
    with pytest.raises(DataError, match="2 of 8 images") as error:
        open_sources(config(tiny_coco), "train", {})
    assert "002.png" in str(error.value)
    assert "data.bad_images=skip" in str(error.value)
    (source,) = open_sources(config(tiny_coco, bad_images="skip"), "train", {})
    assert source.positions.tolist() == [0, 1, 3, 4, 6, 7]


def test_no_image_left(tiny_coco):
    damage(tiny_coco, *range(8))
    with pytest.raises(DataError, match="no image is left: 8 annotated, 8 unreadable"):
        open_sources(config(tiny_coco, bad_images="skip"), "train", {})


def test_labels_made_from_boxes_are_unknown_without_boxes(tiny_coco):
    labels = {**PRESENCE, **COUNT, "dominant": LabelSource(kind="single", source="dominant")}
    boxed, bare = open_sources(config(tiny_coco, {}, {"boxes": False}), "train", labels)
    assert not boxed.labels["presence"].unknown.any()
    nothing = np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0, bool)
    for name, head in pickle.loads(pickle.dumps(bare.labels)).items():
        assert head.unknown.all(), name
        assert head.vocabulary == boxed.labels[name].vocabulary
        np.testing.assert_array_equal(head.from_objects(*nothing), head.targets[0])
    source = open_evaluation(
        config(tiny_coco, {"boxes": False}),
        "val",
        COUNT | KIND,
        {"count": (), "kind": ("clean", "dirty")},
        None,
    )
    assert source.labels["count"].unknown.all()
    assert not source.labels["kind"].unknown.any()


def test_labels_made_from_boxes_need_boxes_somewhere(tiny_coco):
    message = r"heads\.presence: no source of data\.train supervises it: every one has boxes=false"
    with pytest.raises(ConfigError, match=message):
        open_sources(config(tiny_coco, {"boxes": False}), "train", PRESENCE)


def test_a_detection_head_needs_boxes_and_categories(tiny_coco):
    bare = variant(tiny_coco, "bare.json", lambda tree: tree.update(annotations=[], categories=[]))
    message = r"heads\.objects: no source of data\.train supervises it: .*no categories"
    with pytest.raises(ConfigError, match=message):
        open_sources(config(tiny_coco, {"annotations": bare}), "train", {"objects": None})


def drop_attributes(tree):
    for image in tree["images"]:
        del image["attributes"]


def test_attribute_that_one_of_two_files_has(tiny_coco):
    other = variant(tiny_coco, "other.json", drop_attributes)
    first, second = open_sources(config(tiny_coco, {"annotations": other}, {}), "train", KIND)
    assert first.labels["kind"].unknown.all()
    assert first.labels["kind"].vocabulary == second.labels["kind"].vocabulary == ("clean", "dirty")
    assert not second.labels["kind"].unknown.any()
    with pytest.raises(DataError, match="no image has this attribute"):
        open_sources(config(tiny_coco, {"annotations": other}), "train", KIND)


def test_embedded_set_is_drawn(monkeypatch, tmp_path):
    drawn: list[Path] = []
    monkeypatch.setattr("vision_mtl.data.sources.ensure_shapes", lambda: drawn.append(tmp_path) or tmp_path)
    data = DataConfig(embedded=True, train=[SourceConfig(images="a", annotations="b")])
    with pytest.raises(ConfigError, match=r"data\.train\[0\]\.annotations"):
        open_sources(data, "train", {})
    assert drawn
