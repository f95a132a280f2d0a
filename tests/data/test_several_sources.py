"""Two data sets with different categories and labels: merged by name, and unknown where nothing is said."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vision_mtl.data.annotations import Category
from vision_mtl.data.config import DataConfig, ResizeConfig, SourceConfig
from vision_mtl.data.dataset import Dataset, Source, collate
from vision_mtl.data.labels import LabelSource
from vision_mtl.data.sources import open_evaluation, open_sources
from vision_mtl.errors import ConfigError, DataError

from .idx_files import write_pair

DETECTOR = {"objects": None}
PRESENCE = {"presence": LabelSource(kind="several", source="boxes")}
COUNT = {"nuts": LabelSource(kind="scalar", source="count", categories=["nut"])}
KIND = {"kind": LabelSource(kind="single", source="attribute", field="kind")}
SIZE = {"size": LabelSource(kind="scalar", source="csv", file="sizes.csv", column="size")}
FIRST = {"images": "images", "annotations": "annotations.json"}  # 3 bolt, 7 nut, 21 washer
SECOND = {"images": "more", "annotations": "more.json"}  # 3 rivet, 7 nut, 9 gear
NAMES = ["bolt", "nut", "washer", "rivet", "gear"]
NAN = np.nan


@pytest.fixture
def root(tiny_coco) -> Path:
    """The tiny set, and the same images under other names as a second one."""
    shutil.copytree(tiny_coco.images, tiny_coco.root / "more")
    tree = json.loads(tiny_coco.annotations.read_text())
    for path in sorted((tiny_coco.root / "more").iterdir()):
        path.rename(path.with_name(f"more-{path.name}"))
    for image in tree["images"]:
        image["file_name"] = f"more-{image['file_name']}"
        image["attributes"] = {"kind": "new"}
    for box in tree["annotations"]:
        box["category_id"] = {3: 3, 7: 7, 21: 9}[box["category_id"]]
    tree["categories"] = [{"id": 9, "name": "gear"}, {"id": 3, "name": "rivet"}, {"id": 7, "name": "nut"}]
    (tiny_coco.root / "more.json").write_text(json.dumps(tree))
    return tiny_coco.root


def config(root: Path, *sources: dict[str, Any]) -> DataConfig:
    found = [SourceConfig(**source) for source in sources]
    return DataConfig(root=str(root), train=found, val=found, test=found)


def opened(root: Path, labels: dict[str, Any], **second: Any) -> list[Source]:
    return open_sources(config(root, FIRST, {**SECOND, **second}), "train", labels)


def names(source: Source) -> list[str]:
    return [category.name for category in source.classes.categories]


def test_categories_are_merged_by_name(root):
    first, second = opened(root, DETECTOR)
    assert names(first) == names(second) == NAMES
    assert [category.id for category in first.classes.categories] == [3, 7, 21, 22, 9]  # 3 is the bolt's
    assert first.classes.classes.tolist() == [0, 1, 2]
    assert second.classes.classes.tolist() == [3, 1, 4]
    assert first.annotated.tolist() == [True, True, True, False, False]
    assert second.annotated.tolist() == [False, True, False, True, True]


def test_a_batch_says_what_each_image_is_annotated_for(root):
    dataset = Dataset(opened(root, DETECTOR), ResizeConfig(shorter=64, longer=96))
    batch, _ = collate([dataset[i, 0, i] for i in (1, 9)])  # the same picture: a nut, and a bolt or rivet
    assert batch.classes.tolist() == [[1, 0], [1, 3]]
    assert batch.annotated.tolist() == [source.annotated.tolist() for source in dataset.sources]
    assert batch.has_boxes.tolist() == [True, True]
    again = pickle.loads(pickle.dumps(dataset))[9, 0, 9]
    assert again.objects.classes.tolist() == [1, 3]


def test_files_with_equal_categories_are_as_ever(root):
    sources = open_sources(config(root, FIRST, FIRST), "train", {**DETECTOR, **PRESENCE})
    for source in sources:
        assert source.classes.classes.tolist() == [0, 1, 2]
        assert source.classes.categories == source.index.categories
        assert not np.isnan(source.labels["presence"].targets).any()
    assert not Dataset(sources, ResizeConfig()).partial


def test_labels_from_boxes_are_known_as_far_as_classes_are_annotated(root):
    first, second = opened(root, {**PRESENCE, **COUNT})
    assert first.labels["presence"].vocabulary == second.labels["presence"].vocabulary == tuple(NAMES)
    # The sixth picture has a bolt or rivet, a nut, a washer or gear.
    np.testing.assert_array_equal(first.labels["presence"].targets[5], [1, 1, 1, NAN, NAN])
    np.testing.assert_array_equal(second.labels["presence"].targets[5], [NAN, 1, NAN, 1, 1])
    assert first.labels["nuts"].targets.tolist() == second.labels["nuts"].targets.tolist()
    total = {"total": LabelSource(kind="scalar", source="count")}
    with pytest.raises(ConfigError, match=r"heads\.total\.source: .*no source has them all"):
        opened(root, total)
    bolts = {"bolts": LabelSource(kind="scalar", source="count", categories=["bolt"])}
    assert opened(root, bolts)[1].labels["bolts"].unknown.all()
    with pytest.raises(ConfigError, match=r"heads\.bolts\.categories: .*'bold'; did you mean 'bolt'\?"):
        opened(root, {"bolts": LabelSource(kind="scalar", source="count", categories=["bold"])})


def test_renamed_categories(root):
    first, second = opened(root, DETECTOR, rename={"rivet": "bolt", "gear": "bolt"})
    assert names(first) == ["bolt", "nut", "washer"]
    assert second.classes.classes.tolist() == [0, 1]
    assert second.index.categories == (Category(id=3, name="bolt"), Category(id=7, name="nut"))
    message = (
        r"data\.train\[1\]\.rename: .*more\.json has no category 'rivets'; did you mean 'rivet'\? "
        r"Its categories: rivet, nut, gear"
    )
    with pytest.raises(ConfigError, match=message):
        opened(root, DETECTOR, rename={"rivets": "bolt"})


def test_a_source_supervises_the_heads_that_it_names(root):
    first, second = opened(root, {**DETECTOR, **PRESENCE, **KIND}, heads=["kind"])
    assert names(first) == ["bolt", "nut", "washer"]  # the second one's boxes are for no head
    assert second.classes.classes.tolist() == [-1, 1, -1]
    assert [first.has_boxes, second.has_boxes] == [True, False]
    assert not second.annotated.any()
    assert second.labels["presence"].unknown.all()
    assert first.labels["kind"].vocabulary == ("clean", "dirty", "new")
    assert not second.labels["kind"].unknown.any()
    first, second = opened(root, {**DETECTOR, **PRESENCE, **KIND}, heads=["objects"])
    assert second.labels["kind"].unknown.all()
    assert second.labels["presence"].unknown.all()
    assert first.labels["kind"].vocabulary == ("clean", "dirty")
    assert first.labels["presence"].vocabulary == ("bolt", "nut", "washer")
    assert second.has_boxes
    assert names(second) == NAMES
    _, second = opened(root, {**DETECTOR, **PRESENCE}, heads=["presence"])
    assert not second.has_boxes
    assert not second.labels["presence"].unknown.any()


def test_a_source_that_cannot_do_what_it_says(root):
    message = r"data\.train\[1\]\.heads: names 'objects', which reads boxes, but the source has boxes=false"
    with pytest.raises(ConfigError, match=message):
        opened(root, DETECTOR, heads=["objects"], boxes=False)
    colour = {"colour": LabelSource(kind="single", source="attribute", field="colour")}
    with pytest.raises(DataError, match=r"more\.json: .*attributes\.colour: .*no image has this attribute"):
        opened(root, colour, heads=["colour"])


def test_a_head_that_no_source_supervises(root):
    both = [{**source, "heads": ["kind"]} for source in (FIRST, SECOND)]
    for heads in (DETECTOR, PRESENCE, SIZE):
        (name,) = heads
        with pytest.raises(ConfigError, match=rf"heads\.{name}: no source of data\.train supervises it"):
            open_sources(config(root, *both), "train", {**heads, **KIND})


def test_a_csv_file_about_one_of_two_sources(root):
    sizes = "file_name,size\n" + "".join(f"{i:03}.png,{i}\n" for i in range(8))
    (root / "sizes.csv").write_text(sizes)
    first, second = opened(root, SIZE)
    assert first.labels["size"].targets.tolist() == list(range(8))
    assert second.labels["size"].unknown.all()
    with pytest.raises(DataError, match=r"no row matches any of the 8 images, .*more-000\.png"):
        opened(root, SIZE, heads=["size"])  # a mistake, since the source says that it has it
    (root / "sizes.csv").write_text("file_name,size\nother.png,1\n")
    with pytest.raises(DataError, match=r"no row matches any of the 8 images, .* 000\.png"):
        opened(root, SIZE)
    (root / "sizes.csv").write_text("file,size\n")
    with pytest.raises(DataError, match="no column 'file_name'"):
        opened(root, SIZE)


def test_idx_files_beside_boxes(root):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
    write_pair(root / "digits", pixels, np.array([3, 1, 4, 1, 5], np.uint8))
    digits = {"images": "digits/pixels.idx.gz", "annotations": "digits/labels.idx.gz"}
    heads = {**DETECTOR, "digit": LabelSource(kind="single", source="attribute", field="label")}
    first, second = open_sources(config(root, FIRST, digits), "train", heads)
    assert first.labels["digit"].unknown.all()
    assert second.labels["digit"].vocabulary == ("1", "3", "4", "5")
    assert second.labels["digit"].targets.tolist() == [1, 0, 2, 0, 3]
    assert [first.has_boxes, second.has_boxes] == [True, False]
    assert second.positions.tolist() == [0, 1, 2, 3, 4]
    assert (second.images.read(2).pixels == pixels[2][..., None]).all()
    assert not Dataset([first, second], ResizeConfig()).partial  # nothing is said about boxes at all
    with pytest.raises(ConfigError, match=r"data\.train\[0\]\.images: no file '.*digits'"):
        open_sources(config(root, {**digits, "images": "digits"}), "train", {})


# Evaluation


def merged(root: Path) -> tuple[Category, ...]:
    return opened(root, DETECTOR)[0].classes.categories


def evaluated(root: Path, labels: dict[str, Any], vocabularies: dict[str, Any], **source: Any) -> Source:
    return open_evaluation(config(root, {**SECOND, **source}), "val", labels, vocabularies, merged(root))


def test_some_of_the_trained_categories_are_evaluated(root):
    heads = {**DETECTOR, **PRESENCE, **COUNT}
    source = evaluated(root, heads, {"presence": tuple(NAMES), "nuts": ()})
    assert names(source) == NAMES
    assert source.classes.classes.tolist() == [3, 1, 4]
    assert source.truth.categories == tuple(
        Category(id=number, name=name) for number, name in ((3, "rivet"), (7, "nut"), (9, "gear"))
    )
    np.testing.assert_array_equal(source.labels["presence"].targets[5], [NAN, 1, NAN, 1, 1])
    assert not source.labels["nuts"].unknown.any()
    dataset = Dataset([source], ResizeConfig(shorter=64, longer=96))
    assert dataset[1, 0, 1].objects.classes.tolist() == [1, 3]
    assert dataset[1, 0, 1].annotated.tolist() == [False, True, False, True, True]


def test_evaluation_of_the_heads_that_the_source_names(root):
    heads = {**DETECTOR, **PRESENCE, **KIND}
    vocabularies = {"presence": tuple(NAMES), "kind": ("new", "old")}
    source = evaluated(root, heads, vocabularies, heads=["kind"])
    assert not source.has_boxes
    assert len(source.truth.xywh) == 0
    assert source.labels["presence"].unknown.all()
    assert source.labels["kind"].targets.tolist() == [0] * 8
    source = evaluated(root, heads, vocabularies, heads=["objects"], rename={"gear": "washer"})
    assert source.has_boxes
    assert source.labels["kind"].unknown.all()
    assert source.classes.classes.tolist() == [3, 1, 2]
