"""torchvision's two stages, made to leave crowd regions out of training."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork

Targets = list[dict[str, Tensor]]  # per image: `boxes` (N, 4), `labels` (N,) from 1, `crowds` (C, 4)


def mostly_inside(boxes: Tensor, regions: Tensor) -> Tensor:
    """Return (P,) bool: which boxes (P, 4) have more than half their area in one of the regions (C, 4).

    The area is the box's own, as COCO's evaluation has it for crowds: a small box inside is all inside.
    """
    starts = torch.maximum(boxes[:, None, :2], regions[:, :2])
    ends = torch.minimum(boxes[:, None, 2:], regions[:, 2:])
    shared = (ends - starts).clamp(min=0).prod(-1)
    own = (boxes[:, 2:] - boxes[:, :2]).prod(-1)
    return (shared > own[:, None] / 2).any(1)


def without_crowds(labels: list[Tensor], boxes: list[Tensor], crowds: list[Tensor]) -> list[Tensor]:
    """Return each image's labels (P,) with -1, which no sampler draws, for background inside a crowd."""
    return [
        torch.where((label <= 0) & mostly_inside(box, crowd), -1, label)
        for label, box, crowd in zip(labels, boxes, crowds, strict=True)
    ]


class CrowdAwareRpn(RegionProposalNetwork):
    """torchvision's proposal network; anchors in crowds are neither positive nor negative."""

    def assign_targets_to_anchors(
        self, anchors: list[Tensor], targets: Targets
    ) -> tuple[list[Tensor], list[Tensor]]:
        labels, matched = super().assign_targets_to_anchors(anchors, targets)
        return without_crowds(labels, anchors, [target["crowds"] for target in targets]), matched


class CrowdAwareRoIHeads(RoIHeads):
    """torchvision's second stage; proposals in crowds are neither positive nor negative."""

    def select_training_samples(self, proposals: list[Tensor], targets: Targets) -> Any:
        # torchvision hands the assignment below boxes and labels only.
        self.crowds = [target["crowds"] for target in targets]
        return super().select_training_samples(proposals, targets)

    def assign_targets_to_proposals(
        self, proposals: list[Tensor], gt_boxes: list[Tensor], gt_labels: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor]]:
        matched, labels = super().assign_targets_to_proposals(proposals, gt_boxes, gt_labels)
        return matched, without_crowds(labels, proposals, self.crowds)
