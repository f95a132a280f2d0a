"""Answers of image-level heads as curves and tables. I images, K classes.

Unknown labels (-1 or NaN) are left out everywhere. What nothing defines is None or empty, never NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vision_mtl.metrics.calibration import Reliability, reliability
from vision_mtl.metrics.checks import require_finite
from vision_mtl.metrics.classification import average_precision


@dataclass(frozen=True)
class LabelCurves:
    """One class against the rest; T distinct scores, falling, each one a threshold.

    Attributes:
        support: positive labels.
        thresholds: (T,) float64.
        precision: (T,) of the answers from each threshold upwards.
        recall: (T,) also the true positive rate; None without a positive label.
        false_positive_rate: (T,) None without a negative label.
        ap: as `average_precision`; None without a positive label.
        auc: area under the ROC curve, by trapezia from (0, 0); None without labels of both kinds.
    """

    support: int
    thresholds: np.ndarray
    precision: np.ndarray
    recall: np.ndarray | None
    false_positive_rate: np.ndarray | None
    ap: float | None
    auc: float | None


@dataclass(frozen=True)
class Residuals:
    """Predicted numbers beside true ones, in the label's unit.

    Attributes:
        rows: (N,) int64, the images that have a label.
        predicted: (N,) float64.
        true: (N,) float64.
        edges: (bins + 1,) of the histogram of predicted - true, symmetric about 0; empty without labels.
        counts: (bins,) int64.
    """

    rows: np.ndarray
    predicted: np.ndarray
    true: np.ndarray
    edges: np.ndarray
    counts: np.ndarray


def confusion_matrix(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return (K, K) int64: rows are labels, columns answers.

    Args:
        scores: (I, K); of equal ones the lowest class is the answer.
        targets: (I,) int64, -1 unknown.
    """
    require_finite(scores, "class scores")
    known = targets >= 0
    table = np.zeros((scores.shape[1],) * 2, np.int64)
    np.add.at(table, (targets[known], scores[known].argmax(axis=1)), 1)
    return table


def single_label_curves(scores: np.ndarray, targets: np.ndarray) -> list[LabelCurves]:
    """Return each class against the rest; arguments as for `confusion_matrix`."""
    require_finite(scores, "class scores")
    known = targets >= 0
    return [_curves(column, targets[known] == label) for label, column in enumerate(scores[known].T)]


def multilabel_curves(scores: np.ndarray, targets: np.ndarray) -> list[LabelCurves]:
    """Return the curves of each label over its known entries.

    Args:
        scores: (I, K).
        targets: (I, K) float, 1 present, 0 absent, NaN unknown.
    """
    require_finite(scores, "class scores")
    known = ~np.isnan(targets)
    return [
        _curves(column[mask], target[mask] == 1)
        for column, target, mask in zip(scores.T, targets.T, known.T, strict=True)
    ]


def single_label_calibration(scores: np.ndarray, targets: np.ndarray, bins: int = 10) -> Reliability:
    """Return the best class's probability beside how often it is the label; arguments as above."""
    require_finite(scores, "class scores")
    known = targets >= 0
    best = scores[known].argmax(axis=1)
    confidence = np.take_along_axis(scores[known], best[:, None], axis=1)[:, 0]
    return reliability(confidence, best == targets[known], bins)


def multilabel_calibration(scores: np.ndarray, targets: np.ndarray, bins: int = 10) -> Reliability:
    """Return the probabilities of all known entries beside how often the label is there."""
    require_finite(scores, "class scores")
    known = ~np.isnan(targets)
    return reliability(scores[known], targets[known] == 1, bins)


def missed_and_added(
    scores: np.ndarray, targets: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return (K,) int64 twice: how often each label was left out where it is true, and said where it is not.

    Args:
        scores: (I, K); a label is predicted from `threshold` upwards.
        targets: (I, K) float, 1 present, 0 absent, NaN unknown, which counts for neither.
        threshold: of the scores.
    """
    require_finite(scores, "class scores")
    said = scores >= threshold
    return ((targets == 1) & ~said).sum(axis=0), ((targets == 0) & said).sum(axis=0)


def residuals(values: np.ndarray, targets: np.ndarray, bins: int = 21) -> Residuals:
    """Return predictions (I,) beside labels (I,), NaN unknown, and the histogram of their differences."""
    require_finite(values, "predicted values")
    rows = np.flatnonzero(~np.isnan(targets))
    predicted, true = values[rows].astype(np.float64), targets[rows].astype(np.float64)
    if not len(rows):
        return Residuals(rows, predicted, true, np.zeros(0), np.zeros(0, np.int64))
    furthest = float(np.abs(predicted - true).max()) or 1.0
    counts, edges = np.histogram(predicted - true, bins, (-furthest, furthest))
    return Residuals(rows, predicted, true, edges, counts)


def _curves(scores: np.ndarray, positive: np.ndarray) -> LabelCurves:
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order].astype(np.float64)
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], len(ranked) > 0)[: len(ranked)])
    hits = np.cumsum(positive[order])[last]
    misses = last + 1 - hits
    support = int(positive.sum())
    recall = hits / support if support else None
    rate = misses / (len(positive) - support) if len(positive) > support else None
    auc = None
    if recall is not None and rate is not None:
        auc = float(np.trapezoid(np.append(0.0, recall), np.append(0.0, rate)))
    ap = average_precision(scores, positive)
    return LabelCurves(support, ranked[last], hits / (last + 1), recall, rate, ap, auc)
