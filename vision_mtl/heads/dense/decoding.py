"""Dense scores and boxes to a fixed number of candidates, and candidates to detections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision.ops import box_iou, nms

from vision_mtl.structures import Detections, ImageMeta

AS_GOOD = 1e-3  # of IoU: what the rounding of boxes, or a network run in another batch, may cost


class Candidates(NamedTuple):
    """The highest-scored (point, class) pairs of each image, best first, in network-input pixels.

    Attributes:
        boxes: (B, M, 4) xyxy, clipped to the valid part of the image; NaN and infinity stay.
        scores: (B, M) in [0, 1].
        classes: (B, M) int64.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor


def best_candidates(
    scores: Tensor, boxes: Tensor, sizes: Tensor, count: int, level_sizes: Sequence[int] | None = None
) -> Candidates:
    """Return the `count` highest of scores (B, P, K) with the boxes (B, P, 4) of their points.

    Args:
        scores: (B, P, K), any values that rank the pairs.
        boxes: (B, P, 4) xyxy in network-input pixels.
        sizes: (B, 2) valid (height, width), to which boxes are clipped.
        count: how many of each image, or of each of its levels if `level_sizes` is given.
        level_sizes: points of each level, which add up to P.
    """
    classes = scores.shape[2]
    flat = scores.flatten(1)
    if level_sizes is None:
        values, picked = flat.topk(min(count, flat.shape[1]), 1)
    else:
        values, picked = _best_per_level(flat, [size * classes for size in level_sizes], count)
    rows = picked // classes
    chosen = boxes.gather(1, rows[..., None].expand(-1, -1, 4))
    limits = sizes.flip(1).repeat(1, 2)[:, None].to(boxes.dtype)  # (B, 1, 4): width, height, width, height
    clipped = torch.minimum(chosen.clamp(min=0), limits)
    # Clipping would turn an infinite side into a plausible one; `to_detections` has to see it.
    return Candidates(torch.where(chosen.isfinite(), clipped, chosen), values, picked % classes)


def _best_per_level(flat: Tensor, level_sizes: Sequence[int], count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` highest of each level of `flat` (B, sum of level_sizes), best of all first, and
    where they stand in it, each (B, M)."""
    values, picked, start = [], [], 0
    for level in flat.split(list(level_sizes), 1):
        best, places = level.topk(min(count, level.shape[1]), 1)
        values.append(best)
        picked.append(places + start)
        start += level.shape[1]
    ranked, order = torch.cat(values, 1).sort(1, descending=True)
    return ranked, torch.cat(picked, 1).gather(1, order)


def to_detections(
    candidates: Candidates,
    metas: Sequence[ImageMeta],
    score_threshold: float,
    nms_threshold: float,
    max_detections: int,
) -> list[Detections]:
    """Return each image's detections in original pixels: class-wise NMS of what reaches the threshold.

    A candidate with a value that is not finite is dropped: it would suppress valid boxes. So is a box
    without area, which is what clipping leaves of a box in the padding: NMS keeps all of these.
    """
    boxes, scores, classes = (tensor.detach().cpu() for tensor in candidates)
    usable = scores.isfinite() & boxes.isfinite().all(-1) & (boxes[..., 2:] > boxes[..., :2]).all(-1)
    results = []
    for row, meta in enumerate(metas):
        kept = usable[row] & (scores[row] >= score_threshold)
        image_boxes, image_scores, image_classes = boxes[row][kept], scores[row][kept], classes[row][kept]
        # Classes far apart from one another in one call; float64 keeps the offsets exact.
        extent = float(image_boxes.max()) + 1 if len(image_boxes) else 0.0
        apart = image_boxes.double() + (image_classes * extent)[:, None]
        best = nms(apart, image_scores.double(), nms_threshold)[:max_detections]
        height, width = meta.size
        scale = torch.tensor(meta.scale * 2)
        limits = torch.tensor([width, height] * 2, dtype=torch.float32)
        original = torch.minimum(image_boxes[best].float() * scale, limits)
        results.append(Detections(original, image_scores[best].float(), image_classes[best]))
    return results


def origins(own: Tensor, logits: Tensor, size: Tensor, boxes: Tensor, classes: Tensor) -> Tensor:
    """Return (M,) int64: which of the P predictions of an image each of its M detections came from.

    Of the predictions that overlap the detection as much as any does it is the one with the highest logit of
    its class, since NMS keeps the best.

    Args:
        own: (P, 1, 4) the predicted boxes xyxy in network-input pixels, not clipped; (P, K, 4) where each
            class has its own.
        logits: (P, K).
        size: (2,) valid (height, width) of the image, to which the detections were clipped.
        boxes: (M, 4) of the detections, in the same frame.
        classes: (M,) int64.
    """
    limits = size.flip(0).repeat(2).to(own.dtype)
    clipped = torch.minimum(own.detach().clamp(min=0), limits).expand(*logits.shape, 4)
    rows = []
    for box, label in zip(boxes, classes.tolist(), strict=True):
        overlaps = box_iou(box[None], clipped[:, label])[0].nan_to_num()  # a box without area has none
        best = overlaps >= overlaps.max() - AS_GOOD
        rows.append(int(logits[:, label].detach().masked_fill(~best, -torch.inf).argmax()))
    return torch.tensor(rows, dtype=torch.int64, device=logits.device)
