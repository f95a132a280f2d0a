"""Detections judged by a file with some of the trained categories, in an order and with ids of its own."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.data.coco_files import box, coco
from vision_mtl.data.annotations import read_annotations
from vision_mtl.heads.evaluation import DetectionMetric
from vision_mtl.metrics.detection import STAT_NAMES
from vision_mtl.structures import Detections, ImageMeta

NAMES = ("bee", "dog", "cat", "ant", "elk")  # trained; the file has cat 90, ant 0 and bee 7
OBJECTS = [
    box(1, 5, [10, 10, 20, 20], 7),
    box(2, 5, [50, 20, 60, 60], 90),
    box(3, 0, [0, 0, 30, 30], 0),
    box(4, 0, [40, 40, 30, 30], 0),
]


def detections(rows: list[tuple[int, list[float], float]]) -> Detections:
    """Return detections of (trained class, xywh, score)."""
    xywh = torch.tensor([row[1] for row in rows]).reshape(-1, 4)
    return Detections(
        boxes=torch.cat([xywh[:, :2], xywh[:, :2] + xywh[:, 2:]], 1),
        scores=torch.tensor([row[2] for row in rows]),
        classes=torch.tensor([row[0] for row in rows], dtype=torch.int64),
    )


def metric_of(
    folder: Path, data: dict, found: dict[int, list[tuple[int, list[float], float]]]
) -> DetectionMetric:
    """Write the file and return the metric of detections by image id."""
    path = folder / "set.json"
    path.write_text(json.dumps(data))
    metric = DetectionMetric(read_annotations(path, None), NAMES, "pycocotools")
    for image_id, rows in found.items():
        metric.update([detections(rows)], [ImageMeta(image_id, "", (100, 200), (1.0, 1.0))])
    return metric


PERFECT = {
    5: [(0, [10.0, 10, 20, 20], 0.9), (2, [50.0, 20, 60, 60], 0.8), (1, [0.0, 0, 9, 9], 0.95)],
    0: [(3, [0.0, 0, 30, 30], 0.7), (3, [40.0, 40, 30, 30], 0.6), (4, [1.0, 1, 9, 9], 0.99)],
}


def test_classes_are_found_by_name(tmp_path):
    metric = metric_of(tmp_path, coco(annotations=OBJECTS), PERFECT)
    assert metric.compute()["mAP"] == pytest.approx(1)
    assert [(row.name, row.category_id, row.objects) for row in metric.per_class] == [
        ("ant", 0, 2),
        ("bee", 7, 1),
        ("cat", 90, 1),
    ]


def test_detections_of_other_classes_are_left_out(tmp_path):
    written = metric_of(tmp_path, coco(annotations=OBJECTS), PERFECT).results_json()
    assert [(row["image_id"], row["category_id"]) for row in written] == [(5, 7), (5, 90), (0, 0), (0, 0)]
    assert written[1]["bbox"] == [50, 20, 60, 60]


def test_the_written_file_gives_pycocotools_the_same_numbers(tmp_path):
    rng = np.random.default_rng(0)
    found = {
        image_id: [
            (int(rng.integers(5)), (np.array(row[1]) + rng.uniform(-4, 4, 4)).tolist(), float(rng.uniform()))
            for row in rows * 6
        ]
        for image_id, rows in PERFECT.items()
    }
    found[5] += PERFECT[5]
    metric = metric_of(tmp_path, coco(annotations=OBJECTS), found)
    (tmp_path / "detections.json").write_text(json.dumps(metric.results_json()))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "set.json"))
        scored = COCOeval(truth, truth.loadRes(str(tmp_path / "detections.json")), "bbox")
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    metrics = metric.compute()
    assert 0 < metrics["mAP"] < 1
    for name, value in zip(STAT_NAMES[:9], scored.stats, strict=False):
        assert (-1 if metrics[name] is None else metrics[name]) == value, name


def test_a_file_without_categories_has_no_truth(tmp_path):
    metric = metric_of(tmp_path, coco(categories=[]), PERFECT)
    assert set(metric.compute().values()) == {None}
    assert metric.results_json() == []
    assert metric.per_class == []


def test_no_detections(tmp_path):
    metric = metric_of(tmp_path, coco(annotations=OBJECTS), {5: [], 0: []})
    assert metric.compute()["mAP"] == 0
