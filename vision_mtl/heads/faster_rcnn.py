"""Two-stage detection: proposals from every pyramid cell, each then pooled, classified and refined.

Faster R-CNN (Ren et al., arXiv 1506.01497) on a feature pyramid (Lin et al., arXiv 1612.03144); with
`rpn_depth=2` and `box_head=conv` the one of Li et al. (arXiv 2111.11429), torchvision's v2. Both stages are
torchvision's own parts, called as its `GeneralizedRCNN` calls them, so that its weights load and its numbers
come out; only what a crowd region means is added.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.models.detection.rpn import RPNHead, concat_box_prediction_layers
from torchvision.ops import MultiScaleRoIAlign

from vision_mtl.data.annotations import AnnotationIndex
from vision_mtl.errors import ConfigError
from vision_mtl.heads.base import Head, LabelInfo, TrunkInfo
from vision_mtl.heads.class_weights import class_factors
from vision_mtl.heads.crowds import CrowdAwareRoIHeads, CrowdAwareRpn, Targets
from vision_mtl.heads.dense.decoding import Candidates, origins
from vision_mtl.heads.detection import DetectionConfig, detections_of
from vision_mtl.heads.evaluation import DetectionMetric, describe_detections
from vision_mtl.metrics.detection import Backend
from vision_mtl.structures import Batch, Detections, Features, ImageMeta, Prediction

STRIDES = (4, 8, 16, 32, 64)
RATIOS = (0.5, 1.0, 2.0)  # height / width of the anchors
POOLED = 7  # cells to each side of a pooled proposal
HIDDEN = 1024
SMALLEST_SIDE = 1e-2  # pixels; torchvision drops detections with a shorter one


class FasterRcnnConfig(DetectionConfig, tag="faster_rcnn", kw_only=True):
    """Two-stage detection. The defaults are torchvision's `fasterrcnn_resnet50_fpn`.

    Attributes:
        rpn_depth: 3x3 convolutions before the proposals; 2 in torchvision's v2.
        box_head: what a pooled proposal goes through: `mlp`, two linear layers, or `conv`, four 3x3
            convolutions with batch norm and one linear layer, as in torchvision's v2.
        anchor_sizes: sides in pixels of the square anchor of each pyramid level, fine to coarse; null for
            8 strides, 32 to 512. Small images want smaller ones.
        proposals: per image at evaluation; also how many of each level go into their NMS.
        proposals_train: the same in training.
    """

    rpn_depth: int = 1
    box_head: Literal["mlp", "conv"] = "mlp"
    anchor_sizes: tuple[int, ...] | None = None
    proposals: int = 1000
    proposals_train: int = 2000
    candidates: int = 5000

    def check(self, name: str) -> None:
        super().check(name)
        for field in ("rpn_depth", "proposals", "proposals_train"):
            if getattr(self, field) < 1:
                raise ConfigError(f"heads.{name}.{field}: found {getattr(self, field)}, expected at least 1")
        sizes = self.anchor_sizes
        if sizes is not None and (len(sizes) != len(STRIDES) or min(sizes) < 1):
            raise ConfigError(
                f"heads.{name}.anchor_sizes: found {list(sizes)}, expected null or {len(STRIDES)} sizes "
                "of at least 1 pixel, one per pyramid level"
            )

    def build(self, trunk: TrunkInfo, labels: LabelInfo) -> FasterRcnnHead:
        if tuple(trunk.strides) != STRIDES:
            raise ConfigError(
                f"trunk: found pyramid strides {list(trunk.strides)}, expected {list(STRIDES)} for a "
                "faster_rcnn head; set trunk.finest=2 trunk.extra=p6"
            )
        return FasterRcnnHead(self, trunk, labels)


class RpnOutputs(NamedTuple):
    """Raw predictions for A anchors per cell, one tensor per pyramid level.

    Attributes:
        objectness: (B, A, H/s, W/s) logits.
        deltas: (B, 4A, H/s, W/s) from anchors to proposals.
    """

    objectness: list[Tensor]
    deltas: list[Tensor]


class Proposals(NamedTuple):
    """What the first stage found, in network-input pixels.

    Attributes:
        boxes: (P_i, 4) per image, best first, clipped to its valid part.
        anchors: (Q, 4) per image.
        objectness: (B * Q, 1) logits.
        deltas: (B * Q, 4).
    """

    boxes: list[Tensor]
    anchors: list[Tensor]
    objectness: Tensor
    deltas: Tensor


class FasterRcnnHead(Head):
    """Two-stage detection head; module names as in torchvision's Faster R-CNN, so that its weights load.

    `forward` is the first stage's convolutions and follows the network's precision. All after it runs in
    float32: proposals are too coarse in bfloat16, and roi_align refuses mixed types.
    """

    headline = "mAP"
    config: FasterRcnnConfig
    label_factors: Tensor

    def __init__(self, config: FasterRcnnConfig, trunk: TrunkInfo, labels: LabelInfo) -> None:
        super().__init__()
        self.config, self.labels = config, labels
        sizes = config.anchor_sizes or [8 * stride for stride in trunk.strides]
        anchors = AnchorGenerator(tuple((size,) for size in sizes), (RATIOS,) * len(sizes))
        counts = {"training": config.proposals_train, "testing": config.proposals}
        self.rpn = CrowdAwareRpn(
            anchors,
            RPNHead(trunk.channels, len(RATIOS), config.rpn_depth),
            fg_iou_thresh=0.7,
            bg_iou_thresh=0.3,
            batch_size_per_image=256,
            positive_fraction=0.5,
            pre_nms_top_n=counts,
            post_nms_top_n=counts,
            nms_thresh=0.7,
        )
        if config.box_head == "mlp":
            box_head = TwoMLPHead(trunk.channels * POOLED**2, HIDDEN)
        else:
            shape = (trunk.channels, POOLED, POOLED)
            box_head = FastRCNNConvFCHead(shape, [trunk.channels] * 4, [HIDDEN], nn.BatchNorm2d)
        self.roi_heads = CrowdAwareRoIHeads(
            # P6 only proposes.
            MultiScaleRoIAlign(["0", "1", "2", "3"], output_size=POOLED, sampling_ratio=2),
            box_head,
            FastRCNNPredictor(HIDDEN, 1 + len(labels.names)),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=512,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=config.score_threshold,
            nms_thresh=config.nms_threshold,
            detections_per_img=config.max_detections,
        )
        factors = class_factors(config.class_weights, labels.names)
        self.register_buffer("label_factors", F.pad(factors, (1, 0), value=1.0), persistent=False)
        if config.context is not None:
            self.register_buffer("context_temperature", torch.zeros(()))

    def forward(self, features: Features) -> RpnOutputs:
        return RpnOutputs(*self.rpn.head(features.pyramid))

    def propose(self, outputs: RpnOutputs, sizes: Tensor, input_size: tuple[int, int]) -> Proposals:
        """Return the proposals for images of valid `sizes` (B, 2) in a batch of `input_size`."""
        objectness = [level.float() for level in outputs.objectness]
        shapes = [(height, width) for height, width in sizes.tolist()]
        # Of the images themselves the generator asks the padded size only.
        anchors = self.rpn.anchor_generator(ImageList(sizes.new_empty(0, *input_size), shapes), objectness)
        per_level = [level[0].numel() for level in objectness]
        logits, deltas = concat_box_prediction_layers(objectness, [level.float() for level in outputs.deltas])
        decoded = self.rpn.box_coder.decode(deltas.detach(), anchors).view(len(sizes), -1, 4)
        boxes, _ = self.rpn.filter_proposals(decoded, logits, shapes, per_level)
        return Proposals(boxes, anchors, logits, deltas)

    def classify(self, boxes: list[Tensor], features: Features) -> tuple[Tensor, Tensor]:
        """Return class logits (R, 1 + K), background first, and deltas (R, 4 + 4K) of R boxes in all."""
        maps = {str(i): level.float() for i, level in enumerate(features.pyramid[:4])}
        # The pooling finds the strides by dividing, which the padded size does exactly.
        pooled = self.roi_heads.box_roi_pool(maps, boxes, [features.input_size])
        return self.roi_heads.box_predictor(self.roi_heads.box_head(pooled))

    def refine(self, boxes: list[Tensor], features: Features) -> tuple[Tensor, Tensor]:
        """Return class logits (R, 1 + K), background first, and a box for each class (R, 1 + K, 4)."""
        logits, deltas = self.classify(boxes, features)
        return logits, self.roi_heads.box_coder.decode(deltas, boxes).reshape(*logits.shape, 4)

    def loss(self, outputs: RpnOutputs, features: Features, batch: Batch) -> dict[str, Tensor]:
        """Return the terms `objectness`, `rpn_box`, `class` and `box`, each ().

        Each is a mean over the anchors or proposals that are drawn at random from the annotated images. A
        stage that has none to draw from, all being in crowds, has terms of zero. Where an image's source does
        not annotate every class, no anchor of it is background, which the first stage could not tell from an
        object of another class, and its proposals' softmax is without the other classes.
        """
        tensors = [*outputs.objectness, *outputs.deltas, *self.parameters()]
        zero = torch.stack([tensor[:0].sum(dtype=torch.float32) for tensor in tensors]).sum()
        terms = dict.fromkeys(("objectness", "rpn_box", "class", "box"), zero)
        annotated = batch.has_boxes.tolist()
        if not any(annotated):
            return terms
        with full_precision(features):
            targets = annotated_targets(batch)
            rows = batch.has_boxes
            judged = RpnOutputs(*([level[rows] for level in levels] for levels in outputs))
            found = self.propose(judged, features.sizes[rows], features.input_size)
            labels, matched = self.rpn.assign_targets_to_anchors(found.anchors, targets)
            if batch.annotated is not None:
                # Background may be an object of a class that the image's source does not annotate.
                whole = batch.annotated[rows].all(1)
                labels = [torch.where((x > 0) | sure, x, -1) for x, sure in zip(labels, whole, strict=True)]
            if any((label >= 0).any() for label in labels):
                wanted = self.rpn.box_coder.encode(matched, found.anchors)
                terms["objectness"], terms["rpn_box"] = self.rpn.compute_loss(
                    found.objectness, found.deltas, labels, wanted
                )
            drawn, _, labels, wanted = self.roi_heads.select_training_samples(found.boxes, targets)
            if any(len(boxes) for boxes in drawn):
                nothing = drawn[0][:0]
                remaining = iter(drawn)
                boxes = [next(remaining) if known else nothing for known in annotated]
                logits, deltas = self.classify(boxes, features)
                _, terms["box"] = fastrcnn_loss(logits, deltas, labels, wanted)
                if batch.annotated is not None:
                    logits = annotated_logits(logits, batch.annotated, [len(rois) for rois in boxes])
                truth = torch.cat(labels)
                entropy = F.cross_entropy(logits, truth, reduction="none")
                terms["class"] = (entropy * self.label_factors[truth]).mean()
        return terms

    def count_labels(self, batch: Batch) -> int:
        return int(batch.has_boxes.sum())

    def decode(self, outputs: RpnOutputs, features: Features) -> Candidates:
        """Return the best (proposal, class) pairs; where there are fewer, zero boxes with score 0."""
        with full_precision(features):
            found = self.propose(outputs, features.sizes, features.input_size)
            logits, refined = self.refine(found.boxes, features)
            counts, slots = [len(boxes) for boxes in found.boxes], self.rpn.post_nms_top_n()
            scores = padded(logits.softmax(-1)[:, 1:], counts, slots)  # (B, P, K)
            boxes = padded(refined[:, 1:], counts, slots)  # (B, P, K, 4)
            limits = features.sizes.flip(1).repeat(1, 2)[:, None, None].to(boxes.dtype)
            boxes = torch.minimum(boxes.clamp(min=0), limits).flatten(1, 2)
            large = (boxes[..., 2:] - boxes[..., :2] >= SMALLEST_SIDE).all(-1)
            usable = torch.where(large, scores.flatten(1), 0.0)
            values, picked = usable.topk(min(self.config.candidates, usable.shape[1]), 1)
            chosen = boxes.gather(1, picked[..., None].expand(-1, -1, 4))
            chosen = torch.where(values[..., None] > 0, chosen, 0.0)
            return Candidates(chosen, values, picked % scores.shape[2])

    def detection_logits(
        self, outputs: RpnOutputs, features: Features, boxes: Tensor, classes: Tensor
    ) -> Tensor:
        # Of the second stage, whose logits alone say which class a proposal is.
        with full_precision(features):
            with torch.no_grad():
                (proposals,) = self.propose(outputs, features.sizes, features.input_size).boxes
                logits, own = self.refine([proposals], features)
                rows = origins(own[:, 1:], logits[:, 1:], features.sizes[0], boxes, classes)
            logits, _ = self.classify([proposals[rows]], features)
            return logits[:, 1:].gather(1, classes[:, None])[:, 0]

    def predict(self, decoded: Candidates, metas: Sequence[ImageMeta]) -> list[Detections]:
        return detections_of(decoded, metas, self.config)

    def metric(self, index: AnnotationIndex, labels: np.ndarray | None, backend: Backend) -> DetectionMetric:
        return DetectionMetric(index, self.labels.names, backend)

    def describe(self, prediction: Prediction) -> list[dict[str, Any]]:
        assert isinstance(prediction, Detections)
        return describe_detections(prediction, self.labels)


def full_precision(features: Features) -> AbstractContextManager[Any]:
    """Return the context in which nothing on the features' device is cast down."""
    return torch.autocast(features.sizes.device.type, enabled=False)


