"""Error kinds and their costs by hand, and COCO's numbers from our own matching."""

import numpy as np
import pytest

from tests.metrics.test_detection import crowded, small, truth_of
from vision_mtl.metrics import detection_matching
from vision_mtl.metrics.detection import evaluate_detections
from vision_mtl.metrics.detection_ap import class_precisions, mean_ap
from vision_mtl.metrics.detection_errors import KINDS, detection_errors
from vision_mtl.metrics.detection_matching import match, order_detections, pair_up


def truth_with(objects: list[tuple[float, int, int]], images: int = 1):
    """Boxes of 10 x 10 at (x, 0) in image 1: x, category 1 (a) or 2 (b), crowd."""
    return truth_of(
        {
            "images": [{"id": number + 1} for number in range(images)],
            "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
            "annotations": [
                {
                    "id": n,
                    "image_id": 1,
                    "category_id": category,
                    "bbox": [x, 0, 10, 10],
                    "area": 100,
                    "iscrowd": crowd,
                }
                for n, (x, category, crowd) in enumerate(objects)
            ],
        }
    )


def row(x: float, score: float, label: int = 0) -> list[float]:
    return [1, x, 0, 10, 10, score, label]


TRUTH = [(0, 1, 0), (100, 1, 0), (400, 1, 0), (500, 1, 0), (200, 2, 0)]
ROWS = np.array(
    [
        row(0, 0.9),  # finds the first a
        row(1, 0.8),  # finds it again
        row(105, 0.7),  # IoU 1/3 with the second a
        row(200, 0.6),  # on the b
        row(300, 0.5),  # on nothing
        row(205, 0.4),  # IoU 1/3 with the b
        row(500, 0.3),  # finds the fourth a; the third is missed
    ]
)


def test_kinds_and_costs_by_hand():
    errors = detection_errors(truth_with(TRUTH), ROWS)
    kinds = ["correct", "duplicate", "localisation", "classification", "background", "both", "correct"]
    assert errors.kinds.tolist() == kinds
    assert errors.objects.tolist() == [0, 0, 1, 4, -1, 4, 3]
    assert errors.missed.tolist() == [False, False, True, False, False]
    assert errors.not_found.tolist() == [False, True, True, False, True]
    assert errors.counts == {**dict.fromkeys(KINDS, 1), "false positives": 5, "false negatives": 3}
    # All seven say a, by falling score: right, twice, place, class, background, both, right. Of its four
    # objects one is found at precision 1/1, a second at 2/7: the recall points 0, 0.01, ... 0.25 are 26, the
    # ones up to 0.5 another 25. The one b is not found: AP 0. AP50 is the mean of the two classes.
    a, one_less = 26 + 25 * 2 / 7, 26 + 25 * 2 / 6
    assert errors.ap50 == pytest.approx(a / 101 / 2)
    expected = {  # AP50 after each of the oracles
        # The class is put right: a has one wrong box less, and the b is found.
        "classification": (one_less + 101) / 202,
        # The box is put right: a is right at 1/1, 2/3 and 3/7, up to recalls 1/4, 1/2 and 3/4.
        "localisation": (26 + 25 * 2 / 3 + 25 * 3 / 7) / 202,
        # The detection goes, for these three: a has one wrong box less.
        "both": one_less / 202,
        "duplicate": one_less / 202,
        "background": one_less / 202,
        # The missed object goes: 1/1 up to recall 1/3 (34 points), 2/7 up to 2/3 (33).
        "missed": (34 + 33 * 2 / 7) / 202,
        # No false positive: 1/1 and 2/2, up to recall 1/2.
        "false positives": 51 / 202,
        # No object that is not found: 1/1 up to recall 1/2, 2/7 up to 1; b has none, so is out of the mean.
        "false negatives": (51 + 50 * 2 / 7) / 101,
    }
    assert errors.costs == pytest.approx({kind: ap - a / 202 for kind, ap in expected.items()})


