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
    objects = np.bincount(truth.classes[~truth.crowd], minlength=len(truth.categories))
    counted = matches.counted
    return [
        interpolated_precision(matches.hits[counted & (detected.classes == label)], int(number))
        for label, number in enumerate(objects)
    ]


def mean_ap(curves: list[np.ndarray | None]) -> float | None:
    """Return the mean over classes of the mean precision; None where no class has an object."""
    defined = [curve.mean() for curve in curves if curve is not None]
    return float(np.mean(defined)) if defined else None
