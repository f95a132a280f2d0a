"""Class scores to accuracy and its relatives: I images, K classes.

Numbers lie in [0, 1] and are None where nothing defines them; counts are whole numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vision_mtl.metrics.checks import require_finite


class ClassRow(NamedTuple):
    """One class of a single-label head; `support` counts its labelled images."""

    name: str
    support: int
    precision: float | None
    recall: float | None
    f1: float | None


class LabelRow(NamedTuple):
    """One class of a multi-label head; `support` counts its positive labels."""

    name: str
    support: int
    precision: float | None
    recall: float | None
    f1: float | None
    ap: float | None


class _Counts(NamedTuple):
    """Per class, (K,) int64: predicted and true, true, predicted."""

    hits: np.ndarray
    support: np.ndarray
    predicted: np.ndarray


def single_label_metrics(scores: np.ndarray, targets: np.ndarray) -> dict[str, float | None]:
    """Score one answer per image.

    Args:
        scores: (I, K) probabilities or logits; of equal ones the lowest class is the answer.
        targets: (I,) int64 classes, -1 for an unknown label, which is left out.

    Returns:
        accuracy: share of labelled images whose highest score is the label's.
        top5_accuracy: the label is among the min(5, K) highest scores; so 1 with five classes or fewer.
        balanced_accuracy: recall averaged over the classes that occur in the targets.
        macro_f1: F1 averaged over the classes that occur in the targets or in the answers.
        labelled: the images that these numbers rest on.
    """
    scores, targets = _labelled(scores, targets)
    counts = _single_label_counts(scores, targets)
    occurs = counts.support > 0
    seen = occurs | (counts.predicted > 0)
    own = np.take_along_axis(scores, targets[:, None], axis=1)
    earlier = np.arange(scores.shape[1]) < targets[:, None]
    rank = ((scores > own) | ((scores == own) & earlier)).sum(axis=1)
    return {
        "accuracy": _mean(rank == 0),
        "top5_accuracy": _mean(rank < 5),
        "balanced_accuracy": _mean(counts.hits[occurs] / counts.support[occurs]),
        "macro_f1": _mean(2 * counts.hits[seen] / (counts.support + counts.predicted)[seen]),
        "labelled": len(targets),
    }


def single_label_rows(scores: np.ndarray, targets: np.ndarray, names: Sequence[str]) -> list[ClassRow]:
    """Return one row per class; arguments as for `single_label_metrics`, and K names."""
    counts = _single_label_counts(*_labelled(scores, targets))
    return [
        ClassRow(name, support, *_precision_recall_f1(hits, support, predicted))
        for name, hits, support, predicted in _by_class(names, counts)
    ]


def multilabel_metrics(
    scores: np.ndarray, targets: np.ndarray, threshold: float = 0.5
) -> dict[str, float | None]:
    """Score yes or no for each class of an image; entries whose label is unknown are left out.

    CF1 and OF1 as in Chen et al., ML-GCN (https://arxiv.org/abs/1904.03582) and the multi-label papers
    around it; a class that is never predicted has precision 0.

    Args:
        scores: (I, K) probabilities; a class is predicted from `threshold` upwards.
        targets: (I, K) float, 1 present, 0 absent, NaN unknown.

    Returns:
        mAP: `average_precision` averaged over the classes with a positive label.
        accuracy: share of the images with a positive label whose highest score among the known
            entries is one of them.
        exact_match: share of labelled images whose known entries are all predicted right.
        CF1: 2 CP CR / (CP + CR), of precision CP and recall CR averaged over the classes with a
            positive label.
        OF1: F1 of all known entries taken together.
        labelled: images with a known entry.
        without_positive: those of them with no positive label, which accuracy leaves out.
    """
    require_finite(scores, "class scores")
    known, positive = ~np.isnan(targets), targets == 1
    labelled, has_positive = known.any(axis=1), positive.any(axis=1)
    best = np.where(known, scores, -np.inf).argmax(axis=1, keepdims=True)
    wrong = (((scores >= threshold) != positive) & known).any(axis=1)

    counts = _multilabel_counts(scores, targets, threshold)
    occurs = counts.support > 0
    precision = _mean(counts.hits[occurs] / np.maximum(counts.predicted[occurs], 1))
    recall = _mean(counts.hits[occurs] / counts.support[occurs])
    hits, support, predicted = (int(count.sum()) for count in counts)
    return {
        "mAP": _mean(np.array([ap for ap in _average_precisions(scores, targets) if ap is not None])),
        "accuracy": _mean(np.take_along_axis(positive, best, axis=1)[has_positive, 0]),
        "exact_match": _mean(~wrong[labelled]),
        "CF1": _harmonic(precision, recall),
        "OF1": _ratio(2 * hits, support + predicted),
        "labelled": int(labelled.sum()),
        "without_positive": int((labelled & ~has_positive).sum()),
    }


def multilabel_rows(
    scores: np.ndarray, targets: np.ndarray, names: Sequence[str], threshold: float = 0.5
) -> list[LabelRow]:
    """Return one row per class; arguments as for `multilabel_metrics`, and K names."""
    require_finite(scores, "class scores")
    counts = _multilabel_counts(scores, targets, threshold)
    return [
        LabelRow(name, support, *_precision_recall_f1(hits, support, predicted), ap)
        for (name, hits, support, predicted), ap in zip(
            _by_class(names, counts), _average_precisions(scores, targets), strict=True
        )
    ]


def average_precision(scores: np.ndarray, positive: np.ndarray) -> float | None:
    """Return the sum over thresholds of (R_n - R_(n-1)) P_n, not interpolated, as scikit-learn defines it.

    Equal scores are one threshold, so the order of the images does not matter. None with no positive.

    Args:
        scores: (N,).
        positive: (N,) bool.
    """
    if not positive.any():
        return None
    order = np.argsort(-scores)
    ranked = scores[order]
    last_of_tie = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    hits = np.cumsum(positive[order])[last_of_tie]
    gained = np.diff(hits, prepend=0) / hits[-1]
    return float((gained * hits / (last_of_tie + 1)).sum())


def _average_precisions(scores: np.ndarray, targets: np.ndarray) -> list[float | None]:
    """Return the average precision of each class over its known entries."""
    known = ~np.isnan(targets)
    return [
        average_precision(column[mask], target[mask] == 1)
        for column, target, mask in zip(scores.T, targets.T, known.T, strict=True)
    ]


def _labelled(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores and targets of the images that have a label."""
    require_finite(scores, "class scores")
    return scores[targets >= 0], targets[targets >= 0]


def _single_label_counts(scores: np.ndarray, targets: np.ndarray) -> _Counts:
    classes = scores.shape[1]
    answers = scores.argmax(axis=1)
    return _Counts(
        hits=np.bincount(targets[answers == targets], minlength=classes),
        support=np.bincount(targets, minlength=classes),
        predicted=np.bincount(answers, minlength=classes),
    )


def _multilabel_counts(scores: np.ndarray, targets: np.ndarray, threshold: float) -> _Counts:
    positive = targets == 1
    predicted = (scores >= threshold) & ~np.isnan(targets)
    return _Counts(
        hits=(positive & predicted).sum(axis=0),
        support=positive.sum(axis=0),
        predicted=predicted.sum(axis=0),
    )


def _by_class(names: Sequence[str], counts: _Counts) -> list[tuple[str, int, int, int]]:
    """Return (name, hits, support, predicted) of each class."""
    return list(zip(names, *(count.tolist() for count in counts), strict=True))


def _precision_recall_f1(
    hits: int, support: int, predicted: int
) -> tuple[float | None, float | None, float | None]:
    return _ratio(hits, predicted), _ratio(hits, support), _ratio(2 * hits, support + predicted)


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _harmonic(first: float | None, second: float | None) -> float | None:
    """Return the harmonic mean: 0 where both are 0, None where either is."""
    if first is None or second is None:
        return None
    return 2 * first * second / (first + second) if first + second else 0.0
