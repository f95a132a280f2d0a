"""How far a figure would move with other images of the same kind.

Percentile bootstrap (Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13) over images:
images are drawn with replacement, as many as there are, and the figure is computed anew; the interval lies
between the 2.5 and the 97.5 percentile. It says what the choice of images does, not what another training
would.
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
    names = list(score(np.arange(images)))
    if not images:
        return dict.fromkeys(names)
    rng = np.random.default_rng(seed)
    drawn = [score(rng.integers(images, size=images)) for _ in range(resamples)]
    return {name: _interval([metrics[name] for metrics in drawn]) for name in names}


def detection_intervals(
    truth: GroundTruth, results: np.ndarray, resamples: int = 500, seed: int = 0
) -> dict[str, Interval | None]:
    """Return the intervals of mAP, AP50 and AP75 of rows (R, 7), as `evaluate_detections` takes them.

    Boxes are matched once: a draw changes only how often each image counts.

    Raises:
        NumericsError: a row is not finite.
        DataError: a row names an unknown image or class.
    """
    images = len(truth.image_ids)
    if not images:
        return dict.fromkeys(("mAP", "AP50", "AP75"))
    rng = np.random.default_rng(seed)
    draws = (rng.integers(images, size=images) for _ in range(resamples))
    weights = np.stack([np.bincount(draw, minlength=images) for draw in draws])
    aps = weighted_aps(truth, results, weights)
    return {name: _interval(list(values)) for name, values in aps.items()}


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


def _interval(values: list[float | None]) -> Interval | None:
    known = [value for value in values if value is not None and not np.isnan(value)]
    if not known:
        return None
    low, high = np.percentile(known, (2.5, 97.5))
    return Interval(float(low), float(high))
