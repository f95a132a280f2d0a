"""Which boxes are kept and which labels are called present."""

import torch

from vision_mtl.inference.thresholds import Thresholds, call_present, keep
from vision_mtl.structures import Detections, Scalar

POINTS = Thresholds(0.3, {"objects": {"nut": 0.6}, "presence": {"nut": 0.1, "bolt": 0.9}})
NAMES = {"objects": ("bolt", "nut"), "count": ()}


def test_each_class_has_its_own_threshold_or_the_default():
    scores = torch.tensor([0.7, 0.65, 0.6, 0.5, 0.3, 0.2])
    found = Detections(torch.zeros(6, 4), scores, torch.tensor([0, 1, 1, 1, 0, 0]))
    predictions = {"objects": found, "count": Scalar(2.0)}
    kept = keep(predictions, POINTS, NAMES)
    assert kept["objects"].scores.tolist() == scores[[0, 1, 2, 4]].tolist()  # a score equal to it is kept
    assert kept["count"] is predictions["count"]
    assert keep(predictions, Thresholds(0.65), NAMES)["objects"].classes.tolist() == [0, 1]
    empty = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64))
    assert len(keep({"objects": empty}, POINTS, NAMES)["objects"].scores) == 0


def test_labels_are_present_from_their_own_threshold_or_as_the_head_says():
    scores = {"bolt": 0.8, "nut": 0.1, "gear": 0.7, "pin": 0.2}
    answers = {
        "objects": [],
        "presence": {"label": ["bolt", "gear"], "score": [0.8, 0.7], "scores": scores},
        "kind": {"label": "clean", "score": 0.6, "scores": {"clean": 0.6}},
    }
    called = call_present(answers, POINTS)
    assert called["presence"] == {"label": ["gear", "nut"], "score": [0.7, 0.1], "scores": scores}
    assert (called["kind"], called["objects"]) == (answers["kind"], [])
    assert call_present(answers, Thresholds()) == answers
