"""Curves, confusion, calibration: hand values, and equality with the metrics that they belong to."""

import numpy as np
import pytest

from tests.metrics.test_detection import crowded, truth_of
from tests.metrics.test_detection_errors import ROWS, TRUTH, row, truth_with
from vision_mtl.errors import NumericsError
from vision_mtl.metrics.calibration import reliability
from vision_mtl.metrics.classification import average_precision
from vision_mtl.metrics.detection import evaluate_detections
from vision_mtl.metrics.detection_curves import (
    confusion_with_background,
    detection_calibration,
    precision_recall,
)
from vision_mtl.metrics.label_curves import (
    confusion_matrix,
    missed_and_added,
    multilabel_calibration,
    multilabel_curves,
    residuals,
    single_label_calibration,
    single_label_curves,
)

NAN = np.nan


def test_mean_of_a_curve_is_average_precision():
    data, rows = crowded()
    truth = truth_of(data)
    scores = evaluate_detections(truth, rows)
    half, strict = precision_recall(truth, rows)
    assert (half.mean.mean(), strict.mean.mean()) == pytest.approx(
        (scores.metrics["AP50"], scores.metrics["AP75"]), abs=1e-12
    )
    aps = [None if curve is None else curve.mean() for curve in half.per_class]
    assert aps == pytest.approx([one.ap50 for one in scores.per_class], abs=1e-12)
    assert (np.diff(half.mean) <= 0).all()
    nothing = precision_recall(truth_of({**data, "annotations": []}), rows)[0]
    assert nothing.mean is None
    assert set(nothing.per_class) == {None}


def test_confusion_with_background_by_hand():
    # Above 0.35: one a is found, the other three are not; the b is taken for an a; the second box on the
    # first a, the wrong box, the one on nothing and the one beside b are left over.
    table = confusion_with_background(truth_with(TRUTH), ROWS, threshold=0.35)
    assert table.tolist() == [[1, 0, 3], [1, 0, 0], [4, 0, 0]]
    assert confusion_with_background(truth_with(TRUTH), ROWS, 1.0).tolist() == [
        [0, 0, 4],
        [0, 0, 1],
        [0, 0, 0],
    ]
    assert confusion_with_background(truth_with([]), ROWS).tolist() == [[0, 0, 0], [0, 0, 0], [7, 0, 0]]


def test_confusion_takes_the_largest_overlap_first_and_leaves_crowds_out():
    rows = np.array([row(2, 0.9, 0), row(1, 0.8, 1), row(50, 0.7, 0), row(50, 0.7, 1)])
    table = confusion_with_background(truth_with([(0, 1, 0), (50, 1, 1)]), rows)
    # The lower-scored b overlaps more; then the a is left over; an a in the crowd of a is no error.
    assert table.tolist() == [[0, 1, 0], [0, 0, 0], [1, 1, 0]]


def test_one_to_one_is_the_greedy_rule():
    data, rows = crowded(1)
    truth = truth_of(data)
    table = confusion_with_background(truth, rows, 0.5)
    assert table[:-1].sum() == (~truth.crowd).sum()
    assert table.sum() - table[:, -1].sum() <= (rows[:, 5] >= 0.5).sum()
    shuffled = np.random.default_rng(0).permutation(len(rows))
    assert confusion_with_background(truth, rows[shuffled], 0.5).sum() == table.sum()


def test_reliability_by_hand():
    found = reliability(np.array([0.0, 0.05, 0.1, 0.95, 1.0]), np.array([0, 1, 1, 1, 1], bool))
    assert found.counts.tolist() == [2, 1, 0, 0, 0, 0, 0, 0, 0, 2]
    assert found.confidence[:3] == pytest.approx([0.025, 0.1, None])
    assert found.right[0] == 0.5
    assert found.right[9] == 1.0
    assert found.ece == pytest.approx((2 * 0.475 + 0.9 + 2 * 0.025) / 5)
    empty = reliability(np.zeros(0), np.zeros(0, bool))
    assert empty.ece is None
    assert set(empty.right) == {None}


