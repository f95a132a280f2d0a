"""Losses of dense heads, per element and without reduction: the head weighs and sums them."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


def aligned_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the IoU (...) of xyxy boxes (..., 4) pair by pair; 0 for two empty boxes."""
    overlap, union, _ = _overlap(a, b)
    return overlap / union


def _overlap(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return intersection and union areas (...) and the enclosing box's (width, height) (..., 2)."""
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    overlap = sides[..., 0] * sides[..., 1]
    area_a = (a[..., 2] - a[..., 0]) * (a[..., 3] - a[..., 1])
    area_b = (b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1])
    hull = torch.maximum(a[..., 2:], b[..., 2:]) - torch.minimum(a[..., :2], b[..., :2])
    return overlap, (area_a + area_b - overlap).clamp(min=1e-7), hull


def box_loss(predicted: Tensor, target: Tensor, kind: Literal["giou", "diou", "ciou"]) -> Tensor:
    """Return 1 - xIoU (...) of xyxy boxes (..., 4), in [0, 2] or a little above for `ciou`.

    `giou`: Rezatofighi et al., arXiv 1902.09630, eq. 5. `diou`, `ciou`: Zheng et al., arXiv 1911.08287,
    eq. 7 and 10.
    """
    overlap, union, hull = _overlap(predicted, target)
    iou = overlap / union
    if kind == "giou":
        area = (hull[..., 0] * hull[..., 1]).clamp(min=1e-7)
        return 1 - iou + (area - union) / area
    between = (predicted[..., :2] + predicted[..., 2:] - target[..., :2] - target[..., 2:]) / 2
    loss = 1 - iou + between.square().sum(-1) / hull.square().sum(-1).clamp(min=1e-7)
    if kind == "ciou":
        size_p, size_t = predicted[..., 2:] - predicted[..., :2], target[..., 2:] - target[..., :2]
        angle_p = torch.atan2(size_p[..., 0], size_p[..., 1].clamp(min=1e-7))
        angle_t = torch.atan2(size_t[..., 0], size_t[..., 1].clamp(min=1e-7))
        shape = 4 / torch.pi**2 * (angle_t - angle_p).square()
        with torch.no_grad():
            trade_off = shape / (1 - iou + shape).clamp(min=1e-7)
        loss = loss + trade_off * shape
    return loss


def focal_loss(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Return the sigmoid focal loss (...) for targets 0 or 1 (Lin et al., arXiv 1708.02002, eq. 5)."""
    positive = targets > 0
    # One logit for both cases, that of the wrong answer: a third less is kept for the gradient.
    wrong = torch.where(positive, -logits, logits)
    return torch.where(positive, alpha, 1 - alpha) * wrong.sigmoid() ** gamma * F.softplus(wrong)


def quality_focal_loss(logits: Tensor, targets: Tensor, gamma: float = 2.0) -> Tensor:
    """Return the focal loss (...) for soft targets in [0, 1] (Li et al., arXiv 2006.04388, eq. 2)."""
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (logits.sigmoid() - targets).abs() ** gamma * entropy


def distribution_focal_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the distribution focal loss (...) of logits (..., bins) (Li et al., arXiv 2006.04388, eq. 6).

    Args:
        logits: of the distances 0, 1, ..., bins - 1.
        targets: (...) true distances in the same unit, clamped below bins - 1.
    """
    targets = targets.clamp(0, logits.shape[-1] - 1 - 1e-3)
    left = targets.long()
    share = targets - left
    entropy = -F.log_softmax(logits, -1)
    below = entropy.gather(-1, left[..., None])[..., 0]
    above = entropy.gather(-1, left[..., None] + 1)[..., 0]
    return (1 - share) * below + share * above


def class_targets(classes: Tensor, scores: Tensor, count: int) -> Tensor:
    """Return (..., K) with scores (...) at classes (...) int64 below `count` = K, and 0 elsewhere."""
    wanted = scores.new_zeros(*scores.shape, count)
    return wanted.scatter_(-1, classes[..., None], scores[..., None])
