"""Thresholds by hand."""

import numpy as np
import pytest

from tests.metrics.test_detection_errors import ROWS, TRUTH, truth_with
from vision_mtl.errors import ConfigError
from vision_mtl.metrics.operating_point import (
    Goal,
    detection_operating_points,
    multilabel_operating_points,
    operating_point,
    parse_goal,
)

SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.6, 0.2])
RIGHT = np.array(
    [1, 0, 1, 1, 0, 0], bool
)  # precision 1, 1/2, 2/3, (tie) 3/5, 1/2; recall 1/4, 1/4, 1/2, 3/4, 3/4


@pytest.mark.parametrize(
    ("goal", "threshold", "precision", "recall"),
    [
        ("f1", 0.6, 3 / 5, 3 / 4),  # F1 2/5, 1/3, 4/7, 2/3, 3/5
        ("precision=0.65", 0.7, 2 / 3, 1 / 2),
        ("precision=1", 0.9, 1, 1 / 4),
        ("recall=0.5", 0.7, 2 / 3, 1 / 2),
        ("recall=0.2", 0.9, 1, 1 / 4),
    ],
)
def test_threshold(goal, threshold, precision, recall):
    found = operating_point("a", SCORES, RIGHT, 4, parse_goal(goal))
    f1 = 2 * precision * recall / (precision + recall)
    assert found[:2] == ("a", 4)
    assert found[2:6] == pytest.approx((threshold, precision, recall, f1))
    assert found.note == ""


def test_no_threshold_says_why():
    assert operating_point("a", SCORES, RIGHT, 4, Goal("recall", 0.9))[2:] == (
        *(None,) * 4,
        "recall=0.9 is not reached",
    )
    assert operating_point("a", SCORES, RIGHT & False, 4, Goal("f1")).note == "nothing is found"
    assert operating_point("a", SCORES, RIGHT & False, 0, Goal("f1")).note == "nothing to find"
    assert operating_point("a", np.zeros(0), np.zeros(0, bool), 4, Goal("f1")).note == "no answers"


def test_detections():
    a, b = detection_operating_points(truth_with(TRUTH), ROWS, Goal("f1"))
    assert a == ("a", 4, 0.9, 1.0, 1 / 4, 2 / 5, "")  # 2 of 7, 2 of 4 at the lowest: F1 4/11
    assert (b.support, b.threshold, b.note) == (1, None, "no answers")


def test_labels_leave_unknown_ones_out():
    targets = np.array([[1, 0], [0, 1], [np.nan, 0]])
    scores = np.array([[0.7, 0.1], [0.2, 0.05], [0.9, 0.3]])
    first, second = multilabel_operating_points(scores, targets, ["x", "y"], Goal("f1"))
    assert first[:6] == ("x", 1, 0.7, 1, 1, 1)
    assert second[:6] == ("y", 1, 0.05, 1 / 3, 1, 1 / 2)


@pytest.mark.parametrize("text", ["f2", "precision", "precision=2", "recall=0", "recall=nan", "f1=0.5"])
def test_goals_that_are_none(text):
    with pytest.raises(ConfigError, match="--operating-points"):
        parse_goal(text)


def test_goals_are_written_as_they_are_read():
    assert [str(parse_goal(text)) for text in ("f1", "recall=0.95")] == ["f1", "recall=0.95"]
