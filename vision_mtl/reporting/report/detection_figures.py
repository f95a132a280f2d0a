"""What a detection head does well and badly, as figures."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vision_mtl.heads.evaluation import DetectionMetric
from vision_mtl.metrics.detection_curves import (
    PrecisionRecall,
    confusion_with_background,
    detection_calibration,
    precision_recall,
)
from vision_mtl.metrics.detection_errors import KINDS, DetectionErrors
from vision_mtl.reporting.report.common import (
    MANY,
    calibration_figure,
    confusion_figures,
    most_frequent,
    pictures_first,
)
from vision_mtl.reporting.report.figures import Bars, Curve, Curves, Figure, Section, Table

IOUS = (0.5, 0.75, 0.9)
CONFIDENT = 0.3  # score from which a detection counts in the confusion matrix and in the gallery
SIZES = {"small": "APs", "medium": "APm", "large": "APl"}


def detection_section(
    name: str,
    metric: DetectionMetric,
    metrics: Mapping[str, float | None],
    results: np.ndarray,
    errors: DetectionErrors,
) -> Section:
    """Return the figures of a detection head.

    Args:
        name: the head's.
        metric: filled and computed.
        metrics: what it computed.
        results: its `results()`, (R, 7).
        errors: of those.
    """
    key, truth = name, metric.index
    if not (~truth.crowd).any():
        note = "The split annotates no objects, so that nothing tells which boxes are right."
        return Section(key, name, [], note)
    names = [category.name for category in truth.categories]
    objects = np.bincount(truth.classes[~truth.crowd], minlength=len(names))
    curves = precision_recall(truth, results, IOUS)
    matrix = confusion_with_background(truth, results, CONFIDENT)
    figures: list[Figure] = [
        _errors(key, errors),
        *_curves(key, curves, names, objects),
        *confusion_figures(
            key,
            matrix,
            [*names, "background"],
            f"Detections scored {CONFIDENT:g} or more, paired with objects at IoU 0.5 whatever their "
            "classes. Background as the prediction: nothing was found; as the truth: nothing is there.",
            background=True,
        ),
        _per_class_bars(key, metric),
        Bars(
            f"{key}-ap-by-size",
            "AP by size of the object",
            list(SIZES),
            {"AP": [metrics.get(measure) for measure in SIZES.values()]},
            limit=1.0,
            note="COCO's sizes: small below 32 x 32 pixels of area, large above 96 x 96.",
        ),
        calibration_figure(
            f"{key}-calibration",
            "Does the score tell the precision?",
            detection_calibration(truth, results),
            ("score", "precision at IoU 0.5"),
        ),
        Table(
            f"{key}-classes",
            "AP per class",
            ["class", "objects", "AP", "AP50"],
            [[row.name, row.objects, row.ap, row.ap50] for row in metric.per_class],
            bars=("AP", "AP50"),
        ),
    ]
    return Section(key, name, pictures_first(figures))


def _errors(key: str, errors: DetectionErrors) -> Bars:
    kinds = [*KINDS, "false positives", "false negatives"]
    costs = [errors.costs[kind] for kind in kinds]
    return Bars(
        f"{key}-errors",
        "Cost of each kind of error",
        [f"{kind} ({errors.counts[kind]})" for kind in kinds],
        {"AP50 points": [None if cost is None else round(100 * max(0.0, cost), 2) for cost in costs]},
        note="Points of AP50 that would be gained if that kind alone were put right, in brackets how many "
        "there are; after TIDE (Bolya et al., ECCV 2020). The last two overlap with the others: no false "
        "positive at all, and no object left to find.",
    )


def _curves(key: str, curves: list[PrecisionRecall], names: list[str], objects: np.ndarray) -> list[Curves]:
    at_half, shown = curves[0], most_frequent(objects)
    few = "" if len(shown) == (objects > 0).sum() else f"The {len(shown)} classes with the most objects."
    means = [(f"IoU {c.iou:g}", c.recalls, c.mean) for c in curves]
    classes = [(names[i], at_half.recalls, at_half.per_class[i]) for i in shown]
    return [
        Curves(
            f"{key}-{suffix}",
            title,
            "recall",
            "precision",
            [Curve(name, x.tolist(), y.tolist()) for name, x, y in entries if y is not None],
            y_range=(0, 1),
            x_range=(0, 1),
            note=note,
        )
        for suffix, title, entries, note in (
            (
                "pr",
                "Precision over recall, mean over classes",
                means,
                "The area under each line is COCO's AP.",
            ),
            ("pr-classes", "Precision over recall at IoU 0.5, per class", classes, few),
        )
    ]


def _per_class_bars(key: str, metric: DetectionMetric) -> Bars:
    rows = sorted((row for row in metric.per_class if row.ap is not None), key=lambda row: row.ap or 0.0)
    note = (
        f"The {MANY} classes with the lowest AP of {len(rows)}; all are in the table."
        if len(rows) > MANY
        else ""
    )
    return Bars(
        f"{key}-ap-classes",
        "AP per class, lowest first",
        [row.name for row in rows],
        {"AP": [row.ap for row in rows], "AP50": [row.ap50 for row in rows]},
        limit=1.0,
        shown=MANY,
        note=note,
    )
