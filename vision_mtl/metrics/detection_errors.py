"""What goes wrong in detection, and how many AP50 points each kind of error costs.

The kinds and their costs are those of Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection
Errors", ECCV 2020 (https://arxiv.org/abs/2008.08115), section 2: with t_f = 0.5 and t_b = 0.1, a false
positive is

- classification: IoU >= t_f with an object of another class;
- localisation: t_b <= IoU < t_f with an object of its class;
- both: t_b <= IoU < t_f with an object of another class;
- duplicate: IoU >= t_f with an object of its class that a better detection has found;
- background: IoU < t_b with every object;

and an object that is not found is missed, unless an error of classification or localisation is about it.
Where more than one fits, the order is localisation, classification, duplicate, background, both, as in the
authors' code. An IoU of exactly t_f or t_b belongs to the upper range, since COCO matches at t_f.

The cost of a kind is what AP50 gains if an oracle mends it alone: a wrong class or box is put right, and
where that makes two detections of one object, the one with the lower score goes; both, duplicates and
background go; for missed objects, the class has as many fewer to find. A class with none left is out of the
mean, as everywhere in COCO. Two more oracles overlap with these: no false positives at all, and no object to
be found that is not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vision_mtl.metrics.detection import GroundTruth
from vision_mtl.metrics.detection_ap import class_precisions, mean_ap, precisions_of
from vision_mtl.metrics.detection_matching import Detected, Matches, Pairs, match, order_detections, pair_up

FOREGROUND, BACKGROUND = 0.5, 0.1
KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")
CORRECT, IGNORED = "correct", "ignored"


@dataclass(frozen=True)
class DetectionErrors:
    """Errors of detections at IoU 0.5.

    Attributes:
        ap50: COCO's AP50; None without objects.
        costs: kind -> what AP50 would gain, in [0, 1], for each of `KINDS` and for "false positives" and
            "false negatives"; None where AP50 is not defined, or would not be.
        counts: kind -> errors, for the same ones.
        kinds: (R,) str, of each row that was given: one of `KINDS`, "correct", or "ignored" (in a crowd, or
            beyond 100 in its image and class).
        objects: (R,) int64, the annotation that a row is about: found, or overlapped most; -1 if none.
        missed: (A,) bool, annotations that are missed.
        not_found: (A,) bool, those and the ones that a wrong class or box is about.
    """

    ap50: float | None
    costs: dict[str, float | None]
    counts: dict[str, int]
    kinds: np.ndarray
    objects: np.ndarray
    missed: np.ndarray
    not_found: np.ndarray


def detection_errors(truth: GroundTruth, results: np.ndarray) -> DetectionErrors:
    """Break down the errors of rows (R, 7) float64 [image id, x, y, w, h, score, contiguous class].

    Raises:
        NumericsError: a row is not finite.
        DataError: a row names an unknown image or class.
    """
    detected = order_detections(truth, results)
    pairs = pair_up(detected, BACKGROUND, other_classes=True)
    matches = match(detected, pairs, FOREGROUND)
    kinds, about = _kinds(detected, pairs.where(~truth.crowd[pairs.annotations]), matches)
    not_found = ~truth.crowd & ~matches.matched
    covered = np.zeros(len(truth.classes), bool)
    covered[about[np.isin(kinds, ("classification", "localisation"))]] = True
    missed = not_found & ~covered

    ap50 = mean_ap(class_precisions(detected, matches))
    fixed = {kind: _mended(detected, matches, kinds, about, missed, kind) for kind in KINDS}
    fixed["false positives"] = _ap(detected, detected.classes, matches.hits, matches.hits, ~truth.crowd)
    fixed["false negatives"] = _ap(detected, detected.classes, matches.hits, matches.counted, matches.matched)
    counts = {kind: int((kinds == kind).sum()) for kind in KINDS}
    counts |= {"missed": int(missed.sum()), "false positives": int((matches.counted & ~matches.hits).sum())}
    counts["false negatives"] = int(not_found.sum())
    of_rows, objects = np.full(len(results), IGNORED, dtype="<U14"), np.full(len(results), -1)
    of_rows[detected.rows], objects[detected.rows] = kinds, about
    costs = {kind: None if ap50 is None or ap is None else ap - ap50 for kind, ap in fixed.items()}
    return DetectionErrors(ap50, costs, counts, of_rows, objects, missed, not_found)


def _kinds(detected: Detected, pairs: Pairs, matches: Matches) -> tuple[np.ndarray, np.ndarray]:
    """Return the kind (R,) str of each detection, and (R,) the object that it is about, -1 for none."""
    own, own_at = _best(len(detected.rows), pairs.where(pairs.same))
    other, other_at = _best(len(detected.rows), pairs.where(~pairs.same))
    tests = {
        CORRECT: matches.hits,
        IGNORED: ~matches.counted,
        "localisation": (own >= BACKGROUND) & (own < FOREGROUND),
        "classification": other >= FOREGROUND,
        "duplicate": own >= FOREGROUND,
        "background": np.maximum(own, other) < BACKGROUND,
    }
    kinds = np.select(list(tests.values()), list(tests), default="both").astype("<U14")
    about = np.select(
        [
            matches.hits,
            np.isin(kinds, ("localisation", "duplicate")),
            np.isin(kinds, ("classification", "both")),
        ],
        [matches.found, own_at, other_at],
        default=-1,
    )
    return kinds, about


def _best(number: int, pairs: Pairs) -> tuple[np.ndarray, np.ndarray]:
    """Return each detection's (number,) largest overlap, 0 for none, and the annotation, -1 for none."""
    overlap, at = np.zeros(number), np.full(number, -1)
    order = np.lexsort((-pairs.annotations, pairs.overlaps))  # the last one written stays: the best
    overlap[pairs.detections[order]] = pairs.overlaps[order]
    at[pairs.detections[order]] = pairs.annotations[order]
    return overlap, at


def _mended(
    detected: Detected, matches: Matches, kinds: np.ndarray, about: np.ndarray, missed: np.ndarray, kind: str
) -> float | None:
    """Return AP50 as it would be if the errors of one kind were put right."""
    truth = detected.truth
    wrong = kinds == kind
    if kind == "missed":
        return _ap(detected, detected.classes, matches.hits, matches.counted, ~truth.crowd & ~missed)
    if kind not in ("classification", "localisation"):
        return _ap(detected, detected.classes, matches.hits, matches.counted & ~wrong, ~truth.crowd)
    # Detections are sorted by score, so the first one of an object is the one that stays.
    right = np.flatnonzero(matches.hits | wrong)
    _, first = np.unique(about[right], return_index=True)
    hits = np.zeros(len(wrong), bool)
    hits[right[first]] = True
    classes = (
        np.where(wrong, truth.classes[about], detected.classes) if len(truth.classes) else detected.classes
    )
    return _ap(detected, classes, hits, matches.counted & ~(matches.hits | wrong) | hits, ~truth.crowd)


def _ap(
    detected: Detected, classes: np.ndarray, hits: np.ndarray, counted: np.ndarray, objects: np.ndarray
) -> float | None:
    """Return AP of altered detections: classes, right ones, counted ones (R,); and objects (A,)."""
    truth = detected.truth
    return mean_ap(precisions_of(classes, hits, counted, truth.classes[objects], len(truth.categories)))
