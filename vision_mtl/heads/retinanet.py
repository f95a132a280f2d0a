"""RetinaNet: dense detection with nine anchor boxes per cell (Lin et al., arXiv 1708.02002).

Anchors, assignment, losses and module names are torchvision's, so that its weights load and answer as they
do there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vision_mtl.data.annotations import AnnotationIndex
from vision_mtl.errors import ConfigError
from vision_mtl.heads.base import Head, LabelInfo, TrunkInfo
from vision_mtl.heads.class_weights import class_factors
from vision_mtl.heads.dense.anchors import cell_anchors, decode_boxes, encode_boxes, pyramid_anchors
from vision_mtl.heads.dense.assigners import assignable, inside_crowd, max_iou
from vision_mtl.heads.dense.decoding import Candidates, best_candidates, origins
from vision_mtl.heads.dense.evidence import class_evidence
from vision_mtl.heads.dense.losses import box_loss, class_targets, focal_loss
from vision_mtl.heads.dense.points import corner_points
from vision_mtl.heads.dense.towers import PRIOR, block_tower, convolution, per_point
from vision_mtl.heads.detection import DetectionConfig, detections_of
from vision_mtl.heads.evaluation import DetectionMetric, describe_detections
from vision_mtl.metrics.detection import Backend
from vision_mtl.structures import Batch, Detections, Features, ImageMeta, Prediction


class RetinanetConfig(DetectionConfig, tag="retinanet", kw_only=True):
    """Dense detection with anchor boxes.

    torchvision's second RetinaNet, answers and losses, is `candidates_per_level: true, max_detections: 300`
    on a trunk with `extra: p6p7_from_c5`; its first is that with `norm: none, box_loss: l1` on one with
    `extra: p6p7_from_p5`.

    Attributes:
        depth: 3x3 convolutions in each of the two towers.
        norm: of the towers: `group` (32 groups) or `none`.
        anchor_scale: side of a level's smallest square anchor, in its strides; 4 is 32 pixels on P3.
        foreground: an anchor is positive for the object that it overlaps most, from this IoU on; so is each
            object's best anchor, whatever their IoU.
        background: an anchor of less IoU with every object is negative; between the two it is neither.
        box_loss: `l1` of the offsets from the anchor, or `giou`, `diou` or `ciou` of the boxes.
        box_weight: factor on the box loss.
        candidates_per_level: take `candidates` of each pyramid level, as torchvision does; NMS is slower.
    """

    depth: int = 4
    norm: Literal["none", "group"] = "group"
    anchor_scale: float = 4.0
    foreground: float = 0.5
    background: float = 0.4
    box_loss: Literal["l1", "giou", "diou", "ciou"] = "giou"
    box_weight: float = 1.0
    candidates_per_level: bool = False

    def check(self, name: str) -> None:
        super().check(name)
        if self.depth < 0:
            raise ConfigError(f"heads.{name}.depth: found {self.depth}, expected 0 or more")
        if not 0 <= self.background <= self.foreground <= 1:
            raise ConfigError(
                f"heads.{name}: found background {self.background} and foreground {self.foreground}, "
                "expected 0 <= background <= foreground <= 1"
            )

    def build(self, trunk: TrunkInfo, labels: LabelInfo) -> RetinanetHead:
        if self.depth and self.norm == "group" and trunk.channels % 32:
            raise ConfigError(
                f"trunk.channels: found {trunk.channels}, expected a multiple of 32, since a detection head "
                "with norm=group groups them by 32"
            )
        return RetinanetHead(self, trunk, labels)


class RetinanetOutputs(NamedTuple):
    """Raw predictions at A anchors, nine per point.

    Attributes:
        logits: (B, A, K).
        offsets: (B, A, 4) from the anchors.
        shapes: (height, width) of each level, in cells.
    """

    logits: Tensor
    offsets: Tensor
    shapes: list[tuple[int, int]]


class RetinanetHead(Head):
    """Dense detection head; module names as in torchvision's RetinaNet, so that its weights load."""

    headline = "mAP"
    config: RetinanetConfig
    cells: Tensor
    class_factors: Tensor

    def __init__(self, config: RetinanetConfig, trunk: TrunkInfo, labels: LabelInfo) -> None:
        super().__init__()
        self.config, self.labels = config, labels
        cells = cell_anchors(trunk.strides, config.anchor_scale)  # (L, 9, 4)
        if not (cells[..., 2:] > cells[..., :2]).all():
            raise ConfigError(
                f"anchor_scale: found {config.anchor_scale}, expected more: at a stride of "
                f"{min(trunk.strides)} pixels it leaves anchors without area"
            )
        self.register_buffer("cells", cells, persistent=False)
        factors = class_factors(config.class_weights, labels.names)
        self.register_buffer("class_factors", factors, persistent=False)
        if config.context is not None:
            self.register_buffer("context_temperature", torch.zeros(()))
        width, each = trunk.channels, cells.shape[1]
        self.classification_head = nn.ModuleDict(
            {
                "conv": block_tower(width, config.depth, config.norm),
                "cls_logits": convolution(width, each * len(labels.names), PRIOR),
            }
        )
        self.regression_head = nn.ModuleDict(
            {
                "conv": block_tower(width, config.depth, config.norm),
                "bbox_reg": convolution(width, each * 4),
            }
        )

    def forward(self, features: Features) -> RetinanetOutputs:
        classes, boxes = self.classification_head, self.regression_head
        each = self.cells.shape[1]
        logits = per_point([classes["cls_logits"](level) for level in classes["conv"](features.pyramid)])
        offsets = per_point([boxes["bbox_reg"](level) for level in boxes["conv"](features.pyramid)])
        return RetinanetOutputs(
            logits=logits.unflatten(2, (each, -1)).flatten(1, 2),
            offsets=offsets.unflatten(2, (each, 4)).flatten(1, 2),
            shapes=[(level.shape[2], level.shape[3]) for level in features.pyramid],
        )

    def evidence(self, outputs: RetinanetOutputs, features: Features) -> Tensor:
        return class_evidence(outputs.logits, outputs.shapes, features)

    def detection_logits(
        self, outputs: RetinanetOutputs, features: Features, boxes: Tensor, classes: Tensor
    ) -> Tensor:
        anchors = pyramid_anchors(outputs.shapes, features.input_size, self.cells)
        own, logits = decode_boxes(outputs.offsets, anchors)[0, :, None], outputs.logits[0]
        return logits[origins(own, logits, features.sizes[0], boxes, classes), classes]

    def loss(self, outputs: RetinanetOutputs, features: Features, batch: Batch) -> dict[str, Tensor]:
        """Return the terms `class` and `box`, each ().

        Each is a sum over an image's anchors, divided by the number of its positive ones, and then the mean
        over the images with annotated boxes. Anchors whose centre lies in a crowd are no negatives, and
        `class` leaves out the classes that an image's source does not annotate.
        """
        config = self.config
        anchors = pyramid_anchors(outputs.shapes, features.input_size, self.cells)
        targets = assignable(batch)
        with torch.no_grad():
            found, undecided = max_iou(targets, anchors, config.foreground, config.background)
            # All anchors of a point have it as their centre.
            points = corner_points(outputs.shapes, features.input_size, anchors.device)
            crowd = inside_crowd(points, batch).repeat_interleave(self.cells.shape[1], 1)
            judged = found.positive | ~(undecided | crowd)
            classes = targets.classes.gather(1, found.rows)
            wanted = class_targets(classes, found.positive.float(), outputs.logits.shape[2])
            matched = targets.boxes.gather(1, found.rows[..., None].expand(-1, -1, 4))
            # A box of no area has no offsets: other anchors get themselves, so that nothing is infinite.
            matched = torch.where(found.positive[..., None], matched, anchors)
            annotated = batch.has_boxes / batch.has_boxes.sum().clamp(min=1)
            share = annotated / found.positive.sum(1).clamp(min=1)  # (B,)
        per_class = focal_loss(outputs.logits, wanted)
        if config.class_weights:
            per_class = per_class * self.class_factors
        if batch.annotated is not None:
            per_class = per_class * batch.annotated[:, None]
        if config.box_loss == "l1":
            per_box = (outputs.offsets - encode_boxes(matched, anchors)).abs().sum(-1)
        else:
            per_box = box_loss(decode_boxes(outputs.offsets, anchors), matched, config.box_loss)
        return {
            "class": ((per_class.sum(-1) * judged).sum(1) * share).sum(),
            "box": config.box_weight * ((per_box * found.positive).sum(1) * share).sum(),
        }

    def count_labels(self, batch: Batch) -> int:
        return int(batch.has_boxes.sum())

    def decode(self, outputs: RetinanetOutputs, features: Features) -> Candidates:
        config, each = self.config, self.cells.shape[1]
        anchors = pyramid_anchors(outputs.shapes, features.input_size, self.cells)
        level_sizes = [height * width * each for height, width in outputs.shapes]
        # Logits rank as scores do: only those of the candidates become scores.
        found = best_candidates(
            outputs.logits,
            decode_boxes(outputs.offsets, anchors),
            features.sizes,
            config.candidates,
            level_sizes if config.candidates_per_level else None,
        )
        return found._replace(scores=found.scores.sigmoid())

    def predict(self, decoded: Candidates, metas: Sequence[ImageMeta]) -> list[Detections]:
        return detections_of(decoded, metas, self.config)

    def metric(self, index: AnnotationIndex, labels: np.ndarray | None, backend: Backend) -> DetectionMetric:
        return DetectionMetric(index, self.labels.names, backend)

    def describe(self, prediction: Prediction) -> list[dict[str, Any]]:
        assert isinstance(prediction, Detections)
        return describe_detections(prediction, self.labels)
