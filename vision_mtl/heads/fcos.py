"""Anchor-free dense detection: one box and K class scores per point of the pyramid.

The frame is FCOS (Tian et al., arXiv 2006.09214); how points are assigned, what the class target is and
how boxes are regressed are choices in the config.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vision_mtl.data.annotations import AnnotationIndex
from vision_mtl.errors import ConfigError
from vision_mtl.heads.base import Head, LabelInfo, TrunkInfo
from vision_mtl.heads.class_weights import class_factors
from vision_mtl.heads.dense.assigners import (
    Assignment,
    Targets,
    assignable,
    atss,
    centre_sampling,
    inside_crowd,
    task_aligned,
)
from vision_mtl.heads.dense.decoding import Candidates, best_candidates, origins
from vision_mtl.heads.dense.evidence import class_evidence
from vision_mtl.heads.dense.losses import (
    aligned_iou,
    box_loss,
    class_targets,
    distribution_focal_loss,
    focal_loss,
    quality_focal_loss,
)
from vision_mtl.heads.dense.points import (
    boxes_to_distances,
    corner_points,
    distances_to_boxes,
    pyramid_points,
)
from vision_mtl.heads.dense.towers import PRIOR, convolution, per_point, tower
from vision_mtl.heads.detection import DetectionConfig, detections_of
from vision_mtl.heads.evaluation import DetectionMetric, describe_detections
from vision_mtl.metrics.detection import Backend
from vision_mtl.structures import Batch, Detections, Features, ImageMeta, Prediction


class FcosConfig(DetectionConfig, tag="fcos", kw_only=True):
    """Anchor-free dense detection.

    torchvision's FCOS, answers and losses, is `depth: 4, norm: group, points: corner, assigner: centre,
    class_loss: focal, bins: 0, box_weight: 1, candidates_per_level: true, score_threshold: 0.2`. With
    `assigner: task_aligned`, whose targets are graded already, goes `quality: none`.

    Attributes:
        depth: 3x3 convolutions in each of the two towers.
        width: channels of the towers; null for the pyramid's.
        norm: of the towers: `batch`, with statistics of each pyramid level's own, or `group` (32 groups),
            for small batches and torchvision's weights.
        points: in the `middle` of the cells, or in their top left `corner`, for torchvision's weights.
        assigner: `atss`, `task_aligned` or `centre` (the original centre sampling).
        class_loss: `bce`, plain binary cross-entropy, which learns classes sooner, or `focal` (the quality
            focal loss where the target is an overlap).
        box_loss: `giou`, `diou` or `ciou`.
        quality: what a third branch predicts and the score is multiplied by (its geometric mean with the
            class score): `centreness`, `iou`, or `none`.
        bins: 0 regresses the four distances directly; above 0 they are the mean of a distribution over
            this many values, in strides, with the distribution focal loss.
        box_weight: factor on the box loss.
        bins_weight: factor on the distribution focal loss.
        candidates_per_level: take `candidates` of each pyramid level, as torchvision does; NMS is slower.
    """

    depth: int = 2
    width: int | None = None
    norm: Literal["group", "batch"] = "batch"
    points: Literal["middle", "corner"] = "middle"
    assigner: Literal["atss", "task_aligned", "centre"] = "atss"
    class_loss: Literal["bce", "focal"] = "bce"
    box_loss: Literal["giou", "diou", "ciou"] = "giou"
    quality: Literal["none", "centreness", "iou"] = "centreness"
    bins: int = 16
    box_weight: float = 2.0
    bins_weight: float = 0.25
    score_threshold: float = 0.01
    nms_threshold: float = 0.6
    candidates_per_level: bool = False

    def check(self, name: str) -> None:
        super().check(name)
        if self.bins == 1 or self.bins < 0:
            raise ConfigError(f"heads.{name}.bins: found {self.bins}, expected 0 or at least 2")
        if self.depth < 0:
            raise ConfigError(f"heads.{name}.depth: found {self.depth}, expected 0 or more")
        if self.width is not None and self.width < 1:
            raise ConfigError(f"heads.{name}.width: found {self.width}, expected null or at least 1")
        if self.norm == "group" and (self.width or 32) % 32:
            raise ConfigError(
                f"heads.{name}.width: found {self.width}, expected a multiple of 32 for norm=group"
            )

    def build(self, trunk: TrunkInfo, labels: LabelInfo) -> FcosHead:
        if self.depth and self.norm == "group" and (self.width or trunk.channels) % 32:
            raise ConfigError(
                f"trunk.channels: found {trunk.channels}, expected a multiple of 32, since a detection head "
                "with norm=group and width=null groups them by 32"
            )
        return FcosHead(self, trunk, labels)


class FcosOutputs(NamedTuple):
    """Raw predictions at P points.

    Attributes:
        logits: (B, P, K).
        distances: (B, P, 4) in strides, or (B, P, 4, bins) logits.
        quality: (B, P) logits, or None.
        shapes: (height, width) of each level, in cells.
    """

    logits: Tensor
    distances: Tensor
    quality: Tensor | None
    shapes: list[tuple[int, int]]

    @property
    def level_sizes(self) -> list[int]:
        """Points of each level, which add up to P."""
        return [height * width for height, width in self.shapes]


class FcosHead(Head):
    """Dense detection head; module names as in torchvision's FCOS, so that its weights load."""

    headline = "mAP"
    config: FcosConfig
    class_factors: Tensor

    def __init__(self, config: FcosConfig, trunk: TrunkInfo, labels: LabelInfo) -> None:
        super().__init__()
        self.config, self.labels, self.strides = config, labels, trunk.strides
        width = (config.width if config.depth else None) or trunk.channels
        factors = class_factors(config.class_weights, labels.names)
        self.register_buffer("class_factors", factors, persistent=False)
        if config.context is not None:
            self.register_buffer("context_temperature", torch.zeros(()))
        self.classification_head = nn.ModuleDict(
            {
                "conv": tower(trunk.channels, width, config.depth, config.norm, len(trunk.strides)),
                "cls_logits": convolution(width, len(labels.names), PRIOR),
            }
        )
        box_branch = convolution(width, 4 * max(1, config.bins))
        with torch.no_grad():
            # Boxes start two strides to each side, near what a level is for: the classification target is
            # the overlap, so an object that the first boxes hardly overlap would hardly be learned.
            values = torch.arange(config.bins) * -math.log(1.5)  # a geometric distribution with mean 2
            box_branch.bias.copy_(values.repeat(4) if config.bins else torch.tensor(2.0))  # type: ignore[union-attr]
        branches = {
            "conv": tower(trunk.channels, width, config.depth, config.norm, len(trunk.strides)),
            "bbox_reg": box_branch,
        }
        if config.quality != "none":
            branches["bbox_ctrness"] = convolution(width, 1)
        self.regression_head = nn.ModuleDict(branches)

    def forward(self, features: Features) -> FcosOutputs:
        classes, boxes = self.classification_head, self.regression_head
        of_class, of_box = classes["conv"](features.pyramid), boxes["conv"](features.pyramid)
        raw = per_point([boxes["bbox_reg"](level) for level in of_box])
        has_quality = self.config.quality != "none"
        return FcosOutputs(
            logits=per_point([classes["cls_logits"](level) for level in of_class]),
            distances=raw.unflatten(2, (4, self.config.bins)) if self.config.bins else F.relu(raw),
            quality=per_point([boxes["bbox_ctrness"](level) for level in of_box])[..., 0]
            if has_quality
            else None,
            shapes=[(level.shape[2], level.shape[3]) for level in features.pyramid],
        )

    def evidence(self, outputs: FcosOutputs, features: Features) -> Tensor:
        return class_evidence(outputs.logits, outputs.shapes, features)

    def detection_logits(
        self, outputs: FcosOutputs, features: Features, boxes: Tensor, classes: Tensor
    ) -> Tensor:
        own, logits = self.boxes(outputs, *self.points(outputs, features))[0, :, None], outputs.logits[0]
        return logits[origins(own, logits, features.sizes[0], boxes, classes), classes]

    def points(self, outputs: FcosOutputs, features: Features) -> tuple[Tensor, Tensor]:
        """Return the points (P, 2) in network-input pixels and the stride (P,) of each."""
        device = outputs.logits.device
        points, strides = pyramid_points(outputs.shapes, features.strides, device)
        if self.config.points == "corner":
            points = corner_points(outputs.shapes, features.input_size, device)
        return points, strides

    def boxes(self, outputs: FcosOutputs, points: Tensor, strides: Tensor) -> Tensor:
        """Return the predicted boxes (B, P, 4) in network-input pixels."""
        distances = outputs.distances
        if self.config.bins:
            values = torch.arange(self.config.bins, device=distances.device, dtype=distances.dtype)
            distances = distances.softmax(-1) @ values
        return distances_to_boxes(points, distances * strides[:, None])

    def assign(
        self, outputs: FcosOutputs, boxes: Tensor, points: Tensor, strides: Tensor, targets: Targets
    ) -> Assignment:
        """Return which point answers for which object, by the configured assigner."""
        if self.config.assigner == "centre":
            return centre_sampling(targets, points, strides)
        if self.config.assigner == "atss":
            return atss(targets, points, strides, outputs.level_sizes)
        return task_aligned(targets, points, strides, outputs.logits.detach().sigmoid(), boxes.detach())

    def loss(self, outputs: FcosOutputs, features: Features, batch: Batch) -> dict[str, Tensor]:
        """Return the terms `class`, `box`, and where configured `bins` and `quality`, each ().

        Each is a sum over the points of all images, divided by the weight of the positive ones. Images
        without annotated boxes, points in crowds and, for `class`, classes that an image's source does not
        annotate have no part in it.
        """
        points, strides = self.points(outputs, features)
        boxes = self.boxes(outputs, points, strides)
        targets = assignable(batch)
        with torch.no_grad():
            found = self.assign(outputs, boxes, points, strides, targets)
            annotated = batch.has_boxes[:, None]
            positive = found.positive & annotated
            judged = annotated & (positive | ~inside_crowd(points, batch))
            score = found.score * positive
            # TOOD weighs the box loss by the score too; but then an object that the first boxes hardly
            # overlap, a small one of a rare class, gets neither a target nor a better box.
            weight = found.share * positive
            total, total_weight = score.sum().clamp(min=1.0), weight.sum().clamp(min=1.0)
            target_boxes = targets.boxes.gather(1, found.rows[..., None].expand(-1, -1, 4))
            classes = targets.classes.gather(1, found.rows)
            wanted = class_targets(classes, score, outputs.logits.shape[2])
        config = self.config
        if config.class_loss == "bce":
            per_class = F.binary_cross_entropy_with_logits(outputs.logits, wanted, reduction="none")
        elif config.assigner == "task_aligned":
            per_class = quality_focal_loss(outputs.logits, wanted)
        else:
            per_class = focal_loss(outputs.logits, wanted)
        if config.class_weights:
            per_class = per_class * self.class_factors
        if batch.annotated is not None:
            per_class = per_class * batch.annotated[:, None]
        terms = {"class": (per_class * judged[..., None]).sum() / total}
        overlap = box_loss(boxes, target_boxes, config.box_loss)
        terms["box"] = config.box_weight * (overlap * weight).sum() / total_weight
        with torch.no_grad():
            sides = boxes_to_distances(points, target_boxes) / strides[:, None]
        if config.bins:
            spread = distribution_focal_loss(outputs.distances, sides).mean(-1)
            terms["bins"] = config.bins_weight * 4 * (spread * weight).sum() / total_weight
        if outputs.quality is not None:
            with torch.no_grad():
                quality = self.quality_target(sides, boxes, target_boxes).clamp(0, 1)
            entropy = F.binary_cross_entropy_with_logits(outputs.quality, quality, reduction="none")
            terms["quality"] = (entropy * positive).sum() / positive.sum().clamp(min=1)
        return terms

    def quality_target(self, sides: Tensor, boxes: Tensor, target_boxes: Tensor) -> Tensor:
        """Return (B, P): the IoU with the object, or centreness (arXiv 2006.09214, eq. 3)."""
        if self.config.quality == "iou":
            return aligned_iou(boxes, target_boxes)
        inside = sides.clamp(min=0)
        across, down = inside[..., 0::2], inside[..., 1::2]
        ratios = across.amin(-1) * down.amin(-1) / (across.amax(-1) * down.amax(-1)).clamp(min=1e-7)
        return ratios.sqrt()

    def count_labels(self, batch: Batch) -> int:
        return int(batch.has_boxes.sum())

    def decode(self, outputs: FcosOutputs, features: Features) -> Candidates:
        points, strides = self.points(outputs, features)
        scores = outputs.logits.sigmoid()
        if outputs.quality is not None:
            scores = (scores * outputs.quality.sigmoid()[..., None]).sqrt()
        boxes = self.boxes(outputs, points, strides)
        level_sizes = outputs.level_sizes if self.config.candidates_per_level else None
        return best_candidates(scores, boxes, features.sizes, self.config.candidates, level_sizes)

    def predict(self, decoded: Candidates, metas: Sequence[ImageMeta]) -> list[Detections]:
        return detections_of(decoded, metas, self.config)

    def metric(self, index: AnnotationIndex, labels: np.ndarray | None, backend: Backend) -> DetectionMetric:
        return DetectionMetric(index, self.labels.names, backend)

    def describe(self, prediction: Prediction) -> list[dict[str, Any]]:
        assert isinstance(prediction, Detections)
        return describe_detections(prediction, self.labels)