def test_of_two_detections_that_an_oracle_gives_one_object_the_better_stays():
    # The better one is mended, so the other goes: 1 of 1 without a false positive before it.
    errors = detection_errors(truth_with([(0, 1, 0)]), np.array([row(5, 0.9), row(0, 0.8)]))
    assert errors.kinds.tolist() == ["localisation", "correct"]
    assert (errors.ap50, errors.costs["localisation"]) == pytest.approx((0.5, 0.5))
    # Two wrong boxes of one object: the second is gone, and does not stand before the other object.
    rows = np.array([row(5, 0.9), row(-5, 0.8), row(100, 0.7)])
    errors = detection_errors(truth_with([(0, 1, 0), (100, 1, 0)]), rows)
    assert errors.costs["localisation"] == pytest.approx(1 - (51 * 1 / 3) / 101)


def test_crowds_are_no_error():
    rows = np.array([row(0, 0.9), row(50, 0.8)])
    errors = detection_errors(truth_with([(0, 1, 1), (50, 1, 0)]), rows)
    assert errors.kinds.tolist() == ["ignored", "correct"]
    assert errors.ap50 == pytest.approx(1)
    assert set(errors.counts.values()) == {0}
    assert list(errors.costs.values()) == pytest.approx([0] * 8)


def test_thresholds_belong_to_the_upper_range():
    def only(width):
        rows = np.array([[1, 0, 0, width, 10, 0.5, 0]])
        return detection_errors(truth_with([(0, 1, 0)]), rows).kinds[0]

    assert [only(5), only(4.9), only(1), only(0.9)] == [
        "correct",
        "localisation",
        "localisation",
        "background",
    ]


@pytest.mark.parametrize("rows", [np.zeros((0, 7)), np.array([[40, 100, 90, 9, 9, 0.5, 2]])])
def test_empty(rows):
    nothing = detection_errors(truth_of({**small(), "annotations": []}), rows)
    assert nothing.ap50 is None
    assert nothing.kinds.tolist() == ["background"] * len(rows)
    assert set(nothing.costs.values()) == {None}
    unfound = detection_errors(truth_of(small()), rows)
    assert unfound.ap50 == 0
    assert unfound.missed.all()
    assert unfound.costs["background"] == 0
    assert unfound.costs["missed"] is None  # no class has anything left to be found


@pytest.mark.parametrize("seed", range(3))
def test_matching_gives_pycocotools_average_precision(seed):
    data, rows = crowded(seed)
    truth = truth_of(data)
    expected = evaluate_detections(truth, rows)
    detected = order_detections(truth, rows)
    pairs = pair_up(detected, 0.5)
    curves = {
        iou: class_precisions(detected, match(detected, pairs, iou)) for iou in np.linspace(0.5, 0.95, 10)
    }
    aps = [mean_ap(curve) for curve in curves.values()]
    assert [aps[0], aps[5], np.mean(aps)] == pytest.approx(
        [expected.metrics[name] for name in ("AP50", "AP75", "mAP")], abs=1e-12
    )
    assert detection_errors(truth, rows).ap50 == pytest.approx(expected.metrics["AP50"], abs=1e-12)


def test_pairs_do_not_depend_on_how_many_are_looked_at_together(monkeypatch):
    data, rows = crowded()
    detected = order_detections(truth_of(data), rows)
    whole = pair_up(detected, 0.1, other_classes=True)
    assert len(whole.detections) > 100
    monkeypatch.setattr(detection_matching, "AT_ONCE", 7)
    parts = pair_up(detected, 0.1, other_classes=True)
    for name in ("detections", "annotations", "overlaps", "same"):
        assert np.array_equal(getattr(whole, name), getattr(parts, name))


def test_a_hundred_detections_of_a_class_and_image_count():
    data = small()
    rows = np.array([[40, 0, 0, 1, 1, 0.9, 0]] * 100 + [[40, 10, 10, 20, 20, 0.5, 0]])
    errors = detection_errors(truth_of(data), rows)
    assert errors.kinds[100] == "ignored"
    assert errors.ap50 == evaluate_detections(truth_of(data), rows).metrics["AP50"] == 0
