"""Image-level classification: one label per image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from vision_mtl.data.annotations import AnnotationIndex
from vision_mtl.data.labels import LabelSource
from vision_mtl.errors import ConfigError
from vision_mtl.heads.base import Head, LabelInfo, TrunkInfo
from vision_mtl.heads.class_weights import check_class_weights, softmax_factors
from vision_mtl.heads.evaluation import SingleLabelMetric
from vision_mtl.heads.image_head import ImageHeadConfig
from vision_mtl.heads.image_losses import softmax_focal_loss
from vision_mtl.heads.pooling import flat_cells
from vision_mtl.metrics.detection import Backend
from vision_mtl.structures import Batch, ClassScores, Features, ImageMeta, Prediction


class ClassificationConfig(ImageHeadConfig, tag="classification", kw_only=True):
    """One label per image.

    Attributes:
        source: where the label comes from: `attribute`, `csv`, or `dominant` (the category that covers
            the largest area).
        groups: new class name -> the label values that it stands for, for sources `attribute` and `csv`; an
            image with another value has no label. Null for a class per value.
        loss: `cross_entropy`, or `focal`: the less an image counts, the surer its label is predicted.
        label_smoothing: share of the target spread over all classes, for `cross_entropy`.
        focal_gamma: how much less, for `focal`; 0 is the cross-entropy.
        class_weights: class name -> factor on the loss of its images, 1 for the others; or `balanced`: in
            inverse proportion to the class's training images, 1 in the mean over all of them. The loss is
            divided by the sum of the batch's factors. Null for none.
    """

    source: Literal["attribute", "csv", "dominant"]
    groups: dict[str, list[str | int | float | bool]] | None = None
    loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    label_smoothing: float = 0.0
    focal_gamma: float = 2.0
    class_weights: dict[str, float] | str | None = None

    def check(self, name: str) -> None:
        super().check(name)
        smoothing = f"heads.{name}.label_smoothing: found {self.label_smoothing}"
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"{smoothing}, expected 0 to below 1")
        if self.label_smoothing and self.loss == "focal":
            raise ConfigError(f"{smoothing} with loss=focal, expected 0; it goes with loss=cross_entropy")
        if self.focal_gamma < 0:
            raise ConfigError(f"heads.{name}.focal_gamma: found {self.focal_gamma}, expected 0 or more")
        check_class_weights(name, self.class_weights)

    def label_source(self) -> LabelSource:
        return LabelSource(
            kind="single",
            source=self.source,
            field=self.field,
            file=self.file,
            column=self.column,
            categories=self.categories,
            groups=self.groups,
        )

    def build(self, trunk: TrunkInfo, labels: LabelInfo) -> ClassificationHead:
        return ClassificationHead(self, trunk, labels)


class ClassificationHead(Head):
    """Single label: softmax over K classes. Targets (B,) int64, -1 unknown."""

    headline = "accuracy"
    config: ClassificationConfig
    class_factors: Tensor

    def __init__(self, config: ClassificationConfig, trunk: TrunkInfo, labels: LabelInfo) -> None:
        super().__init__()
        self.config, self.labels = config, labels
        self.pooled = config.pooled(trunk, len(labels.names))
        self.from_detections = config.from_detections(trunk, len(labels.names))
        factors = softmax_factors(config.class_weights, labels)
        self.register_buffer("class_factors", factors, persistent=False)

    def forward(self, features: Features, evidence: Tensor | None = None) -> Tensor:
        logits = self.pooled(*flat_cells(features, self.config.features))
        return logits if self.from_detections is None else logits + self.from_detections(evidence)

    def loss(self, outputs: Tensor, features: Features, batch: Batch) -> dict[str, Tensor]:
        """Return the term `class` (): the mean over the labelled images, weighed by their classes' factors.

        With label smoothing the share of each class has that class's factor, as in torch's `cross_entropy`.
        """
        config, factors = self.config, self.class_factors
        targets = batch.labels[self.name]
        known, targets = targets >= 0, targets.clamp(min=0)
        if config.loss == "focal":
            losses = factors[targets] * softmax_focal_loss(outputs, targets, config.focal_gamma)
        else:
            losses = F.cross_entropy(
                outputs, targets, factors, reduction="none", label_smoothing=config.label_smoothing
            )
        total = (factors[targets] * known).sum()
        return {"class": (losses * known).sum() / total.masked_fill(total == 0, 1.0)}

    def count_labels(self, batch: Batch) -> int:
        return int((batch.labels[self.name] >= 0).sum())

    def decode(self, outputs: Tensor, features: Features) -> Tensor:
        return outputs.softmax(1)

    def predict(self, decoded: Tensor, metas: Sequence[ImageMeta]) -> list[ClassScores]:
        return [ClassScores(scores) for scores in decoded.detach().float().cpu()]

    def metric(
        self, index: AnnotationIndex, labels: np.ndarray | None, backend: Backend
    ) -> SingleLabelMetric:
        assert labels is not None
        return SingleLabelMetric(index, labels, self.labels.names)

    def describe(self, prediction: Prediction) -> dict[str, Any]:
        """Return the best label, its probability, and every label's probability."""
        assert isinstance(prediction, ClassScores)
        scores = dict(zip(self.labels.names, (round(s, 6) for s in prediction.scores.tolist()), strict=True))
        best = self.labels.names[int(prediction.scores.argmax())]
        return {"label": best, "score": scores[best], "scores": scores}
