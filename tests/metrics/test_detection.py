"""Detection scores: pycocotools run on the original files is the answer to compare with."""

import contextlib
import importlib.util
import io
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from vision_mtl.errors import ConfigError, DataError, NumericsError
from vision_mtl.metrics.detection import (
    METRIC_NAMES,
    evaluate_detections,
    prepare_results,
    results_array,
    results_json,
)

SAMPLE = Path(__file__).parents[3] / "shared/data/cocoapi_val2014_100"
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason=f"needs COCO's sample results in {SAMPLE}")
needs_hotcoco = pytest.mark.skipif(not importlib.util.find_spec("hotcoco"), reason="needs the extra `fast`")


@dataclass(frozen=True)
class Category:
    id: int
    name: str


@dataclass(frozen=True)
class Truth:
    path: str
    categories: list[Category]
    image_ids: np.ndarray
    offsets: np.ndarray
    xywh: np.ndarray
    areas: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray


def truth_of(data: dict) -> Truth:
    """Pack a COCO dictionary as an `AnnotationIndex` does."""
    categories = [Category(category["id"], category["name"]) for category in data["categories"]]
    label = {category.id: position for position, category in enumerate(categories)}
    image_ids = [image["id"] for image in data["images"]]
    groups = [[a for a in data["annotations"] if a["image_id"] == image_id] for image_id in image_ids]
    annotations = [annotation for group in groups for annotation in group]
    return Truth(
        path="instances.json",
        categories=categories,
        image_ids=np.array(image_ids, np.int64),
        offsets=np.cumsum([0] + [len(group) for group in groups]),
        xywh=np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4),
        areas=np.array([a["area"] for a in annotations], np.float64),
        classes=np.array([label[a["category_id"]] for a in annotations], np.int64),
        crowd=np.array([a["iscrowd"] for a in annotations], bool),
    )


def rows_of(detections: list[dict], data: dict) -> np.ndarray:
    label = {category["id"]: position for position, category in enumerate(data["categories"])}
    rows = [[d["image_id"], *d["bbox"], d["score"], label[d["category_id"]]] for d in detections]
    return np.array(rows, np.float64).reshape(-1, 7)


