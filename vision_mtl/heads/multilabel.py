"""Image-level multi-label classification: any number of labels per image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from vision_mtl.data.annotations import AnnotationIndex
from vision_mtl.data.labels import LabelSource
from vision_mtl.errors import ConfigError
from vision_mtl.heads.base import Head, LabelInfo, TrunkInfo
from vision_mtl.heads.class_weights import check_class_weights, sigmoid_factors
from vision_mtl.heads.evaluation import MultilabelMetric
from vision_mtl.heads.image_head import ImageHeadConfig
from vision_mtl.heads.image_losses import asymmetric_loss, sigmoid_focal_loss
from vision_mtl.heads.pooling import flat_cells
from vision_mtl.metrics.detection import Backend
from vision_mtl.structures import Batch, ClassScores, Features, ImageMeta, Prediction


class MultilabelConfig(ImageHeadConfig, tag="multilabel", kw_only=True):
    """Any number of labels per image.

    Attributes:
        source: where the labels come from: `boxes` (categories with a box in the image), `attribute` (a
            list of strings) or `csv` (cells separated by `|`).
        pool: as for the other image heads; attention by default, since one small object is a label.
        threshold: probability from which a label counts as present.
        loss: `bce` (binary cross-entropy), `focal`, or `asymmetric` (ASL), which spares the absent labels.
        focal_gamma: how much less a label counts that is right already, for `focal`; 0 is `bce`.
        focal_alpha: factor on present labels, 1 - alpha on absent ones, for `focal`; null for no factors.
        gamma_neg: as `focal_gamma`, on absent labels, for `asymmetric`.
        gamma_pos: as `focal_gamma`, on present labels, for `asymmetric`.
        margin: absent labels of a probability below it have no loss, for `asymmetric`.
        class_weights: class name -> factor on the loss of its label, 1 for the others; or `balanced`: on
            the loss where it is present, the ratio of training images without it to those with it, kept
            within 1 and 100. Null for none.
    """

    source: Literal["boxes", "attribute", "csv"] = "boxes"
    pool: Literal["avg", "gem", "attention"] = "attention"
    threshold: float = 0.5
    loss: Literal["bce", "focal", "asymmetric"] = "bce"
    focal_gamma: float = 2.0
    focal_alpha: float | None = None
    gamma_neg: float = 4.0
    gamma_pos: float = 0.0
    margin: float = 0.05
    class_weights: dict[str, float] | str | None = None

    def check(self, name: str) -> None:
        """Raise ConfigError for a threshold, a focus or a margin out of range; `name` is the head's."""
        super().check(name)
        if not 0 <= self.threshold <= 1:
            raise ConfigError(f"heads.{name}.threshold: found {self.threshold}, expected 0 to 1")
        for key in ("focal_gamma", "gamma_neg", "gamma_pos"):
            if getattr(self, key) < 0:
                raise ConfigError(f"heads.{name}.{key}: found {getattr(self, key)}, expected 0 or more")
        if not 0 <= self.margin < 1:
            raise ConfigError(f"heads.{name}.margin: found {self.margin}, expected 0 to below 1")
        if self.focal_alpha is not None:
            place = f"heads.{name}.focal_alpha: found {self.focal_alpha}"
            if self.loss != "focal":
                raise ConfigError(f"{place} with loss={self.loss}; set loss=focal, or remove it")
            if not 0 < self.focal_alpha < 1:
                raise ConfigError(f"{place}, expected above 0 and below 1, or null for no factors")
        check_class_weights(name, self.class_weights)

    def label_source(self) -> LabelSource:
        return LabelSource(
            kind="several",
            source=self.source,
            field=self.field,
            file=self.file,
            column=self.column,
            categories=self.categories,
        )

    def build(self, trunk: TrunkInfo, labels: LabelInfo) -> MultilabelHead:
        return MultilabelHead(self, trunk, labels)


class MultilabelHead(Head):
    """Several labels: a sigmoid each. Targets (B, K) float32 of 0 and 1, NaN unknown."""

    headline = "mAP"
    config: MultilabelConfig
    factors: Tensor  # (2, K): of absent and present labels

    def __init__(self, config: MultilabelConfig, trunk: TrunkInfo, labels: LabelInfo) -> None:
        super().__init__()
        self.config, self.labels = config, labels
        self.pooled = config.pooled(trunk, len(labels.names))
        self.from_detections = config.from_detections(trunk, len(labels.names))
        factors = sigmoid_factors(config.class_weights, labels)
        self.register_buffer("factors", factors, persistent=False)

    def forward(self, features: Features, evidence: Tensor | None = None) -> Tensor:
        logits = self.pooled(*flat_cells(features, self.config.features))
        return logits if self.from_detections is None else logits + self.from_detections(evidence)

    def loss(self, outputs: Tensor, features: Features, batch: Batch) -> dict[str, Tensor]:
        """Return the term `labels` (): summed over the known labels, like one image's worth of evidence, and
        averaged over the images that have one."""
        targets = batch.labels[self.name]
        known = ~targets.isnan()
        targets = targets.nan_to_num()
        absent, present = self.factors
        losses = torch.where(targets > 0, present, absent) * self.label_losses(outputs, targets)
        return {"labels": (losses * known).sum() / known.any(1).sum().clamp(min=1)}

    def label_losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the configured loss (B, K) of each label, without class weights."""
        config = self.config
        if config.loss == "focal":
            return sigmoid_focal_loss(outputs, targets, config.focal_gamma, config.focal_alpha)
        if config.loss == "asymmetric":
            return asymmetric_loss(outputs, targets, config.gamma_neg, config.gamma_pos, config.margin)
        return F.binary_cross_entropy_with_logits(outputs, targets, reduction="none")

    def count_labels(self, batch: Batch) -> int:
        return int((~batch.labels[self.name].isnan()).any(1).sum())

    def decode(self, outputs: Tensor, features: Features) -> Tensor:
        return outputs.sigmoid()

    def predict(self, decoded: Tensor, metas: Sequence[ImageMeta]) -> list[ClassScores]:
        return [ClassScores(scores) for scores in decoded.detach().float().cpu()]

    def metric(self, index: AnnotationIndex, labels: np.ndarray | None, backend: Backend) -> MultilabelMetric:
        assert labels is not None
        return MultilabelMetric(index, labels, self.labels.names, self.config.threshold)

    def describe(self, prediction: Prediction) -> dict[str, Any]:
        """Return the labels from the threshold on, best first, and every label's probability."""
        assert isinstance(prediction, ClassScores)
        scores = dict(zip(self.labels.names, (round(s, 6) for s in prediction.scores.tolist()), strict=True))
        present = [
            name for name in sorted(scores, key=lambda n: -scores[n]) if scores[name] >= self.config.threshold
        ]
        return {"label": present, "score": [scores[name] for name in present], "scores": scores}
