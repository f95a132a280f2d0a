"""From which score upwards to believe a class: the threshold that suits a goal best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from vision_mtl.errors import ConfigError
from vision_mtl.metrics.checks import require_finite
from vision_mtl.metrics.detection import GroundTruth
from vision_mtl.metrics.detection_matching import match, order_detections, pair_up

DECIMALS = 6  # of scores, as they are written: what is compared with a threshold later is rounded so too


class Goal(NamedTuple):
    """What a threshold is to reach: the best F1, or at least this precision or recall."""

    kind: Literal["f1", "precision", "recall"]
    target: float | None = None

    def __str__(self) -> str:
        return self.kind if self.target is None else f"{self.kind}={self.target:g}"


class OperatingPoint(NamedTuple):
    """One class; `note` says why there is no threshold, and is empty where there is one."""

    name: str
    support: int
    threshold: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    note: str


def parse_goal(text: str) -> Goal:
    """Return the goal of "f1", "precision=0.9" or "recall=0.95"; raise ConfigError for anything else."""
    if text == "f1":
        return Goal("f1")
    kind, _, number = text.partition("=")
    try:
        target = float(number)
    except ValueError:
        target = 0.0
    if kind in ("precision", "recall") and 0 < target <= 1:
        return Goal("precision" if kind == "precision" else "recall", target)
    raise ConfigError(
        f"--operating-points: found '{text}', expected f1, or precision=P or recall=R with a number above 0, "
        "at most 1"
    )


def detection_operating_points(truth: GroundTruth, results: np.ndarray, goal: Goal) -> list[OperatingPoint]:
    """Return one per class for rows (R, 7), as `evaluate_detections` takes them, matched at IoU 0.5.

    Raises:
        NumericsError: a row is not finite.
        DataError: a row names an unknown image or class.
    """
    detected = order_detections(truth, results)
    matches = match(detected, pair_up(detected, 0.5), 0.5)
    objects = np.bincount(truth.classes[~truth.crowd], minlength=len(truth.categories))
    points = []
    for label, category in enumerate(truth.categories):
        own = matches.counted & (detected.classes == label)
        points.append(
            operating_point(category.name, detected.scores[own], matches.hits[own], int(objects[label]), goal)
        )
    return points


def multilabel_operating_points(
    scores: np.ndarray, targets: np.ndarray, names: Sequence[str], goal: Goal
) -> list[OperatingPoint]:
    """Return one per label.

    Args:
        scores: (I, K) probabilities.
        targets: (I, K) float, 1 present, 0 absent, NaN unknown, which is left out.
        names: K.
        goal: what to reach.
    """
    require_finite(scores, "class scores")
    known = ~np.isnan(targets)
    return [
        operating_point(name, column[mask], target[mask] == 1, int((target[mask] == 1).sum()), goal)
        for name, column, target, mask in zip(names, scores.T, targets.T, known.T, strict=True)
    ]


def operating_point(
    name: str, scores: np.ndarray, right: np.ndarray, support: int, goal: Goal
) -> OperatingPoint:
    """Return the threshold, one of the scores, that suits the goal best.

    For F1 the one with the highest, for a precision the one with the highest recall among those that reach
    it, for a recall the one with the highest precision among those that do; of equal ones the highest.

    Args:
        name: of the class.
        scores: (N,) of answers.
        right: (N,) bool.
        support: of the class: what there is to find.
        goal: what to reach.
    """
    if not support or not len(scores):
        note = "nothing to find" if not support else "no answers"
        return OperatingPoint(name, support, None, None, None, None, note)
    scores = scores.round(DECIMALS)
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    last = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)  # of equal scores
    hits = np.cumsum(right[order])[last]
    precision, recall, f1 = hits / (last + 1), hits / support, 2 * hits / (last + 1 + support)
    if goal.target is None:
        value, reached = f1, hits > 0
    else:
        first, value = (precision, recall) if goal.kind == "precision" else (recall, precision)
        reached = first >= goal.target
    if not reached.any():
        note = "nothing is found" if goal.target is None else f"{goal} is not reached"
        return OperatingPoint(name, support, None, None, None, None, note)
    at = int(np.where(reached, value, -1.0).argmax())  # the first of equal ones, so the highest threshold
    threshold, p, r, f = (float(column[at]) for column in (ranked[last], precision, recall, f1))
    return OperatingPoint(name, support, threshold, p, r, f, note="")
