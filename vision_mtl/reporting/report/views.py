"""What each head said of single images, for the gallery: how wrong it was, and the answer in words.

For every image only a number is kept; the rest is made for the few images that are shown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vision_mtl.data.dataset import Source
from vision_mtl.heads.base import Metric
from vision_mtl.heads.evaluation import DetectionMetric, MultilabelMetric, RegressionMetric, SingleLabelMetric
from vision_mtl.metrics.detection_errors import CORRECT, IGNORED, DetectionErrors
from vision_mtl.reporting.report.detection_figures import CONFIDENT

SHOWN_BOXES = 60  # detections per image, the best ones
SHOWN_OBJECTS = 200  # per image, the largest ones
LEAST = 1e-12  # probability, so that a loss is finite


@dataclass(frozen=True)
class View:
    """One head's answers to all I images of the index.

    Attributes:
        name: the head's.
        loss: (I,) float64, how wrong it was; NaN where it has no label or gave no answer. Cross-entropy of
            the answer for classes and labels, the absolute error of a number, and for detection the missed
            objects plus the scores of the wrong boxes.
        meaning: that in words.
        describe: position -> what the page shows: `kinds` of error, `classes` by name, `confidence` (or
            None), `loss` (or None), `truth` and `answer` as text, and for detection `boxes` and `found`.
    """

    name: str
    loss: np.ndarray
    meaning: str
    describe: Callable[[int], dict[str, Any]]


def view_of(
    name: str, metric: Metric, source: Source, detections: tuple[np.ndarray, DetectionErrors] | None
) -> View:
    """Return a head's answers; `detections` are the results and errors of a detection head."""
    if isinstance(metric, DetectionMetric):
        assert detections is not None
        return _boxes(name, metric, source, *detections)
    assert isinstance(metric, SingleLabelMetric | MultilabelMetric | RegressionMetric)
    answers, _ = metric.collected()
    rows = np.full(len(source.index), -1)
    rows[metric.rows] = np.arange(len(metric.rows))
    loss = np.full(len(source.index), np.nan)
    if isinstance(metric, SingleLabelMetric):
        return _one_label(name, metric, answers, rows, loss)
    if isinstance(metric, MultilabelMetric):
        return _several_labels(name, metric, answers, rows, loss)
    return _number(name, metric, answers, rows, loss)


def _one_label(
    name: str, metric: SingleLabelMetric, answers: np.ndarray, rows: np.ndarray, loss: np.ndarray
) -> View:
    seen = np.flatnonzero((rows >= 0) & (metric.targets >= 0))
    right = answers[rows[seen], metric.targets[seen]] if len(seen) else np.zeros(0)
    loss[seen] = -np.log(np.maximum(right, LEAST))

    def describe(at: int) -> dict[str, Any]:
        scores, target = answers[rows[at]], int(metric.targets[at])
        best = int(scores.argmax())
        wrong = target >= 0 and best != target
        truth = metric.names[target] if target >= 0 else "unknown"
        classes = {metric.names[best]} | ({metric.names[target]} if target >= 0 else set())
        confidence = float(scores[best])
        return {
            **_judged(loss[at], confidence, ["wrong class"] if wrong else [], classes),
            "truth": truth,
            "answer": f"{metric.names[best]} {confidence:.0%}",
        }

    return View(name, loss, "cross-entropy", describe)


def _several_labels(
    name: str, metric: MultilabelMetric, answers: np.ndarray, rows: np.ndarray, loss: np.ndarray
) -> View:
    known = ~np.isnan(metric.targets)
    seen = np.flatnonzero((rows >= 0) & known.any(axis=1))
    if len(seen):
        targets, given = metric.targets[seen], known[seen]
        p = np.clip(answers[rows[seen]], LEAST, 1 - LEAST)
        entropy = -np.where(targets == 1, np.log(p), np.log1p(-p))
        loss[seen] = np.where(given, entropy, 0).sum(axis=1) / given.sum(axis=1)

    def describe(at: int) -> dict[str, Any]:
        scores, target = answers[rows[at]], metric.targets[at]
        said = scores >= metric.threshold
        kinds = [
            kind
            for kind, where in (
                ("label too many", said & (target == 0)),
                ("label missing", ~said & (target == 1)),
            )
            if where.any()
        ]
        order = np.argsort(-scores, kind="stable")
        named = [f"{metric.names[i]} {scores[i]:.0%}" for i in order.tolist() if said[i]]
        classes = {metric.names[i] for i in np.flatnonzero(said | (target == 1)).tolist()}
        truth = ", ".join(metric.names[i] for i in np.flatnonzero(target == 1).tolist())
        sure = float(np.maximum(scores, 1 - scores).min()) if len(scores) else None
        return {
            **_judged(loss[at], sure, kinds, classes),
            "truth": truth or ("none" if known[at].any() else "unknown"),
            "answer": ", ".join(named) or "none",
        }

    return View(name, loss, "mean cross-entropy of the labels", describe)


