"""Which point answers for which object. Each assigner is a pure function over a whole batch.

Shapes: B images, N object slots (classes -1 where empty), P points, K classes. Boxes are xyxy in
network-input pixels. Crowd regions are no objects; points inside them are left out of the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vision_mtl.heads.dense.points import boxes_to_distances
from vision_mtl.structures import Batch


@dataclass(frozen=True)
class Targets:
    """What there is to assign: (B, N) slots, at least one.

    Attributes:
        boxes: (B, N, 4).
        classes: (B, N), 0 in slots that are not valid.
        valid: (B, N) bool, True for objects that may be assigned.
    """

    boxes: Tensor
    classes: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Assignment:
    """The answer.

    Attributes:
        rows: (B, P) int64, the object slot of each positive point; 0 elsewhere.
        positive: (B, P) bool.
        score: (B, P) float32, the classification target of the point's class: 1 for hard assigners.
        share: (B, P) float32, how good a positive point is for its object, 1 for the best: its weight in
            the box loss. 1 for hard assigners.
    """

    rows: Tensor
    positive: Tensor
    score: Tensor
    share: Tensor


def assignable(batch: Batch) -> Targets:
    """Return the batch's objects without crowds, with at least one (empty) slot."""
    boxes, classes, ignore = batch.boxes, batch.classes, batch.ignore
    if classes.shape[1] == 0:
        boxes, classes, ignore = (
            boxes.new_zeros(len(boxes), 1, 4),
            classes.new_full((len(boxes), 1), -1),
            ignore.new_zeros(len(boxes), 1),
        )
    return Targets(boxes, classes.clamp(min=0), (classes >= 0) & ~ignore)


def inside_boxes(points: Tensor, boxes: Tensor) -> Tensor:
    """Return (B, N, P) bool: which points (P, 2) lie strictly inside which boxes (B, N, 4)."""
    return (boxes_to_distances(points, boxes[:, :, None]) > 0).all(-1)


