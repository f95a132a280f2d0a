"""How far a figure would move with other images of the same kind.

Percentile bootstrap (Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13) over images:
images are drawn with replacement, as many as there are, and the figure is computed anew; the interval lies
between the 2.5 and the 97.5 percentile, both less the bias (chapter 10), by which the draws' mean is off the
figure: a draw leaves out rare classes, and has some images twice. It says what the choice of images does, not
what another training would.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from vision_mtl.metrics.detection import GroundTruth
from vision_mtl.metrics.detection_ap import RECALLS
from vision_mtl.metrics.detection_matching import match, order_detections, pair_up

IOUS = np.linspace(0.5, 0.95, 10)  # COCO's
AT_ONCE = 2**22  # numbers in a table of draws x detections: 32 MiB


class Interval(NamedTuple):
    """Bounds of the 95% interval."""

    low: float
    high: float


def bootstrap_intervals(
    score: Callable[[np.ndarray], dict[str, float | None]], images: int, resamples: int = 500, seed: int = 0
) -> dict[str, Interval | None]:
    """Return each metric's interval; None where no draw defines it.

    Args:
        score: from positions of images (images,) int64, with repeats, to metrics by name; for instance
            `lambda rows: single_label_metrics(scores[rows], targets[rows])`.
        images: how many there are.
        resamples: draws.
        seed: of the draws.
    """
    figures = score(np.arange(images))
    if not images:
        return dict.fromkeys(figures)
    rng = np.random.default_rng(seed)
    drawn = [figures, *(score(rng.integers(images, size=images)) for _ in range(resamples))]
    return {name: _interval([metrics[name] for metrics in drawn]) for name in figures}


def detection_intervals(
    truth: GroundTruth, results: np.ndarray, resamples: int = 500, seed: int = 0
) -> dict[str, Interval | None]:
    """Return the intervals of mAP, AP50 and AP75 of rows (R, 7), as `evaluate_detections` takes them.

    Boxes are matched once: a draw changes only how often each image counts.

    Raises:
        NumericsError: a row is not finite.
        DataError: a row names an unknown image or class.
    """
    if not len(truth.image_ids):
        return dict.fromkeys(("mAP", "AP50", "AP75"))
    aps = weighted_aps(truth, results, _weights(len(truth.image_ids), resamples, seed))
    return {name: _interval(list(values)) for name, values in aps.items()}


def multilabel_intervals(
    scores: np.ndarray, targets: np.ndarray, threshold: float, resamples: int = 500, seed: int = 0
) -> dict[str, Interval | None]:
    """Return the intervals of `multilabel_metrics`, without its counts; arguments as for those.

    Scores are sorted once: a draw changes only how often each image counts.
    """
    weights = _weights(len(targets), resamples, seed)
    step = max(1, AT_ONCE // max(1, len(targets)))
    parts = [
        weighted_multilabel_metrics(scores, targets, threshold, weights[begin : begin + step])
        for begin in range(0, len(weights), step)
    ]
    return {name: _interval([value for part in parts for value in part[name]]) for name in parts[0]}


def weighted_aps(truth: GroundTruth, results: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Return mAP, AP50 and AP75, (D,) each, image i counted weights[d, i] times; NaN without objects.

    Copies of an image have equal scores and follow each other, so that a weighted step of the curve is exact.
    """
    detected = order_detections(truth, results)
    pairs = pair_up(detected, float(IOUS[0]))
    matches = [match(detected, pairs, float(iou)) for iou in IOUS]
    image_of = np.repeat(np.arange(len(truth.image_ids)), np.diff(truth.offsets))
    sums, defined = np.zeros((len(IOUS), len(weights))), np.zeros(len(weights), np.int64)
    for label in range(len(truth.categories)):
        objects = weights[:, image_of[(truth.classes == label) & ~truth.crowd]].sum(axis=1)
        defined += objects > 0
        own = np.flatnonzero(detected.classes == label)
        step = max(1, AT_ONCE // max(1, len(own)))
        for begin in range(0, len(weights) if len(own) else 0, step):
            part = slice(begin, begin + step)
            seen = np.cumsum(weights[part][:, detected.images[own]], axis=1)
            for at, found in enumerate(matches):
                ap = _weighted_ap(seen, found.hits[own], found.counted[own], objects[part])
                sums[at, part] += ap
    means = np.where(defined > 0, sums / np.maximum(defined, 1), np.nan)
    return {"mAP": means.mean(axis=0), "AP50": means[0], "AP75": means[5]}


def _weighted_ap(seen: np.ndarray, hits: np.ndarray, counted: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Return (D,) AP of one class, 0 without objects.

    Args:
        seen: (D, R) how many detections there are down to each one, in the order of falling score.
        hits: (R,) bool.
        counted: (R,) bool.
        objects: (D,) to be found.
    """
    right = _running(seen, np.flatnonzero(hits))[:, 1:]
    ignored = np.flatnonzero(~counted)  # few: detections in crowds
    before = np.searchsorted(ignored, np.flatnonzero(hits))
    answers = seen[:, hits] - _running(seen, ignored)[:, before]
    best = np.maximum.accumulate((right / np.maximum(answers, 1))[:, ::-1], axis=1)[:, ::-1]
    # Between one right detection and the next lie that many of the recall points.
    points = np.searchsorted(RECALLS, right / np.maximum(objects, 1)[:, None], side="right")
    gained = np.diff(points, axis=1, prepend=0)
    return (best * gained).sum(axis=1) * (objects > 0) / len(RECALLS)


def _running(seen: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return (D, N + 1), how many of the detections `at` (N,) there are up to each of them, from 0."""
    each = seen[:, at] - np.where(at > 0, seen[:, at - 1], 0)
    return np.pad(np.cumsum(each, axis=1), ((0, 0), (1, 0)))


def weighted_multilabel_metrics(
    scores: np.ndarray, targets: np.ndarray, threshold: float, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Return `multilabel_metrics` without its counts, (D,) each, image i counted weights[d, i] times.

    What a draw does not define is NaN.
    """
    known, positive = ~np.isnan(targets), targets == 1
    said = (scores >= threshold) & known
    best = np.where(known, scores, -np.inf).argmax(axis=1)[:, None]
    first_right = np.take_along_axis(positive, best, axis=1)[:, 0]  # so it has a positive label
    exact = (said == positive).all(axis=1) & known.any(axis=1)
    share = weights.astype(np.float64)
    support, predicted, hits = (share @ part for part in (positive, said, positive & said))  # (D, K)
    per_class = [
        _weighted_average_precision(column[mask], true[mask], share[:, mask])
        for column, true, mask in zip(scores.T, positive.T, known.T, strict=True)
    ]
    occurs = support > 0
    aps, classes = np.array(per_class).T, occurs.sum(axis=1)
    precision = _ratios((hits / np.maximum(predicted, 1) * occurs).sum(axis=1), classes)
    recall = _ratios((hits / np.maximum(support, 1)).sum(axis=1), classes)
    found = precision + recall
    return {
        "mAP": _ratios(np.where(occurs, aps, 0).sum(axis=1), classes),
        "accuracy": _ratios(share @ first_right, share @ positive.any(axis=1)),
        "exact_match": _ratios(share @ exact, share @ known.any(axis=1)),
        "CF1": np.where(found == 0, 0.0, 2 * precision * recall / np.where(found == 0, 1, found)),
        "OF1": _ratios(2 * hits.sum(axis=1), (support + predicted).sum(axis=1)),
    }


def _weighted_average_precision(scores: np.ndarray, positive: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return (D,) `average_precision`, entry i of N counted weights[d, i] times; 0 without a positive."""
    if not len(scores):
        return np.zeros(len(weights))
    order = np.argsort(-scores)
    ranked = scores[order]
    last_of_tie = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), len(ranked) - 1)
    hits = np.cumsum(weights[:, order] * positive[order], axis=1)[:, last_of_tie]
    seen = np.cumsum(weights[:, order], axis=1)[:, last_of_tie]
    gained = np.diff(hits, axis=1, prepend=0) / np.maximum(hits[:, -1:], 1)
    return (gained * hits / np.maximum(seen, 1)).sum(axis=1)


def _ratios(parts: np.ndarray, wholes: np.ndarray) -> np.ndarray:
    return np.divide(parts, wholes, out=np.full(len(parts), np.nan), where=wholes > 0)


def _weights(images: int, resamples: int, seed: int) -> np.ndarray:
    """Return (1 + resamples, images) int64, how often each draw has each image; the first has each once."""
    rng = np.random.default_rng(seed)
    draws = (rng.integers(images, size=images) if images else np.zeros(0, np.int64) for _ in range(resamples))
    each_once = np.ones(images, np.int64)
    return np.stack([each_once, *(np.bincount(draw, minlength=images) for draw in draws)])


def _interval(values: list[float | None]) -> Interval | None:
    """Return the interval of a figure, which comes first, and its draws; None where nothing defines it."""
    figure, *drawn = values
    known = [value for value in drawn if value is not None and not np.isnan(value)]
    if figure is None or np.isnan(figure) or not known:
        return None
    low, high = np.percentile(known, (2.5, 97.5)) - (np.mean(known) - figure)
    return Interval(float(low), float(high))
