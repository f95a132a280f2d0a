"""Two data sets with different categories and labels, trained into one model and evaluated one by one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.commands.helpers import assert_pycocotools_agrees
from vision_mtl.commands.evaluate import evaluate_checkpoint
from vision_mtl.commands.shared import open_checkpoint
from vision_mtl.commands.train import train_from_config
from vision_mtl.errors import DataError

FIRST = "{images: images, annotations: annotations.json, heads: [objects, presence, kind]}"
SECOND = (
    "{images: images, annotations: second.json, heads: [objects, presence, level], rename: {screw: bolt}}"
)
HEADS = {
    "fcos": "{type: fcos, depth: 1, norm: group, score_threshold: 0}",
    "retinanet": "{type: retinanet, depth: 1, anchor_scale: 2, score_threshold: 0}",
}


@pytest.fixture(scope="module")
def root(tiny_coco_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny set, and one of the same images with screws (id 5) for bolts, rings (3) for washers, no nuts
    and a number for each image."""
    root = tmp_path_factory.mktemp("two")
    (root / "images").symlink_to(tiny_coco_root / "images")
    tree = json.loads((tiny_coco_root / "annotations.json").read_text())
    (root / "annotations.json").write_text(json.dumps(tree))
    ids = {3: 5, 21: 3}
    boxes = [
        {**box, "category_id": ids[box["category_id"]]}
        for box in tree["annotations"]
        if box["category_id"] in ids
    ]
    images = [{**image, "attributes": {"level": i / 2}} for i, image in enumerate(tree["images"])]
    categories = [{"id": 5, "name": "screw"}, {"id": 3, "name": "ring"}]
    second = {"images": images, "annotations": boxes, "categories": categories}
    (root / "second.json").write_text(json.dumps(second))
    return root


@pytest.fixture(scope="module", params=HEADS)
def run(request: pytest.FixtureRequest, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    path = folder / "two.yaml"
    path.write_text(
        f"""
data:
  root: {root}
  train: [{FIRST}, {SECOND}]
  val: [{FIRST}]
  resize: {{shorter: 64, longer: 96}}
  batch_size: 2
  workers: 0
trunk: {{name: resnet18, channels: 32, norm: group}}
heads:
  objects:  {HEADS[request.param]}
  presence: {{type: multilabel, source: boxes}}
  kind:     {{type: classification, source: attribute, field: kind}}
  level:    {{type: regression, source: attribute, field: level}}
training: {{epochs: 2, warmup_steps: 2, precision: fp32}}
""",
        encoding="utf-8",
    )
    train_from_config(str(path), [], folder / "run")
    return folder / "run"


def test_every_head_has_the_labels_of_its_sources(run: Path) -> None:
    labels = open_checkpoint(run / "checkpoints/best.pt").labels
    assert labels["objects"].names == labels["presence"].names == ("bolt", "nut", "washer", "ring")
    assert labels["objects"].ids == (3, 7, 21, 22)  # 3 is the bolt's, so the ring has another
    assert labels["kind"].names == ("clean", "dirty")
    assert labels["kind"].counts == (4, 4)
    assert labels["level"].mean == pytest.approx(1.75)
    # Bolts or screws are in four images of each set, nuts in four and washers in three of the first, rings in
    # three of the second.
    assert labels["presence"].counts == (8, 4, 3, 3)
    assert labels["presence"].absent == (8, 4, 5, 5)


def judged(run: Path, folder: Path, source: str) -> dict[str, Any]:
    return evaluate_checkpoint(
        str(run / "checkpoints/best.pt"), [f"data.val=[{source}]"], "val", folder, per_class=False
    )


@pytest.mark.parametrize(
    ("source", "file", "ids", "labelled"),
    [
        (FIRST, "annotations.json", {3, 7, 21}, {"kind": 8, "presence": 8, "level": 0}),
        (SECOND, "second.json", {3, 5}, {"kind": 0, "presence": 8, "level": 8}),
    ],
    ids=["first", "second"],
)
def test_each_set_is_judged_by_its_own_file(
    run: Path, root: Path, tmp_path: Path, source: str, file: str, ids: set[int], labelled: dict[str, int]
) -> None:
    metrics = judged(run, tmp_path, source)
    assert metrics["images"] == 8
    found = json.loads((tmp_path / "detections.json").read_text())
    assert found
    assert {row["category_id"] for row in found} <= ids
    assert_pycocotools_agrees(metrics, root / file, tmp_path / "detections.json")
    for name, count in labelled.items():
        assert metrics["heads"][name]["labelled"] == count, name


def test_a_set_that_is_not_about_boxes(run: Path, tmp_path: Path) -> None:
    only_kind = "{images: images, annotations: annotations.json, heads: [kind]}"
    metrics = judged(run, tmp_path, only_kind)
    assert set(metrics["heads"]["objects"].values()) == {None}
    assert metrics["losses"]["objects"] is None
    assert metrics["heads"]["kind"]["labelled"] == 8


def test_a_category_without_its_trained_name(run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"never saw screw\. Trained on: bolt, nut, washer, ring"):
        judged(run, tmp_path, "{images: images, annotations: second.json, heads: [objects]}")
