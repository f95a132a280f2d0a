"""Image-level regression: one number per image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vision_mtl.data.annotations import AnnotationIndex
from vision_mtl.data.labels import LabelSource
from vision_mtl.heads.base import Head, LabelInfo, TrunkInfo
from vision_mtl.heads.evaluation import RegressionMetric
from vision_mtl.heads.image_head import ImageHeadConfig
from vision_mtl.heads.pooling import flat_cells
from vision_mtl.metrics.detection import Backend
from vision_mtl.structures import Batch, Features, ImageMeta, Prediction, Scalar


class RegressionConfig(ImageHeadConfig, tag="regression", kw_only=True):
    """One number per image.

    Attributes:
        source: where the number comes from: `count` (of boxes), `attribute` or `csv`.
        loss: `l1`, `smooth_l1` (quadratic below an error of 1) or `mse`.
        normalise: learn the number as its distance from the mean of the training labels, in their standard
            deviations; false for its own unit, in which the loss is then too.
    """

    source: Literal["count", "attribute", "csv"]
    loss: Literal["l1", "smooth_l1", "mse"] = "smooth_l1"
    normalise: bool = True

    def label_source(self) -> LabelSource:
        return LabelSource(
            kind="scalar",
            source=self.source,
            field=self.field,
            file=self.file,
            column=self.column,
            categories=self.categories,
        )

    def build(self, trunk: TrunkInfo, labels: LabelInfo) -> RegressionHead:
        return RegressionHead(self, trunk, labels)


class RegressionHead(Head):
    """Targets (B,) float32 in the label's own unit, NaN unknown."""

    headline = "R2"
    config: RegressionConfig

    def __init__(self, config: RegressionConfig, trunk: TrunkInfo, labels: LabelInfo) -> None:
        super().__init__()
        self.config, self.labels = config, labels
        self.pooled = config.pooled(trunk, 1)
        self.from_detections = config.from_detections(trunk, 1)
        self.mean, self.std = (labels.mean, labels.std) if config.normalise else (0.0, 1.0)

    def forward(self, features: Features, evidence: Tensor | None = None) -> Tensor:
        logits = self.pooled(*flat_cells(features, self.config.features))[:, 0]
        return logits if self.from_detections is None else logits + self.from_detections(evidence)[:, 0]

    def loss(self, outputs: Tensor, features: Features, batch: Batch) -> dict[str, Tensor]:
        targets = batch.labels[self.name]
        known = ~targets.isnan()
        wanted = (torch.where(known, targets, self.mean) - self.mean) / self.std
        distance = {"l1": F.l1_loss, "smooth_l1": F.smooth_l1_loss, "mse": F.mse_loss}[self.config.loss]
        errors = distance(outputs, wanted, reduction="none")
        return {"value": (errors * known).sum() / known.sum().clamp(min=1)}

    def count_labels(self, batch: Batch) -> int:
        return int((~batch.labels[self.name].isnan()).sum())

    def decode(self, outputs: Tensor, features: Features) -> Tensor:
        return outputs * self.std + self.mean

    def predict(self, decoded: Tensor, metas: Sequence[ImageMeta]) -> list[Scalar]:
        return [Scalar(value) for value in decoded.detach().float().cpu().tolist()]

    def metric(self, index: AnnotationIndex, labels: np.ndarray | None, backend: Backend) -> RegressionMetric:
        assert labels is not None
        return RegressionMetric(index, labels)

    def describe(self, prediction: Prediction) -> dict[str, Any]:
        assert isinstance(prediction, Scalar)
        return {"value": round(prediction.value, 6)}
