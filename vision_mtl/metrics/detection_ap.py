"""Ranked right and wrong answers to average precision, as pycocotools' `COCOeval.accumulate` does it."""

from __future__ import annotations

import numpy as np

from vision_mtl.metrics.detection_matching import Detected, Matches

RECALLS = np.linspace(0.0, 1.0, 101)  # COCO's recall points


def interpolated_precision(hits: np.ndarray, objects: int) -> np.ndarray | None:
    """Return (101,) the highest precision at each of `RECALLS` or beyond it, 0 where that is never reached.

    Args:
        hits: (R,) bool in the order of falling score, whether each counted detection is right.
        objects: to be found; with none the precision is not defined: None.
    """
    if not objects:
        return None
    right = np.cumsum(hits)
    precision = right / np.arange(1, len(hits) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(right / objects, RECALLS)
    return np.append(best, 0.0)[np.minimum(places, len(hits))]


def class_precisions(detected: Detected, matches: Matches) -> list[np.ndarray | None]:
    """Return `interpolated_precision` of each class; its mean is COCO's AP at the matches' threshold."""
    truth = detected.truth
    return precisions_of(
        detected.classes, matches.hits, matches.counted, truth.classes[~truth.crowd], len(truth.categories)
    )


def precisions_of(
    classes: np.ndarray, hits: np.ndarray, counted: np.ndarray, objects: np.ndarray, number: int
) -> list[np.ndarray | None]:
    """Return `interpolated_precision` of each of `number` classes.

    Args:
        classes: (R,) int64 of the detections, in the order of falling score.
        hits: (R,) bool, which are right.
        counted: (R,) bool, which are right or wrong.
        objects: (A,) int64 classes of what is to be found.
        number: of classes.
    """
    rows = np.flatnonzero(counted)
    rows = rows[np.argsort(classes[rows], kind="stable")]  # together by class, still by falling score
    bounds = np.searchsorted(classes[rows], np.arange(number + 1))
    wanted = np.bincount(objects, minlength=number)
    return [
        interpolated_precision(hits[rows[bounds[label] : bounds[label + 1]]], int(wanted[label]))
        for label in range(number)
    ]


def mean_ap(curves: list[np.ndarray | None]) -> float | None:
    """Return the mean over classes of the mean precision; None where no class has an object."""
    defined = [curve.mean() for curve in curves if curve is not None]
    return float(np.mean(defined)) if defined else None