def inside_crowd(points: Tensor, batch: Batch) -> Tensor:
    """Return (B, P) bool: the points inside a crowd region."""
    return (inside_boxes(points, batch.boxes) & batch.ignore[:, :, None]).any(1)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the IoU (B, N, P) of boxes (B, N, 4) with boxes (B, P, 4)."""
    first, second = a[:, :, None], b[:, None]
    sides = torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(first[..., :2], second[..., :2])
    overlap = sides.clamp(min=0).prod(-1)
    area_a = (a[..., 2:] - a[..., :2]).prod(-1)[:, :, None]
    area_b = (b[..., 2:] - b[..., :2]).prod(-1)[:, None]
    return overlap / (area_a + area_b - overlap).clamp(min=1e-7)


def centre_sampling(targets: Targets, points: Tensor, strides: Tensor, radius: float = 1.5) -> Assignment:
    """FCOS (Tian et al., arXiv 2006.09214, sections 3.1 and 3.2).

    A point is positive for the smallest box that it lies in, if it also lies within `radius` strides of
    the box's centre and the box's largest distance from it fits its level: 4 to 8 strides, from 0 on the
    finest level and without limit on the coarsest.
    """
    distances = boxes_to_distances(points, targets.boxes[:, :, None])  # (B, N, P, 4)
    centres = (targets.boxes[..., :2] + targets.boxes[..., 2:]) / 2
    near = ((points - centres[:, :, None]).abs().amax(-1)) < radius * strides
    largest = distances.amax(-1)
    lower = torch.where(strides == strides.min(), 0.0, 4 * strides)
    upper = torch.where(strides == strides.max(), torch.inf, 8 * strides)
    matches = (distances.amin(-1) > 0) & near & (largest > lower) & (largest < upper)
    matches &= targets.valid[:, :, None]
    area = (targets.boxes[..., 2:] - targets.boxes[..., :2]).prod(-1)[:, :, None]
    smallest, rows = torch.where(matches, area, torch.inf).min(1)
    positive = smallest.isfinite()
    weight = positive.float()
    return Assignment(torch.where(positive, rows, 0), positive, weight, weight)


def atss(
    targets: Targets, points: Tensor, strides: Tensor, level_sizes: Sequence[int], candidates: int = 9
) -> Assignment:
    """Adaptive training sample selection (Zhang et al., arXiv 1912.02424, algorithm 1).

    Each point stands for a square anchor of 8 strides. Per object, the `candidates` nearest points of each
    level are kept whose anchor's IoU reaches the mean plus the standard deviation of all those IoUs and
    that lie inside the box; a point wanted by several objects goes to the one of highest IoU.

    Args:
        level_sizes: points of each level, which add up to P.
    """
    half = 4 * strides[:, None]
    anchors = torch.cat([points - half, points + half], 1)
    iou = pairwise_iou(targets.boxes, anchors.expand(len(targets.boxes), -1, -1))
    centres = (targets.boxes[..., :2] + targets.boxes[..., 2:]) / 2
    distance = (points - centres[:, :, None]).norm(dim=-1)  # (B, N, P)
    nearest, start = [], 0
    for size in level_sizes:
        part = distance[..., start : start + size]
        nearest.append(part.topk(min(candidates, size), -1, largest=False).indices + start)
        start += size
    picked = torch.cat(nearest, -1)
    overlaps = iou.gather(-1, picked)
    threshold = overlaps.mean(-1, keepdim=True) + overlaps.std(-1, keepdim=True)
    chosen = torch.zeros_like(iou, dtype=torch.bool).scatter(-1, picked, overlaps >= threshold)
    matches = chosen & inside_boxes(points, targets.boxes) & targets.valid[:, :, None]
    best, rows = torch.where(matches, iou, -1.0).max(1)
    positive = best >= 0
    weight = positive.float()
    return Assignment(torch.where(positive, rows, 0), positive, weight, weight)


def task_aligned(
    targets: Targets,
    points: Tensor,
    strides: Tensor,
    scores: Tensor,
    boxes: Tensor,
    candidates: int = 13,
    alpha: float = 1.0,
    beta: float = 6.0,
) -> Assignment:
    """Task-aligned assignment (Feng et al., TOOD, arXiv 2108.07755, section 3.2).

    Per object, the `candidates` points inside it of highest alignment score^alpha * IoU^beta are positive;
    a point wanted by several objects goes to the one of highest IoU. The classification target is the
    alignment, scaled per object so that its largest value is the object's largest IoU. A box smaller than
    a cell of the finest level is enlarged to it for "inside", so that every object has a point to win.

    Args:
        scores: (B, P, K) predicted class probabilities, without gradient.
        boxes: (B, P, 4) predicted boxes, without gradient.
    """
    count = targets.classes.shape[1]
    iou = pairwise_iou(targets.boxes, boxes)
    of_class = targets.classes[:, None, :].expand(-1, len(points), -1)
    alignment = scores.gather(2, of_class).transpose(1, 2) ** alpha * iou**beta  # (B, N, P)
    centres = (targets.boxes[..., :2] + targets.boxes[..., 2:]) / 2
    # A shade over half a cell: the centre of a box may lie on the border of cells, as far from their points.
    half = torch.maximum((targets.boxes[..., 2:] - targets.boxes[..., :2]) / 2, 0.501 * strides.min())
    reachable = inside_boxes(points, torch.cat([centres - half, centres + half], -1))
    reachable &= targets.valid[:, :, None]
    # Unreachable points rank last; where alignment is 0 everywhere, at the start, any reachable ones do.
    ranked = torch.where(reachable, alignment, -1.0)
    picked = ranked.topk(min(candidates, len(points)), -1).indices
    chosen = torch.zeros_like(reachable).scatter(-1, picked, True) & reachable
    best, rows = torch.where(chosen, iou, -1.0).max(1)
    positive = best >= 0
    mine = torch.arange(count, device=rows.device)[:, None] == rows[:, None]  # (B, N, P)
    chosen &= mine & positive[:, None]
    alignment, iou = alignment * chosen, iou * chosen
    # Early alignments are far below any usual epsilon (IoU 0.02 to the sixth is 6e-11) and still rank points.
    largest = alignment.amax(-1, keepdim=True).clamp(min=torch.finfo(alignment.dtype).tiny)
    share = alignment / largest
    score = share * iou.amax(-1, keepdim=True)
    return Assignment(torch.where(positive, rows, 0), positive, score.amax(1), share.amax(1))
