"""What image-level heads do well and badly, as figures."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from vision_mtl.heads.evaluation import MultilabelMetric, RegressionMetric, SingleLabelMetric
from vision_mtl.metrics.label_curves import (
    LabelCurves,
    confusion_matrix,
    missed_and_added,
    multilabel_calibration,
    multilabel_curves,
    residuals,
    single_label_calibration,
    single_label_curves,
)
from vision_mtl.reporting.report.common import (
    calibration_figure,
    confusion_figures,
    most_frequent,
    pictures_first,
)
from vision_mtl.reporting.report.figures import Bars, Curve, Curves, Figure, Points, Section, Table

LabelMetric = SingleLabelMetric | MultilabelMetric | RegressionMetric
CURVE_POINTS = 200
SHOWN_ERRORS = 16  # labels whose errors are drawn
RESIDUAL_BINS = 11  # odd, so that one of them is about 0
MEASURES = ["precision", "recall", "F1"]


def label_section(name: str, metric: LabelMetric) -> Section:
    """Return the figures of an image-level head; without labelled images a note alone."""
    scores, targets = metric.collected()
    labelled = targets >= 0 if targets.dtype.kind == "i" else ~np.isnan(targets)
    if not labelled.any():
        return Section(name, name, [], "No image of the split has a label for this head.")
    if isinstance(metric, RegressionMetric):
        return Section(name, name, _number_figures(name, scores, targets))
    if isinstance(metric, SingleLabelMetric):
        scores = scores.reshape(len(targets), len(metric.names))
        return Section(name, name, pictures_first(_single_figures(name, metric, scores, targets)))
    return Section(name, name, _several_figures(name, metric, scores, targets))


def _number_figures(key: str, values: np.ndarray, targets: np.ndarray) -> list[Figure]:
    found = residuals(values, targets, RESIDUAL_BINS)
    true, predicted = found.true.tolist(), found.predicted.tolist()
    share = 100 * found.counts / found.counts.sum()
    return [
        Points(f"{key}-predicted-true", "Predicted against true", true, predicted),
        Bars(
            f"{key}-residuals",
            "Predicted minus true, % of the images",
            [f"{low:.2g} to {high:.2g}" for low, high in pairwise(found.edges.tolist())],
            {"images": share.round(1).tolist()},
        ),
    ]


def _single_figures(
    key: str, metric: SingleLabelMetric, scores: np.ndarray, targets: np.ndarray
) -> list[Figure]:
    rows = [[r.name, r.support, r.precision, r.recall, r.f1] for r in metric.class_rows()]
    calibration = single_label_calibration(scores, targets)
    return [
        *confusion_figures(key, confusion_matrix(scores, targets), metric.names),
        *_curve_figures(key, metric.names, single_label_curves(scores, targets)),
        calibration_figure(
            f"{key}-calibration",
            "Does the confidence tell the accuracy?",
            calibration,
            ("confidence", "accuracy"),
        ),
        Table(f"{key}-classes", "Per class", ["class", "images", *MEASURES], rows, MEASURES),
    ]


def _several_figures(
    key: str, metric: MultilabelMetric, scores: np.ndarray, targets: np.ndarray
) -> list[Figure]:
    rows = [[r.name, r.support, r.ap, r.precision, r.recall, r.f1] for r in metric.class_rows()]
    calibration = multilabel_calibration(scores, targets)
    columns = ["label", "images", "AP", *MEASURES]
    note = f"Precision, recall and F1 of labels from {metric.threshold:g} upwards."
    return [
        *_curve_figures(key, metric.names, multilabel_curves(scores, targets)),
        _label_errors(key, metric, scores, targets),
        calibration_figure(
            f"{key}-calibration",
            "Does the confidence tell how often?",
            calibration,
            ("confidence", "share that has the label"),
        ),
        Table(f"{key}-classes", "Per label", columns, rows, ["AP", *MEASURES], note),
    ]


def _label_errors(key: str, metric: MultilabelMetric, scores: np.ndarray, targets: np.ndarray) -> Bars:
    """Return what a confusion matrix would say of independent labels: those left out, those put in."""
    missed, added = missed_and_added(scores, targets, metric.threshold)
    order = np.argsort(-(missed + added), kind="stable")
    few = f"The {SHOWN_ERRORS} with the most of {len(order)} labels." if len(order) > SHOWN_ERRORS else ""
    return Bars(
        f"{key}-label-errors",
        "Labels missed and added, images",
        [metric.names[i] for i in order],
        {"missed": missed[order].tolist(), "added": added[order].tolist()},
        shown=SHOWN_ERRORS,
        note=f"A label is answered from {metric.threshold:g} upwards. {few}".strip(),
    )


def _curve_figures(key: str, names: Sequence[str], curves: Sequence[LabelCurves]) -> list[Figure]:
    """Return precision over recall and ROC, of the classes with the most images."""
    shown = most_frequent(np.array([curve.support for curve in curves], np.int64))
    few = (
        ""
        if len(shown) == sum(c.support > 0 for c in curves)
        else f"The {len(shown)} classes with most images."
    )
    recalls, rates = [], []
    for i in shown:
        curve = curves[i]
        if curve.recall is not None and curve.ap is not None:
            x, y = _fewer(curve.recall), _fewer(curve.precision)
            recalls.append(Curve(f"{names[i]} {curve.ap:.2f}", x, y))
        if curve.recall is not None and curve.false_positive_rate is not None and curve.auc is not None:
            x, y = _fewer(curve.false_positive_rate), _fewer(curve.recall)
            rates.append(Curve(f"{names[i]} {curve.auc:.2f}", [0.0, *x], [0.0, *y]))
    ends = (0.0, 1.0)
    return [
        Curves(
            f"{key}-pr",
            "Precision over recall",
            "recall",
            "precision",
            recalls,
            ends,
            ends,
            note=f"With each class's average precision. {few}".strip(),
        ),
        Curves(
            f"{key}-roc",
            "ROC",
            "false positive rate",
            "true positive rate",
            rates,
            ends,
            ends,
            diagonal=True,
            note=f"With the area under each curve; the dashed line is guessing. {few}".strip(),
        ),
    ]


def _fewer(values: np.ndarray) -> list[float]:
    """Return at most `CURVE_POINTS` of the values, evenly spaced, the first and the last among them."""
    if len(values) <= CURVE_POINTS:
        return values.tolist()
    return values[np.linspace(0, len(values) - 1, CURVE_POINTS).round().astype(int)].tolist()