def annotated_targets(batch: Batch) -> Targets:
    """Return what torchvision's parts ask of each annotated image; their class 0 is background."""
    targets = []
    for row in batch.has_boxes.nonzero()[:, 0].tolist():
        boxes, classes, crowd = batch.boxes[row], batch.classes[row], batch.ignore[row]
        objects = (classes >= 0) & ~crowd
        targets.append({"boxes": boxes[objects], "labels": classes[objects] + 1, "crowds": boxes[crowd]})
    return targets


def annotated_logits(logits: Tensor, annotated: Tensor, counts: list[int]) -> Tensor:
    """Return the logits (R, 1 + K) with minus infinity for the classes that a box's image does not annotate.

    What is left is a softmax over the background and the classes that the image tells apart from it.

    Args:
        logits: of the boxes of all images, background first.
        annotated: (B, K) bool.
        counts: boxes of each image, which add up to R.
    """
    hidden = ~annotated.repeat_interleave(torch.tensor(counts, device=annotated.device), 0)
    return logits.masked_fill(F.pad(hidden, (1, 0), value=False), -torch.inf)


def padded(rows: Tensor, counts: list[int], slots: int) -> Tensor:
    """Return (B, slots, ...) from the rows (sum of counts, ...) of B images, zero where there are none."""
    result = rows.new_zeros(len(counts), slots, *rows.shape[1:])
    for image, own in enumerate(rows.split(counts)):
        result[image, : len(own)] = own
    return result
