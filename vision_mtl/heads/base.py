"""What a head is. The only interface in the project."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
from torch import Tensor, nn

from vision_mtl.data.annotations import AnnotationIndex
from vision_mtl.data.labels import LabelSource
from vision_mtl.metrics.detection import Backend
from vision_mtl.structures import Batch, Features, ImageMeta, Prediction

Outputs = Any  # raw tensors, private to the head
Decoded = Any  # fixed-shape tensors (B, M, ...), private to the head


class LabelInfo(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a head answers with, taken from the training data and stored in the checkpoint.

    Attributes:
        names: class names, in class order; empty for regression.
        ids: the data set's own category ids, in class order; for detection heads.
        mean: of the training labels; for regression.
        std: of the training labels; for regression.
    """

    names: tuple[str, ...] = ()
    ids: tuple[int, ...] = ()
    mean: float = 0.0
    std: float = 1.0


class TrunkInfo(msgspec.Struct, frozen=True):
    """What a head needs to know of the trunk.

    Attributes:
        stage_channels: "c2".."c5" -> channels.
        channels: width of the pyramid.
        strides: of the pyramid levels.
    """

    stage_channels: dict[str, int]
    channels: int
    strides: tuple[int, ...]


class Metric(Protocol):
    """Collects predictions of one head over a data set."""

    def update(self, predictions: Sequence[Prediction], metas: Sequence[ImageMeta]) -> None:
        """Add one batch's predictions, one per image."""
        ...

    def compute(self) -> dict[str, float | None]:
        """Return the metrics by name; None where the data set has no label to judge by."""
        ...


class Head(nn.Module):
    """One question to the trunk's features.

    Attributes:
        headline: the metric that stands for the head.
        name: the head's name in the model, under which batches carry its labels.
    """

    headline: str
    name: str

    def forward(self, features: Features) -> Outputs:
        """Return raw tensors."""
        raise NotImplementedError

    def loss(self, outputs: Outputs, features: Features, batch: Batch) -> dict[str, Tensor]:
        """Return named scalar terms, each (), whose sum is the task's loss.

        Images without a label for this head contribute nothing. If none has one, every term is zero
        but depends on the outputs, so that all parameters get a gradient on every rank.
        """
        raise NotImplementedError

    def count_labels(self, batch: Batch) -> int:
        """Return how many images of the batch, on the host, have a label for this head."""
        raise NotImplementedError

    def decode(self, outputs: Outputs, features: Features) -> Decoded:
        """Return fixed-shape tensors; forward and decode are what an export traces."""
        raise NotImplementedError

    def predict(self, decoded: Decoded, metas: Sequence[ImageMeta]) -> Sequence[Prediction]:
        """Return one prediction per image, in the original frame and order."""
        raise NotImplementedError

    def metric(self, index: AnnotationIndex, labels: np.ndarray | None, backend: Backend) -> Metric:
        """Return an empty metric.

        Args:
            index: the data set; the truth for detection heads.
            labels: the truth for label heads, at the index's positions; None for detection heads.
            backend: `pycocotools` or `hotcoco`, what computes a detection head's mAP.
        """
        raise NotImplementedError

    def describe(self, prediction: Prediction) -> Any:
        """Return the prediction with names in place of numbers, ready for JSON: a list of objects for a
        detection head, a mapping with the answer for the others."""
        raise NotImplementedError


class HeadConfig(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, tag_field="type"):
    """What every head's config has.

    Attributes:
        weight: factor on the head's loss.
        lr_factor: factor on the learning rate of the head's parameters.
    """

    weight: float = 1.0
    lr_factor: float = 1.0

    def build(self, trunk: TrunkInfo, labels: LabelInfo) -> Head:
        """Return the head with fresh weights."""
        raise NotImplementedError

    def label_source(self) -> LabelSource | None:
        """Return where the head's image-level labels come from; None for detection heads."""
        return None

    def check(self, name: str) -> None:
        """Raise ConfigError for settings that cannot work together; `name` is the head's."""