def _number(
    name: str, metric: RegressionMetric, answers: np.ndarray, rows: np.ndarray, loss: np.ndarray
) -> View:
    seen = np.flatnonzero((rows >= 0) & ~np.isnan(metric.targets))
    loss[seen] = np.abs(answers[rows[seen]] - metric.targets[seen])
    typical = float(np.sqrt(np.square(loss[seen]).mean())) if len(seen) else 0.0

    def describe(at: int) -> dict[str, Any]:
        value, target = float(answers[rows[at]]), float(metric.targets[at])
        kinds = []
        if loss[at] > typical:
            kinds = ["too high" if value > target else "too low"]
        truth = "unknown" if np.isnan(target) else f"{target:.4g}"
        return {**_judged(loss[at], None, kinds, set()), "truth": truth, "answer": f"{value:.4g}"}

    return View(name, loss, "absolute error", describe)


def _boxes(
    name: str, metric: DetectionMetric, source: Source, results: np.ndarray, errors: DetectionErrors
) -> View:
    truth, images = metric.index, len(metric.index.image_ids)
    names = [category.name for category in truth.categories]
    by_id = np.argsort(truth.image_ids)

    def positions(ids: np.ndarray) -> np.ndarray:
        return by_id[np.searchsorted(truth.image_ids[by_id], ids.astype(np.int64))]

    at_rows = positions(results[:, 0])
    order = np.lexsort((-results[:, 5], at_rows))
    starts = np.searchsorted(at_rows[order], np.arange(images + 1))
    right = errors.kinds == CORRECT
    found = np.zeros(len(truth.classes))  # the score that each object was found with
    found[errors.objects[right]] = results[right, 5]

    loss = np.full(images, np.nan)
    if source.has_boxes:
        wrong = ~right & (errors.kinds != IGNORED)
        image_of = np.repeat(np.arange(images), np.diff(truth.offsets))
        total = np.bincount(at_rows[wrong], weights=results[wrong, 5], minlength=images)
        total += np.bincount(image_of[errors.not_found], minlength=images)
        seen = positions(np.array(metric.image_ids, np.int64))
        loss[seen] = total[seen]

    def describe(at: int) -> dict[str, Any]:
        height, width = source.size(at)
        rows = order[starts[at] : starts[at + 1]][:SHOWN_BOXES]
        first, last = int(truth.offsets[at]), int(truth.offsets[at + 1])
        own = first + np.argsort(-truth.areas[first:last], kind="stable")[:SHOWN_OBJECTS]
        boxes: list[dict[str, Any]] = [
            {
                "box": _thousandths(truth.xywh[i], width, height),
                "name": names[truth.classes[i]],
                "found": round(float(found[i]), 3),
                "crowd": bool(truth.crowd[i]),
            }
            for i in own
        ]
        answers: list[dict[str, Any]] = [
            {
                "box": _thousandths(results[i, 1:5], width, height),
                "name": names[int(results[i, 6])],
                "score": round(float(results[i, 5]), 3),
                "kind": str(errors.kinds[i]) if source.has_boxes else IGNORED,
            }
            for i in rows
        ]
        sure = [answer for answer in answers if answer["score"] >= CONFIDENT]
        kinds = {answer["kind"] for answer in sure} - {CORRECT, IGNORED}
        if any(box["found"] < CONFIDENT and not box["crowd"] for box in boxes):
            kinds.add("missed")
        classes = {entry["name"] for entry in (*boxes, *sure)}
        best = max((answer["score"] for answer in answers), default=None)
        count = _boxes_of(last - first) if source.has_boxes else "unknown"
        return {
            **_judged(loss[at], best, sorted(kinds), classes),
            "truth": count,
            "answer": f"{_boxes_of(len(sure))} from {CONFIDENT:g}",
            "boxes": boxes,
            "found": answers,
        }

    return View(name, loss, "missed objects plus scores of wrong boxes", describe)


def _boxes_of(number: int) -> str:
    return f"{number} box" if number == 1 else f"{number} boxes"


def _judged(loss: float, confidence: float | None, kinds: list[str], classes: set[str]) -> dict[str, Any]:
    return {
        "loss": None if np.isnan(loss) else round(float(loss), 4),
        "confidence": None if confidence is None else round(confidence, 4),
        "kinds": kinds,
        "classes": sorted(classes),
    }


def _thousandths(xywh: np.ndarray, width: int, height: int) -> list[float]:
    """Return a box in thousandths of the image's width and height."""
    x, y, w, h = (xywh / (width, height, width, height) * 1000).round(1).tolist()
    return [x, y, w, h]
