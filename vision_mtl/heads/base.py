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
        counts: training images that have each class, in class order; empty for numbers, for detection heads
            and in old checkpoints.
        absent: training images known to be without each class, in the same order; for several labels per
            image.
    """

    names: tuple[str, ...] = ()
    ids: tuple[int, ...] = ()
    mean: float = 0.0
    std: float = 1.0
    counts: tuple[int, ...] = ()
    absent: tuple[int, ...] = ()


class TrunkInfo(msgspec.Struct, frozen=True):
    """What a head needs to know of what it reads.

    Attributes:
        stage_channels: "c2".."c5" -> channels.
        channels: width of the pyramid.
        strides: of the pyramid levels; () if no head reads them.
        evidence: classes of the detection head whose `evidence` the head reads; 0 if it reads none.
    """

    stage_channels: dict[str, int]
    channels: int
    strides: tuple[int, ...]
    evidence: int = 0


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
        config: what it was built from.
        labels: what it answers with.
        headline: the metric that stands for the head.
        name: the head's name in the model, under which batches carry its labels.
        frozen: whether its weights and statistics stay as they are.
    """

    config: HeadConfig
    labels: LabelInfo
    headline: str
    name: str
    frozen: bool = False

    def freeze(self) -> None:
        """Keep all weights and statistics from now on, in evaluation mode for good."""
        self.frozen = True
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Head:
        """Set training mode; a frozen head stays in evaluation mode: its statistics stay too."""
        return super().train(mode and not self.frozen)

    def forward(self, features: Features) -> Outputs:
        """Return raw tensors.

        A head whose config names `detections` takes that head's `evidence` as a second argument.
        """
        raise NotImplementedError

    def evidence(self, outputs: Outputs, features: Features) -> Tensor:
        """Return (B, K) float32: each class's highest logit anywhere in the valid image.

        Dense detection heads have it, for image-level heads that name them in `detections`.
        """
        raise NotImplementedError

    def detection_logits(
        self, outputs: Outputs, features: Features, boxes: Tensor, classes: Tensor
    ) -> Tensor:
        """Return (M,) float32: the class logits that M detections of one image came from, with gradient.

        Detection heads have it, so that their boxes can be explained.

        Args:
            outputs: of that image alone.
            features: of that image alone.
            boxes: (M, 4) xyxy in network-input pixels.
            classes: (M,) int64.
        """
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
        frozen: keep what `weights` holds for the head, statistics included, and leave its loss to evaluation;
            with `trunk.freeze: 6` its answers stay the same to the last bit.
    """

    weight: float = 1.0
    lr_factor: float = 1.0
    frozen: bool = False

    def build(self, trunk: TrunkInfo, labels: LabelInfo) -> Head:
        """Return the head with fresh weights."""
        raise NotImplementedError

    def label_source(self) -> LabelSource | None:
        """Return where the head's image-level labels come from; None for detection heads."""
        return None

    def reads_pyramid(self) -> bool:
        """Return whether the head reads the trunk's pyramid; if none does, there is no pyramid."""
        return True

    def check(self, name: str) -> None:
        """Raise ConfigError for settings that cannot work together; `name` is the head's."""
