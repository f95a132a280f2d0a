"""Detections as curves and tables: precision over recall, confusion of classes, calibration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vision_mtl.metrics.calibration import Reliability, reliability
from vision_mtl.metrics.detection import GroundTruth
from vision_mtl.metrics.detection_ap import RECALLS, class_precisions
from vision_mtl.metrics.detection_matching import Pairs, match, order_detections, pair_up


@dataclass(frozen=True)
class PrecisionRecall:
    """Highest precision at each recall or beyond it; the mean of a curve is COCO's AP at that IoU.

    Attributes:
        iou: the threshold.
        recalls: (101,) 0 to 1.
        per_class: (101,) precision of each class; None for a class without objects.
        mean: (101,) over the classes with objects; None if there are none.
    """

    iou: float
    recalls: np.ndarray
    per_class: list[np.ndarray | None]
    mean: np.ndarray | None


def precision_recall(
    truth: GroundTruth, results: np.ndarray, ious: tuple[float, ...] = (0.5, 0.75)
) -> list[PrecisionRecall]:
    """Return the curves of rows (R, 7) float64 [image id, x, y, w, h, score, contiguous class], one per IoU.

    Raises:
        NumericsError: a row is not finite.
        DataError: a row names an unknown image or class.
    """
    detected = order_detections(truth, results)
    pairs = pair_up(detected, min(ious))
    curves = []
    for iou in ious:
        per_class = class_precisions(detected, match(detected, pairs, iou))
        defined = [curve for curve in per_class if curve is not None]
        mean = np.mean(defined, axis=0) if defined else None
        curves.append(PrecisionRecall(iou, RECALLS, per_class, mean))
    return curves


def confusion_with_background(
    truth: GroundTruth, results: np.ndarray, threshold: float = 0.3, iou: float = 0.5
) -> np.ndarray:
    """Return (K + 1, K + 1) int64: rows true classes, columns detected ones, the last of each background.

    Detections scored `threshold` or more and objects that overlap by `iou` or more are paired whatever their
    classes, the largest overlap first (then the higher score, then the earlier object), each once. An object
    left over is in its row's last column, a detection left over in its column's last row, unless as much of
    it lies in a crowd of its class. The corner, background as background, is 0.

    Raises:
        NumericsError: a row is not finite.
        DataError: a row names an unknown image or class.
    """
    detected = order_detections(truth, results[results[:, 5] >= threshold])
    every = pair_up(detected, iou, other_classes=True)
    crowd = truth.crowd[every.annotations]
    one_to_one = _one_to_one(every.where(~crowd), len(detected.rows), len(truth.classes))
    background = len(truth.categories)
    as_class = np.full(len(truth.classes), background)
    as_class[one_to_one.annotations] = detected.classes[one_to_one.detections]
    alone = np.ones(len(detected.rows), bool)
    alone[one_to_one.detections] = False
    alone[every.detections[crowd & every.same]] = False
    table = np.zeros((background + 1, background + 1), np.int64)
    np.add.at(table, (truth.classes[~truth.crowd], as_class[~truth.crowd]), 1)
    table[background] += np.bincount(detected.classes[alone], minlength=background + 1)
    return table


def detection_calibration(truth: GroundTruth, results: np.ndarray, bins: int = 10) -> Reliability:
    """Return the detections' scores beside their precision at IoU 0.5; those in a crowd are left out.

    With the score in the place of the confidence and "finds an object" in that of "is right", after Kueppers
    et al., "Multivariate Confidence Calibration for Object Detection" (https://arxiv.org/abs/2004.13546),
    without its binning by box.
    """
    detected = order_detections(truth, results)
    matches = match(detected, pair_up(detected, 0.5), 0.5)
    return reliability(detected.scores[matches.counted], matches.hits[matches.counted], bins)


def _one_to_one(pairs: Pairs, detections: int, annotations: int) -> Pairs:
    """Return the pairs that are taken if the largest overlap goes first and each side is taken once."""
    order = np.lexsort((pairs.annotations, pairs.detections, -pairs.overlaps))  # detections: by falling score
    left = order
    taken = []
    while len(left):  # a pair that comes first for both its sides is taken: all those at once
        best_of, best_to = np.full(detections, -1), np.full(annotations, -1)
        best_of[pairs.detections[left[::-1]]] = left[::-1]
        best_to[pairs.annotations[left[::-1]]] = left[::-1]
        mutual = (best_of[pairs.detections[left]] == left) & (best_to[pairs.annotations[left]] == left)
        new = left[mutual]
        taken.append(new)
        busy = np.isin(pairs.detections[left], pairs.detections[new])
        busy |= np.isin(pairs.annotations[left], pairs.annotations[new])
        left = left[~busy]
    rows = np.concatenate([*taken, np.zeros(0, np.int64)])
    return Pairs(pairs.detections[rows], pairs.annotations[rows], pairs.overlaps[rows], pairs.same[rows])
