"""Image-level class heads: one label per image (`classification`) or several (`multilabel`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from vision_mtl.data.annotations import AnnotationIndex
from vision_mtl.data.labels import LabelSource
from vision_mtl.errors import ConfigError
from vision_mtl.heads.base import Head, HeadConfig, LabelInfo, TrunkInfo
from vision_mtl.heads.evaluation import MultilabelMetric, SingleLabelMetric
from vision_mtl.heads.pooling import FeatureName, PooledLogits, feature_channels, flat_cells
from vision_mtl.metrics.detection import Backend
from vision_mtl.structures import Batch, ClassScores, Features, ImageMeta, Prediction


class ImageHeadConfig(HeadConfig, kw_only=True):
    """What the image-level heads' configs have in common.

    Attributes:
        features: what the head reads: a stage of the trunk, or all levels of the pyramid.
        pool: `avg`, `gem` (generalised mean) or `attention` (class-specific residual attention).
        attention_share: how much the strongest cell of a class adds to the mean, for `pool: attention`; the
            smaller the objects that a label is about, the more.
        hidden: width of a hidden layer, 0 for none.
        dropout: probability, before the last layer.
        field: `images[].attributes.<field>`, for source `attribute`.
        file: CSV file, relative to `data.root`, for source `csv`.
        column: of that file, for source `csv`.
        categories: names of the categories to regard, for sources made from boxes; null for all.
    """

    features: FeatureName = "c5"
    pool: Literal["avg", "gem", "attention"] = "avg"
    attention_share: float = 0.3
    hidden: int = 0
    dropout: float = 0.0
    field: str | None = None
    file: str | None = None
    column: str | None = None
    categories: list[str] | None = None

    def check(self, name: str) -> None:
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"heads.{name}.dropout: found {self.dropout}, expected 0 to below 1")
        if self.hidden < 0:
            raise ConfigError(f"heads.{name}.hidden: found {self.hidden}, expected 0 or more")

    def pooled(self, trunk: TrunkInfo, out: int) -> PooledLogits:
        """Return the module from features to `out` logits."""
        channels = feature_channels(self.features, trunk.stage_channels, trunk.channels)
        return PooledLogits(channels, out, self.pool, self.hidden, self.dropout, self.attention_share)


class ClassificationConfig(ImageHeadConfig, tag="classification", kw_only=True):
    """One label per image.

    Attributes:
        source: where the label comes from: `attribute`, `csv`, or `dominant` (the category that covers
            the largest area).
        label_smoothing: share of the target spread over all classes.
    """

    source: Literal["attribute", "csv", "dominant"]
    label_smoothing: float = 0.0

    def check(self, name: str) -> None:
        super().check(name)
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(
                f"heads.{name}.label_smoothing: found {self.label_smoothing}, expected 0 to below 1"
            )

    def label_source(self) -> LabelSource:
        return LabelSource(
            kind="single",
            source=self.source,
            field=self.field,
            file=self.file,
            column=self.column,
            categories=self.categories,
        )

    def build(self, trunk: TrunkInfo, labels: LabelInfo) -> ClassificationHead:
        return ClassificationHead(self, trunk, labels)


class MultilabelConfig(ImageHeadConfig, tag="multilabel", kw_only=True):
    """Any number of labels per image.

    Attributes:
        source: where the labels come from: `boxes` (categories with a box in the image), `attribute` (a
            list of strings) or `csv` (cells separated by `|`).
        pool: as for the other image heads; attention by default, since one small object is a label.
        threshold: probability from which a label counts as present.
    """

    source: Literal["boxes", "attribute", "csv"] = "boxes"
    pool: Literal["avg", "gem", "attention"] = "attention"
    threshold: float = 0.5

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


class ClassificationHead(Head):
    """Single label: softmax over K classes. Targets (B,) int64, -1 unknown."""

    headline = "accuracy"

    def __init__(self, config: ClassificationConfig, trunk: TrunkInfo, labels: LabelInfo) -> None:
        super().__init__()
        self.config, self.labels = config, labels
        self.pooled = config.pooled(trunk, len(labels.names))

    def forward(self, features: Features) -> Tensor:
        return self.pooled(*flat_cells(features, self.config.features))

    def loss(self, outputs: Tensor, features: Features, batch: Batch) -> dict[str, Tensor]:
        targets = batch.labels[self.name]
        known = targets >= 0
        entropy = F.cross_entropy(
            outputs, targets.clamp(min=0), reduction="none", label_smoothing=self.config.label_smoothing
        )
        return {"class": (entropy * known).sum() / known.sum().clamp(min=1)}

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


class MultilabelHead(Head):
    """Several labels: a sigmoid each. Targets (B, K) float32, NaN unknown."""

    headline = "mAP"

    def __init__(self, config: MultilabelConfig, trunk: TrunkInfo, labels: LabelInfo) -> None:
        super().__init__()
        self.config, self.labels = config, labels
        self.pooled = config.pooled(trunk, len(labels.names))

    def forward(self, features: Features) -> Tensor:
        return self.pooled(*flat_cells(features, self.config.features))

    def loss(self, outputs: Tensor, features: Features, batch: Batch) -> dict[str, Tensor]:
        targets = batch.labels[self.name]
        known = ~targets.isnan()
        entropy = F.binary_cross_entropy_with_logits(outputs, targets.nan_to_num(), reduction="none")
        # Summed over the classes, like one image's worth of evidence, and averaged over labelled images.
        images = known.any(1).sum().clamp(min=1)
        return {"labels": (entropy * known).sum() / images}

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