def test_detection_calibration_is_precision_by_score():
    found = detection_calibration(truth_with(TRUTH), ROWS)
    assert found.counts.tolist() == [0, 0, 0, 1, 1, 1, 1, 1, 1, 1]
    assert found.right[3:] == [1, 0, 0, 0, 0, 0, 1]
    assert found.ece == pytest.approx((0.7 + 0.4 + 0.5 + 0.6 + 0.7 + 0.8 + 0.1) / 7)


SCORES = np.array([[0.8, 0.2], [0.6, 0.4], [0.3, 0.7], [0.9, 0.1]])


def test_single_label():
    targets = np.array([0, 1, 1, -1])
    assert confusion_matrix(SCORES, targets).tolist() == [[1, 0], [1, 1]]
    first, second = single_label_curves(SCORES, targets)
    assert first.thresholds.tolist() == [0.8, 0.6, 0.3]
    assert first.precision == pytest.approx([1, 1 / 2, 1 / 3])
    assert first.recall.tolist() == [1, 1, 1]
    assert first.false_positive_rate.tolist() == [0, 0.5, 1]
    assert (first.ap, first.auc, first.support) == (1, 1, 1)
    assert second.auc == 1
    assert single_label_calibration(SCORES, targets).ece == pytest.approx((0.2 + 0.6 + 0.3) / 3)


def test_area_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 8, 60) / 8, rng.random(60) < 0.4
    (curves,) = multilabel_curves(scores[:, None], positive[:, None].astype(float))
    gap = scores[positive][:, None] - scores[~positive]
    assert curves.auc == pytest.approx((gap > 0).mean() + (gap == 0).mean() / 2)  # Mann-Whitney
    assert curves.ap == average_precision(scores, positive)


def test_multilabel_masks_unknown_labels():
    targets = np.array([[1, NAN], [0, NAN], [NAN, NAN], [1, NAN]])
    first, second = multilabel_curves(SCORES, targets)
    assert first.support == 2
    assert first.auc == 1
    assert len(second.thresholds) == 0
    assert (second.recall, second.false_positive_rate, second.ap, second.auc) == (None,) * 4
    assert multilabel_calibration(SCORES, targets).ece == pytest.approx((0.2 + 0.6 + 0.1) / 3)
    only = multilabel_curves(SCORES, np.ones((4, 2)))[0]
    assert only.false_positive_rate is None
    assert only.auc is None
    assert only.ap == 1


def test_labels_missed_and_added():
    targets = np.array([[1, 1], [0, 0], [1, NAN], [1, 1]])
    # From 0.6: the first is said of all but the third image, the second of the third alone, which is unknown.
    missed, added = missed_and_added(SCORES, targets, 0.6)
    assert (missed.tolist(), added.tolist()) == ([1, 2], [1, 0])


def test_nothing_labelled():
    targets = np.full(4, -1)
    assert confusion_matrix(SCORES, targets).sum() == 0
    assert [curves.auc for curves in single_label_curves(SCORES, targets)] == [None, None]
    assert single_label_calibration(SCORES, targets).ece is None
    assert len(residuals(np.zeros(3), np.full(3, NAN)).edges) == 0


def test_residuals():
    found = residuals(np.array([1.0, 5.0, 3.0, 9.0]), np.array([2.0, 4.0, 3.0, NAN]), bins=3)
    assert found.rows.tolist() == [0, 1, 2]
    assert found.edges == pytest.approx([-1, -1 / 3, 1 / 3, 1])
    assert found.counts.tolist() == [1, 1, 1]
    assert residuals(np.ones(2), np.ones(2)).counts.sum() == 2


def test_scores_that_are_not_finite_are_refused():
    with pytest.raises(NumericsError):
        confusion_matrix(np.array([[NAN, 1.0]]), np.array([0]))