def by_pycocotools(data: dict, detections: list[dict], folder: Path) -> list[float | None]:
    """The twelve numbers, by pycocotools alone, from files."""
    (folder / "truth.json").write_text(json.dumps(data))
    (folder / "detections.json").write_text(json.dumps(detections))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(folder / "truth.json"))
        evaluator = COCOeval(coco, coco.loadRes(str(folder / "detections.json")), "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return [None if stat == -1 else stat for stat in evaluator.stats]


def small() -> dict:
    """Two images, one of them empty, and categories whose ids are neither dense nor sorted."""
    return {
        "images": [{"id": 40, "height": 100, "width": 200}, {"id": 7, "height": 100, "width": 100}],
        "categories": [{"id": 9, "name": "cat"}, {"id": 3, "name": "dog"}, {"id": 5, "name": "bird"}],
        "annotations": [
            {"id": 0, "image_id": 40, "category_id": 9, "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0},
            {"id": 1, "image_id": 40, "category_id": 3, "bbox": [50, 20, 60, 60], "area": 3600, "iscrowd": 0},
        ],
    }


PERFECT = np.array([[40, 10, 10, 20, 20, 0.9, 0], [40, 50, 20, 60, 60, 0.8, 1]])


def crowded(seed: int = 0) -> tuple[dict, np.ndarray]:
    """Thirty images with crowds, degenerate boxes, tied scores and jittered detections."""
    rng = np.random.default_rng(seed)
    data: dict = {
        "images": [
            {"id": int(image_id), "height": 480, "width": 640} for image_id in rng.permutation(500)[:30]
        ],
        "categories": [{"id": category_id, "name": f"c{category_id}"} for category_id in (17, 2, 90, 41)],
        "annotations": [],
    }
    rows = []
    for number in range(300):
        image_id = data["images"][rng.integers(25)]["id"]
        label = int(rng.integers(3))
        x, y, width, height = (rng.uniform(0, 200, 4)).round(2).tolist()
        width = 0.0 if number % 50 == 7 else width
        data["annotations"].append(
            {
                "id": number,
                "image_id": image_id,
                "category_id": data["categories"][label]["id"],
                "bbox": [x, y, width, height],
                "area": width * height * 0.7,
                "iscrowd": int(number % 10 == 3),
            }
        )
        for _ in range(rng.integers(4)):
            jitter = rng.normal(0, 4, 4)
            score = rng.integers(1, 20) / 20
            rows.append([image_id, x + jitter[0], y + jitter[1], width + 4, height + jitter[3], score, label])
    return data, np.array(rows)


def test_perfect_detections_have_ap_one_even_for_annotation_id_zero():
    scores = evaluate_detections(truth_of(small()), PERFECT)
    assert scores.stats == pytest.approx((1, 1, 1, 1, 1, None, 1, 1, 1, 1, 1, None))
    assert list(scores.metrics) == ["mAP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100"]
    assert tuple(scores.metrics.values()) == scores.stats[:9]
    assert [row.ap for row in scores.per_class] == pytest.approx([1, 1, None])
    assert [row.ap50 for row in scores.per_class] == pytest.approx([1, 1, None])
    assert [(row.name, row.category_id, row.objects) for row in scores.per_class] == [
        ("cat", 9, 1),
        ("dog", 3, 1),
        ("bird", 5, 0),
    ]


def test_known_average_precision():
    """One of two dogs is found behind one false alarm: precision 1/2 at 51 of 101 recalls."""
    data = small()
    data["annotations"] = [
        {"id": n, "image_id": 7, "category_id": 3, "bbox": [n * 40, 0, 30, 30], "area": 900, "iscrowd": 0}
        for n in (0, 1)
    ]
    rows = np.array([[40, 0, 0, 30, 30, 0.9, 1], [7, 0, 0, 30, 30, 0.5, 1]])
    dog = evaluate_detections(truth_of(data), rows).per_class[1]
    assert dog.ap == pytest.approx(0.5 * 51 / 101)
    assert dog.ap50 == dog.ap
    assert dog.objects == 2


@pytest.mark.parametrize("backend", ["pycocotools", pytest.param("hotcoco", marks=needs_hotcoco)])
class TestEmptyCases:
    def test_no_detections_is_zero(self, backend):
        scores = evaluate_detections(truth_of(small()), np.zeros((0, 7)), backend)
        assert scores.metrics["mAP"] == scores.metrics["AR100"] == 0
        assert scores.metrics["APl"] is None
        assert [row.ap for row in scores.per_class] == [0, 0, None]

    @pytest.mark.parametrize("rows", [PERFECT, np.zeros((0, 7))])
    def test_no_ground_truth_is_none(self, backend, rows):
        scores = evaluate_detections(truth_of({**small(), "annotations": []}), rows, backend)
        assert scores.stats == (None,) * 12
        assert set(scores.metrics) == set(METRIC_NAMES)
        assert all(row.ap is None and row.ap50 is None and row.objects == 0 for row in scores.per_class)

    def test_only_crowds_is_none(self, backend):
        data = small()
        for annotation in data["annotations"]:
            annotation["iscrowd"] = 1
        scores = evaluate_detections(truth_of(data), PERFECT, backend)
        assert scores.stats == (None,) * 12
        assert [row.objects for row in scores.per_class] == [0, 0, 0]

    def test_no_images(self, backend):
        data = {"images": [], "categories": [], "annotations": []}
        scores = evaluate_detections(truth_of(data), np.zeros((0, 7)), backend)
        assert scores.stats == (None,) * 12
        assert scores.per_class == []


@needs_sample
@pytest.mark.parametrize("backend", ["pycocotools", pytest.param("hotcoco", marks=needs_hotcoco)])
def test_cocos_own_sample(backend, tmp_path):
    data = json.loads((SAMPLE / "instances_val2014_100.json").read_text())
    detections = json.loads((SAMPLE / "instances_val2014_fakebbox100_results.json").read_text())
    scores = evaluate_detections(truth_of(data), rows_of(detections, data), backend)
    assert scores.metrics["mAP"] == pytest.approx(0.504581, abs=5e-7)
    assert scores.metrics["AP50"] == pytest.approx(0.696973, abs=5e-7)
    assert scores.metrics["AP75"] == pytest.approx(0.572982, abs=5e-7)
    assert scores.stats == pytest.approx(by_pycocotools(data, detections, tmp_path), abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_files_give_pycocotools_the_same_numbers(seed, tmp_path):
    data, rows = crowded(seed)
    truth = truth_of(data)
    written = results_json(rows, truth)
    for annotation in data["annotations"]:
        annotation["id"] += 1
    assert evaluate_detections(truth, rows).stats == tuple(by_pycocotools(data, written, tmp_path))
    assert (rows_of(json.loads(json.dumps(written)), data) == prepare_results(truth, rows)).all()


@needs_hotcoco
@pytest.mark.parametrize("seed", range(3))
def test_hotcoco_equals_pycocotools(seed):
    data, rows = crowded(seed)
    truth = truth_of(data)
    ours, fast = (evaluate_detections(truth, rows, backend) for backend in ("pycocotools", "hotcoco"))
    assert 0 < ours.metrics["mAP"] < 1
    assert fast.stats == pytest.approx(ours.stats, abs=1e-9)
    assert [row.name for row in fast.per_class] == [row.name for row in ours.per_class]
    assert [row.objects for row in fast.per_class] == [row.objects for row in ours.per_class]
    for field in ("ap", "ap50"):
        expected = [getattr(row, field) for row in ours.per_class]
        assert [getattr(row, field) for row in fast.per_class] == pytest.approx(expected, abs=1e-9)


def test_missing_hotcoco_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "hotcoco", None)
    with pytest.raises(ConfigError, match=r"pip install -e '\.\[fast\]'"):
        evaluate_detections(truth_of(small()), PERFECT, "hotcoco")


def test_order_of_images_annotations_and_categories_does_not_matter():
    data, rows = crowded()
    rows[:, 5] = np.linspace(0.01, 0.99, len(rows))
    expected = evaluate_detections(truth_of(data), rows)
    shuffled = {name: entries[::-1] for name, entries in data.items()}
    rows[:, 6] = len(data["categories"]) - 1 - rows[:, 6]
    scores = evaluate_detections(truth_of(shuffled), rows[::-1])
    assert scores.stats == pytest.approx(expected.stats, abs=1e-12)
    assert [row.name for row in scores.per_class[::-1]] == [row.name for row in expected.per_class]
    expected_ap = [row.ap for row in expected.per_class]
    assert [row.ap for row in scores.per_class[::-1]] == pytest.approx(expected_ap, abs=1e-12)


@pytest.mark.parametrize("column", [1, 3, 5])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_not_finite_detections_are_counted(column, value):
    rows = PERFECT.copy()
    rows[1, column] = value
    for call in (
        lambda: evaluate_detections(truth_of(small()), rows),
        lambda: results_json(rows, truth_of(small())),
    ):
        with pytest.raises(NumericsError, match="1 of 2 detections are not finite"):
            call()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (0, 41, "1 image ids that instances.json does not hold: 41"),
        (6, 3, "name classes 3"),
        (6, -1, "classes -1"),
    ],
)
def test_unknown_ids_are_refused(column, value, message):
    rows = PERFECT.copy()
    rows[0, column] = value
    with pytest.raises(DataError, match=message):
        evaluate_detections(truth_of(small()), rows)


