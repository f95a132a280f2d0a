"""Which point answers for which object. Each assigner is a pure function over a whole batch.

Shapes: B images, N object slots (classes -1 where empty), P points, K classes. Boxes are xyxy in
network-input pixels. Crowd regions are no objects; points inside them are left out of the loss.

Whatever has an element per object and point is made for a chunk of object slots at a time and reduced to
(B, P) or to the few candidates of each object, so that memory does not grow with the number of objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vision_mtl.heads.dense.losses import aligned_iou
from vision_mtl.structures import Batch

# Object-point pairs looked at together, 8 MiB a tensor: a batch of small images is one chunk. Larger chunks
# were no faster on a CPU, where fresh memory costs more than a pass over it.
PAIRS = 2**21


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


def _chunks(images: int, slots: int, points: int) -> Iterator[slice]:
    """Yield consecutive ranges of the object slots, each of at most `PAIRS` pairs (or one slot)."""
    step = max(1, PAIRS // max(1, images * points))
    for start in range(0, slots, step):
        yield slice(start, start + step)


def inside_boxes(points: Tensor, boxes: Tensor) -> Tensor:
    """Return (B, N, P) bool: which points (P, 2) lie strictly inside which boxes (B, N, 4)."""
    x, y = points.T.contiguous()
    left, top, right, bottom = boxes[..., None].unbind(2)  # (B, N, 1)
    return (x > left).logical_and_(x < right).logical_and_(y > top).logical_and_(y < bottom)


def inside_crowd(points: Tensor, batch: Batch) -> Tensor:
    """Return (B, P) bool: the points inside a crowd region."""
    images, slots = batch.classes.shape
    inside = torch.zeros(images, len(points), dtype=torch.bool, device=points.device)
    for part in _chunks(images, slots, len(points)):
        inside |= (inside_boxes(points, batch.boxes[:, part]) & batch.ignore[:, part, None]).any(1)
    return inside


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Return the IoU (B, N, P) of boxes (B, N, 4) with boxes (B, P, 4).

    Bit for bit torchvision's `box_iou`, but 0 where both boxes are empty.
    """
    left_a, top_a, right_a, bottom_a = a[..., None].unbind(2)  # (B, N, 1)
    left_b, top_b, right_b, bottom_b = b.mT.contiguous()[:, :, None].unbind(1)  # (B, 1, P)
    # In place: these are passes over memory, and fresh memory is the slowest.
    overlap = torch.minimum(right_a, right_b).sub_(torch.maximum(left_a, left_b)).clamp_(min=0)
    overlap *= torch.minimum(bottom_a, bottom_b).sub_(torch.maximum(top_a, top_b)).clamp_(min=0)
    area_a = (right_a - left_a) * (bottom_a - top_a)
    area_b = ((right_b - left_b) * (bottom_b - top_b)).clamp(min=1e-7)
    union = (area_a + area_b).sub_(overlap)
    return overlap.div_(union)


def _settle(claimed: Tensor, quality: Tensor, points: int) -> tuple[Tensor, Tensor, Tensor]:
    """Give each point to the object that claims it with the highest quality; of equals, to the first.

    Args:
        claimed: (B, N, k) int64, candidate points of each object, each at most once.
        quality: (B, N, k) at least 0, or -1 where the candidate is not claimed.
        points: P.

    Returns:
        rows (B, P) int64, 0 where nobody claims; positive (B, P); won (B, N, k), the claims that succeed.
    """
    images, slots, _ = claimed.shape
    flat = claimed.flatten(1)
    highest = quality.new_zeros(images, points).scatter_reduce(1, flat, quality.flatten(1), "amax")
    leads = quality == highest.gather(1, flat).view_as(quality)
    slot = torch.arange(slots, device=flat.device)[:, None]
    rows = flat.new_full((images, points), slots)
    rows = rows.scatter_reduce(1, flat, torch.where(leads, slot, slots).flatten(1), "amin")
    won = leads & (slot == rows.gather(1, flat).view_as(claimed))
    positive = rows < slots
    return torch.where(positive, rows, 0), positive, won


