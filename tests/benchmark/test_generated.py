"""What the benchmark makes up: an annotation file and pictures that every reader takes."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
from pycocotools.coco import COCO

from vision_mtl.benchmark.annotation_file import write_annotations
from vision_mtl.benchmark.parts.eval import made_up_detections, ours
from vision_mtl.benchmark.pictures import SCENES, draw_boxes, draw_picture, write_pictures
from vision_mtl.data.annotations import read_annotations
from vision_mtl.metrics.detection import METRIC_NAMES


def test_both_readers_find_the_same(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    write_annotations(path, images=200, annotations=1500)
    peer = COCO(str(path))
    index = read_annotations(path, None)
    assert (len(peer.imgs), len(peer.anns), len(peer.cats)) == (200, 1500, 80)
    assert (len(index), len(index.xywh), len(index.categories)) == (200, 1500, 80)
    assert index.usable.all()
    assert int(index.crowd.sum()) == sum(annotation["iscrowd"] for annotation in peer.anns.values()) > 0
    by_id = dict(zip(index.annotation_ids.tolist(), index.xywh.tolist(), strict=True))
    assert by_id == {number: annotation["bbox"] for number, annotation in peer.anns.items()}
    assert all(peer.annToMask(peer.anns[number]).shape == (480, 640) for number in (1, 2))


def test_the_file_is_a_function_of_its_numbers(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.json" for i in range(3)]
    for path, seed in zip(paths, (0, 0, 1), strict=True):
        write_annotations(path, images=20, annotations=100, seed=seed)
    first, again, other = (path.read_bytes() for path in paths)
    assert first == again
    assert first != other


def test_its_size_for_train2017s_numbers_is_about_530_megabytes(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    write_annotations(path, images=1183, annotations=8600)
    assert 500e6 < 100 * path.stat().st_size < 560e6


def test_as_few_as_one_image_without_annotations(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    write_annotations(path, images=1, annotations=0)
    assert len(read_annotations(path, None)) == 1


def test_pictures_cost_what_photographs_cost(tmp_path: Path) -> None:
    write_pictures(tmp_path, 2, 480, 640, objects=7, seed=0)
    files = sorted((tmp_path / "images").iterdir())
    assert all(60e3 < file.stat().st_size < 100e3 for file in files)
    assert all(cv2.imread(str(file)).shape == (480, 640, 3) for file in files)
    index = read_annotations(tmp_path / "annotations.json", None)
    assert index.offsets.tolist() == [0, 7, 14]
    assert index.attribute("scene") == list(SCENES[:2])


def test_boxes_lie_inside_the_picture() -> None:
    boxes = draw_boxes(500, 48, 64, np.random.default_rng(0))
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= [64.01, 48.01]).all()
    assert (boxes[:, 2:] >= 4).all()


def test_a_picture_has_more_contrast_between_its_halves_than_between_its_pixels() -> None:
    picture = draw_picture(64, 96, np.random.default_rng(0)).astype(float)
    assert np.abs(picture[:, 48:] - picture[:, :48]).mean() > 2 * np.abs(np.diff(picture, axis=1)).mean()


def test_made_up_detections_are_neither_perfect_nor_useless(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    write_annotations(path, images=60, annotations=300)
    index = read_annotations(path, None)
    found = made_up_detections(index, per_image=30)
    assert [len(detections.scores) for _, detections in found] == [30] * 60
    numbers = ours(index, found, "pycocotools")
    assert tuple(numbers) == METRIC_NAMES
    assert 0.1 < (numbers["mAP"] or 0.0) < 0.9


def test_the_file_is_json(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    write_annotations(path, images=3, annotations=5)
    content = json.loads(path.read_text())
    assert sorted(content) == ["annotations", "categories", "images", "info", "licenses"]
    assert {annotation["image_id"] for annotation in content["annotations"]} == {
        image["id"] for image in content["images"]
    }
