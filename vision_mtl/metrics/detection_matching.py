"""Which detection found which object: COCO's matching, for all images at once.

The rules are those of pycocotools' `COCOeval` (areas "all", 100 detections per image and class), so that what
is counted here adds up to its numbers: in the order of falling score, each detection takes the free object
of its image and class that it overlaps most, if their IoU reaches the threshold. One that finds no free
object but lies in a crowd of its class is neither right nor wrong; for a crowd, the overlap is the share of
the detection's own area.

I images, A annotations, R detections, K classes, P pairs of a detection and an annotation of its image.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from vision_mtl.metrics.detection import GroundTruth, prepare_results

LIMIT = 100  # detections of a class in an image that COCO looks at
LARGEST = 1e5**2  # pixels, the end of COCOeval's range "all"
AT_ONCE = 2**18  # pairs whose overlaps are computed together: a few tens of MB, whatever there are in all
ROUNDING = 1e-10  # COCOeval asks for an IoU of at most 1 - 1e-10, so that equal boxes match at 1


@dataclass(frozen=True)
class Detected:
    """Detections as COCO's evaluation orders them, beside the truth.

    Attributes:
        truth: the ground truth.
        rows: (R,) int64, where each one is among the rows that were given.
        images: (R,) int64 positions in `truth.image_ids`.
        boxes: (R, 4) float64 xywh in original pixels.
        scores: (R,) float64, falling; equal ones by image id, as COCO sorts them.
        classes: (R,) int64.
        places: (R,) int64, rank among the detections of the same image and class.
    """

    truth: GroundTruth
    rows: np.ndarray
    images: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    places: np.ndarray


@dataclass(frozen=True)
class Pairs:
    """Overlaps of detections with annotations of their images, sorted by detection.

    Attributes:
        detections: (P,) int64 into `Detected`.
        annotations: (P,) int64.
        overlaps: (P,) float64, IoU; for a crowd the share of the detection's area.
        same: (P,) bool, whether both have the same class.
    """

    detections: np.ndarray
    annotations: np.ndarray
    overlaps: np.ndarray
    same: np.ndarray

    def where(self, mask: np.ndarray) -> Pairs:
        """Return the pairs of a mask (P,)."""
        return Pairs(self.detections[mask], self.annotations[mask], self.overlaps[mask], self.same[mask])


@dataclass(frozen=True)
class Matches:
    """What was found at one IoU threshold.

    Attributes:
        found: (R,) int64, the annotation (or crowd) that each detection of `Detected` matches; -1 if none.
        counted: (R,) bool, false for detections that are neither right nor wrong, as in a crowd.
        hits: (R,) bool, true positives.
        matched: (A,) bool, annotations that are no crowd and were found.
    """

    found: np.ndarray
    counted: np.ndarray
    hits: np.ndarray
    matched: np.ndarray


def order_detections(truth: GroundTruth, results: np.ndarray) -> Detected:
    """Return rows (R, 7) [image id, x, y, w, h, score, class] in COCO's order, the best 100 of each image and
    class.

    Raises:
        NumericsError: a row is not finite.
        DataError: a row names an unknown image or class.
    """
    rows = prepare_results(truth, results)
    by_id = np.argsort(truth.image_ids)
    images = by_id[np.searchsorted(truth.image_ids[by_id], rows[:, 0].astype(np.int64))]
    classes = rows[:, 6].astype(np.int64)
    order = np.lexsort((np.arange(len(rows)), rows[:, 0], -rows[:, 5]))  # the last key decides first
    group = (images * max(1, len(truth.categories)) + classes)[order]
    together = np.argsort(group, kind="stable")
    first = np.flatnonzero(np.diff(group[together], prepend=-1))
    sizes = np.diff(np.append(first, len(group)))
    places = np.empty(len(rows), np.int64)
    places[together] = np.arange(len(rows)) - np.repeat(first, sizes)
    order, places = order[places < LIMIT], places[places < LIMIT]
    return Detected(truth, order, images[order], rows[order, 1:5], rows[order, 5], classes[order], places)


def pair_up(detected: Detected, lowest: float, other_classes: bool = False) -> Pairs:
    """Return the pairs that overlap by `lowest` or more, of equal class alone or of all."""
    truth = detected.truth
    classes = max(1, len(truth.categories))
    image_of = np.repeat(np.arange(len(truth.image_ids)), np.diff(truth.offsets))
    of_annotations, of_detections = image_of, detected.images
    if not other_classes:
        of_annotations = image_of * classes + truth.classes
        of_detections = detected.images * classes + detected.classes
    order = np.argsort(of_annotations, kind="stable")
    groups = of_annotations[order]
    start = np.searchsorted(groups, of_detections, "left")
    counts = np.searchsorted(groups, of_detections, "right") - start
    ends = np.cumsum(counts)
    steps = np.arange(AT_ONCE, counts.sum(), AT_ONCE)
    found = []
    for begin, end in pairwise(np.unique([0, *np.searchsorted(ends, steps), len(counts)])):
        own = counts[begin:end]
        detections = np.repeat(np.arange(begin, end), own)
        within = np.arange(len(detections)) - np.repeat(np.cumsum(own) - own, own)
        annotations = order[start[detections] + within]
        overlaps = _overlaps(detected.boxes[detections], truth.xywh[annotations], truth.crowd[annotations])
        near = overlaps >= lowest - ROUNDING
        found.append((detections[near], annotations[near], overlaps[near]))
    found.append(
        (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    )  # where there was nothing to pair
    detections, annotations, overlaps = (np.concatenate(parts) for parts in zip(*found, strict=True))
    same = detected.classes[detections] == truth.classes[annotations]
    return Pairs(detections, annotations, overlaps, same)


def match(detected: Detected, pairs: Pairs, threshold: float) -> Matches:
    """Match at one IoU threshold; `pairs` are to hold all of equal class that reach it."""
    truth = detected.truth
    pairs = pairs.where(pairs.same & (pairs.overlaps >= min(threshold, 1 - ROUNDING)))
    crowd = truth.crowd[pairs.annotations]
    # The first free pair of a detection is the one to take: objects before crowds, the largest overlap first,
    # of equal ones the later, as in COCOeval. Places rise through the images in step.
    keys = (-pairs.annotations, -pairs.overlaps, crowd, pairs.detections, detected.places[pairs.detections])
    order = np.lexsort(keys)
    of, to, crowd = pairs.detections[order], pairs.annotations[order], crowd[order]
    found = np.full(len(detected.rows), -1, np.int64)
    taken = np.zeros(len(truth.classes), bool)
    places = detected.places[of]
    bounds = np.append(np.flatnonzero(np.diff(places, prepend=-1)), len(places))
    for begin, end in pairwise(bounds):
        free = begin + np.flatnonzero(crowd[begin:end] | ~taken[to[begin:end]])
        first = free[np.flatnonzero(np.diff(of[free], prepend=-1))]
        found[of[first]] = to[first]
        taken[to[first]] = True
    in_crowd = np.append(truth.crowd, False)[found]  # -1, none, is the last
    # COCOeval leaves out what finds nothing and has an area outside its range: of boxes turned inside out.
    area = detected.boxes[:, 2] * detected.boxes[:, 3]
    counted = ~in_crowd & ((found >= 0) | ((area >= 0) & (area <= LARGEST)))
    return Matches(found, counted, (found >= 0) & ~in_crowd, taken & ~truth.crowd)


def _overlaps(boxes: np.ndarray, others: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Return (P,) overlaps of boxes (P, 4) with annotations (P, 4), both xywh, as pycocotools' `bbIou`."""
    near = np.maximum(boxes[:, :2], others[:, :2])
    far = np.minimum(boxes[:, :2] + boxes[:, 2:], others[:, :2] + others[:, 2:])
    width, height = (far - near).T
    shared = np.where((width > 0) & (height > 0), width * height, 0.0)
    own = boxes[:, 2] * boxes[:, 3]
    union = np.where(crowd, own, own + others[:, 2] * others[:, 3] - shared)
    return np.divide(shared, union, out=np.zeros_like(shared), where=shared > 0)