def centre_sampling(targets: Targets, points: Tensor, strides: Tensor, radius: float = 1.5) -> Assignment:
    """FCOS (Tian et al., arXiv 2006.09214, sections 3.1 and 3.2).

    A point is positive for the smallest box that it lies in (of equals, the first), if it also lies within
    `radius` strides of the box's centre and the box's largest distance from it fits its level: 4 to 8
    strides, from 0 on the finest level and without limit on the coarsest.
    """
    x, y = points.T.contiguous()
    lower = torch.where(strides == strides.min(), 0.0, 4 * strides)
    upper = torch.where(strides == strides.max(), torch.inf, 8 * strides)
    reach = radius * strides
    images, slots = targets.classes.shape
    smallest = points.new_full((images, len(points)), torch.inf)
    rows = torch.zeros_like(smallest, dtype=torch.int64)
    for part in _chunks(images, slots, len(points)):
        boxes = targets.boxes[:, part]
        left, top, right, bottom = boxes[..., None].unbind(2)  # (B, n, 1)
        largest = torch.maximum(x - left, right - x)  # (B, n, P)
        largest = torch.maximum(largest, torch.maximum(y - top, bottom - y))
        matches = inside_boxes(points, boxes)
        matches &= (x - (left + right) / 2).abs_() < reach
        matches &= (y - (top + bottom) / 2).abs_() < reach
        matches &= largest > lower
        matches &= largest < upper
        matches &= targets.valid[:, part, None]
        area = (right - left) * (bottom - top)
        value, row = torch.where(matches, area, torch.inf).min(1)
        rows = torch.where(value < smallest, row + part.start, rows)
        smallest = torch.minimum(smallest, value)
    positive = smallest.isfinite()
    weight = positive.float()
    return Assignment(rows, positive, weight, weight)


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
    images, slots = targets.classes.shape
    starts = [sum(level_sizes[:level]) for level in range(len(level_sizes))]
    centres = (targets.boxes[..., :2] + targets.boxes[..., 2:]) / 2
    chunks = []
    for part in _chunks(images, slots, len(points)):
        middle_x, middle_y = centres[:, part, None].unbind(-1)  # (B, n, 1)
        nearest = []
        for start, level in zip(starts, points.split(list(level_sizes)), strict=True):
            x, y = level.T.contiguous()
            distance = (x - middle_x).square_() + (y - middle_y).square_()  # (B, n, level's points)
            nearest.append(distance.topk(min(candidates, len(level)), largest=False).indices + start)
        chunks.append(torch.cat(nearest, -1))
    picked = torch.cat(chunks, 1)  # (B, N, k)
    near, half = points[picked], 4 * strides[picked][..., None]
    boxes = targets.boxes[:, :, None]
    iou = aligned_iou(boxes, torch.cat([near - half, near + half], -1))
    threshold = iou.mean(-1, keepdim=True) + iou.std(-1, keepdim=True)
    inside = ((near > boxes[..., :2]) & (near < boxes[..., 2:])).all(-1)
    chosen = (iou >= threshold) & inside & targets.valid[..., None]
    rows, positive, _ = _settle(picked, torch.where(chosen, iou, -1.0), len(points))
    weight = positive.float()
    return Assignment(rows, positive, weight, weight)


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
    images, slots = targets.classes.shape
    centres = (targets.boxes[..., :2] + targets.boxes[..., 2:]) / 2
    # A shade over half a cell: the centre of a box may lie on the border of cells, as far from their points.
    half = torch.maximum((targets.boxes[..., 2:] - targets.boxes[..., :2]) / 2, 0.501 * strides.min())
    reach = torch.cat([centres - half, centres + half], -1)
    image = torch.arange(images, device=scores.device)[:, None]
    chunks = []
    for part in _chunks(images, slots, len(points)):
        iou = pairwise_iou(targets.boxes[:, part], boxes)  # (B, n, P)
        likely = scores.mT[image, targets.classes[:, part]]
        # Torch has fast paths for cubes and squares, which this is at the default beta of 6.
        alignment = (likely**alpha).mul_((iou**3).pow_(beta / 3))
        reachable = inside_boxes(points, reach[:, part]) & targets.valid[:, part, None]
        # Unreachable points rank last; where alignment is 0 everywhere, at the start, any reachable ones do.
        best, picked = torch.where(reachable, alignment, -1.0).topk(min(candidates, len(points)))
        chunks.append((picked, best, iou.gather(-1, picked)))
    picked, alignment, iou = (torch.cat(parts, 1) for parts in zip(*chunks, strict=True))  # (B, N, k)
    rows, positive, won = _settle(picked, torch.where(alignment >= 0, iou, -1.0), len(points))
    alignment, iou = alignment * won, iou * won
    # Early alignments are far below any usual epsilon (IoU 0.02 to the sixth is 6e-11) and still rank points.
    largest = alignment.amax(-1, keepdim=True).clamp(min=torch.finfo(alignment.dtype).tiny)
    share = alignment / largest
    score = share * iou.amax(-1, keepdim=True)
    flat, nothing = picked.flatten(1), torch.zeros_like(rows, dtype=score.dtype)
    return Assignment(
        rows,
        positive,
        nothing.scatter_reduce(1, flat, score.flatten(1), "amax"),
        nothing.scatter_reduce(1, flat, share.flatten(1), "amax"),
    )


def max_iou(
    targets: Targets, anchors: Tensor, foreground: float = 0.5, background: float = 0.4
) -> tuple[Assignment, Tensor]:
    """RetinaNet's assignment (Lin et al., arXiv 1708.02002, section 4), as torchvision's `Matcher` does it.

    An anchor is positive for the object of its highest IoU if that reaches `foreground`, and undecided, left
    out of the loss, from `background` up to there. So that every object has an anchor, those of its highest
    IoU, all that draw, are positive however low it is (Ren et al., Faster R-CNN, arXiv 1506.01497, section
    3.1.2); like any positive anchor they answer for the object of *their* highest IoU, perhaps another. An
    object that no anchor overlaps draws at 0 with all of them and so makes its whole image positive.

    Args:
        anchors: (A, 4).

    Returns:
        the assignment over A anchors and `undecided` (B, A) bool.
    """
    images, slots = targets.classes.shape
    every = anchors.expand(images, -1, -1)
    highest = anchors.new_full((images, len(anchors)), -1.0)
    rows = torch.zeros_like(highest, dtype=torch.int64)
    restored = torch.zeros_like(highest, dtype=torch.bool)
    for part in _chunks(images, slots, len(anchors)):
        empty = ~targets.valid[:, part, None]
        iou = pairwise_iou(targets.boxes[:, part], every).masked_fill_(empty, -1.0)
        value, row = iou.max(1)
        rows = torch.where(value > highest, row + part.start, rows)
        highest = torch.maximum(highest, value)
        best = iou.amax(-1, keepdim=True).masked_fill_(empty, torch.inf)
        restored |= iou.sub_(best).amax(1) == 0
    positive = (highest >= foreground) | restored
    undecided = (highest >= background) & ~positive
    weight = positive.float()
    return Assignment(torch.where(positive, rows, 0), positive, weight, weight), undecided