def test_results_array_turns_corners_into_sizes():
    boxes = [
        np.array([[1, 2, 4, 8]], np.float32),
        np.zeros((0, 4), np.float32),
        np.array([[0, 0, 1, 1], [5, 5, 6, 7]]),
    ]
    scores = [np.array([0.5], np.float32), np.zeros(0, np.float32), np.array([0.25, 0.125])]
    classes = [np.array([2]), np.zeros(0, np.int64), np.array([0, 1])]
    rows = results_array([30, 10, 20], boxes, scores, classes)
    assert rows.dtype == np.float64
    assert rows.tolist() == [
        [30, 1, 2, 3, 6, 0.5, 2], [20, 0, 0, 1, 1, 0.25, 0], [20, 5, 5, 1, 2, 0.125, 1]
    ]  # fmt: skip
    assert results_array([], [], [], []).shape == (0, 7)


def test_results_json_has_original_ids_and_rounded_values():
    rows = np.array([[40, 1.23456, 2, np.float32(0.1), 4, 1 / 3, 1]])
    assert results_json(rows, truth_of(small())) == [
        {"image_id": 40, "category_id": 3, "bbox": [1.235, 2.0, 0.1, 4.0], "score": 0.333333}
    ]
    assert results_json(np.zeros((0, 7)), truth_of(small())) == []


def test_nothing_is_printed_nor_changed(capsys):
    rows = PERFECT + 0.00001 * np.eye(2, 7, 1)
    before = rows.copy()
    evaluate_detections(truth_of(small()), rows)
    assert capsys.readouterr().out == ""
    assert (rows == before).all()
