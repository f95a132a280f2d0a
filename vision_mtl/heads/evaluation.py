"""Predictions of one head, collected over a data set and scored at its end. All satisfy `Metric`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from vision_mtl.data.annotations import AnnotationIndex
from vision_mtl.data.categories import places_by_name
from vision_mtl.heads.base import LabelInfo
from vision_mtl.metrics.classification import (
    ClassRow,
    LabelRow,
    multilabel_metrics,
    multilabel_rows,
    single_label_metrics,
    single_label_rows,
)
from vision_mtl.metrics.detection import (
    Backend,
    ClassAP,
    GroundTruth,
    evaluate_detections,
    results_array,
    results_json,
)
from vision_mtl.metrics.regression import regression_metrics
from vision_mtl.structures import ClassScores, Detections, ImageMeta, Prediction, Scalar


class DetectionMetric:
    """COCO average precision of the images of `index`, on the categories that it has.

    Args:
        index: the truth; its categories are among the trained ones.
        names: of the trained classes, by which they are found in the index; detections of other classes are
            left out, since nothing tells whether they are right.
        backend: what computes the numbers.
    """

    def __init__(self, index: GroundTruth, names: Sequence[str], backend: Backend) -> None:
        self.index, self.backend = index, backend
        # (K,) int64, the index's class of each trained one; -1 where it has none.
        self.classes = places_by_name(names, [category.name for category in index.categories])
        self.image_ids: list[int] = []
        self.detections: list[Detections] = []
        self.per_class: list[ClassAP] = []

    def update(self, predictions: Sequence[Prediction], metas: Sequence[ImageMeta]) -> None:
        for prediction, meta in zip(predictions, metas, strict=True):
            assert isinstance(prediction, Detections)
            self.image_ids.append(meta.image_id)
            self.detections.append(prediction)

    def results(self) -> np.ndarray:
        """Return the detections as rows (R, 7) float64 [image id, x, y, w, h, score, class of the index]."""
        rows = results_array(
            self.image_ids,
            [found.boxes.numpy() for found in self.detections],
            [found.scores.numpy() for found in self.detections],
            [found.classes.numpy() for found in self.detections],
        )
        rows[:, 6] = self.classes[rows[:, 6].astype(np.int64)]
        return rows[rows[:, 6] >= 0]

    def results_json(self) -> list[dict[str, Any]]:
        """Return all detections in COCO's results format, with the file's own ids."""
        return results_json(self.results(), self.index)

    def compute(self) -> dict[str, float | None]:
        scores = evaluate_detections(self.index, self.results(), self.backend)
        self.per_class = scores.per_class
        return scores.metrics


class _LabelMetric:
    """Answers of a label head at the positions of the index's images."""

    def __init__(self, index: AnnotationIndex, targets: np.ndarray) -> None:
        self.targets = targets
        self.position = {int(image_id): i for i, image_id in enumerate(index.image_ids)}
        self.answers: list[np.ndarray] = []
        self.rows: list[int] = []

    def update(self, predictions: Sequence[Prediction], metas: Sequence[ImageMeta]) -> None:
        for prediction, meta in zip(predictions, metas, strict=True):
            assert isinstance(prediction, (ClassScores, Scalar))
            answer = prediction.value if isinstance(prediction, Scalar) else prediction.scores.numpy()
            self.answers.append(np.asarray(answer, np.float64))
            self.rows.append(self.position[meta.image_id])

    def collected(self) -> tuple[np.ndarray, np.ndarray]:
        """Return answers (I, ...) float64 and targets (I, ...) of the images seen."""
        if not self.answers:
            return np.zeros((0, *self.targets.shape[1:])), self.targets[:0]
        return np.stack(self.answers), self.targets[self.rows]


class SingleLabelMetric(_LabelMetric):
    """Accuracy and its relatives."""

    def __init__(self, index: AnnotationIndex, targets: np.ndarray, names: Sequence[str]) -> None:
        super().__init__(index, targets)
        self.names = names

    def compute(self) -> dict[str, float | None]:
        scores, targets = self.collected()
        return single_label_metrics(scores.reshape(len(targets), len(self.names)), targets)

    def class_rows(self) -> list[ClassRow]:
        """Return precision, recall and F1 per class."""
        scores, targets = self.collected()
        return single_label_rows(scores.reshape(len(targets), len(self.names)), targets, self.names)


class MultilabelMetric(_LabelMetric):
    """Mean average precision over labels, and its relatives."""

    def __init__(
        self, index: AnnotationIndex, targets: np.ndarray, names: Sequence[str], threshold: float
    ) -> None:
        super().__init__(index, targets)
        self.names, self.threshold = names, threshold

    def compute(self) -> dict[str, float | None]:
        return multilabel_metrics(*self.collected(), self.threshold)

    def class_rows(self) -> list[LabelRow]:
        """Return precision, recall, F1 and average precision per class."""
        return multilabel_rows(*self.collected(), self.names, self.threshold)


class RegressionMetric(_LabelMetric):
    """Mean absolute error and its relatives."""

    def compute(self) -> dict[str, float | None]:
        return regression_metrics(*self.collected())


def describe_detections(detections: Detections, labels: LabelInfo) -> list[dict[str, Any]]:
    """Return the detections with original category ids and names, boxes xywh in original pixels."""
    described = []
    for box, score, label in zip(
        detections.boxes.tolist(), detections.scores.tolist(), detections.classes.tolist(), strict=True
    ):
        x, y, right, bottom = box
        described.append(
            {
                "bbox": [round(value, 3) for value in (x, y, right - x, bottom - y)],
                "category_id": labels.ids[label],
                "category": labels.names[label],
                "score": round(score, 6),
            }
        )
    return described
