"""Where a dense head predicts: one point in the middle of every cell of every pyramid level."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def pyramid_points(
    shapes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return points (P, 2) as x, y in network-input pixels and the stride (P,) of each, fine to coarse.

    Args:
        shapes: (height, width) of each level, in cells.
        strides: pixels per cell of each level.
        device: where the tensors go.
    """
    points, point_strides = [], []
    for (height, width), stride in zip(shapes, strides, strict=True):
        y = (torch.arange(height, device=device) + 0.5) * stride
        x = (torch.arange(width, device=device) + 0.5) * stride
        rows, columns = torch.meshgrid(y, x, indexing="ij")
        points.append(torch.stack([columns.flatten(), rows.flatten()], 1))
        point_strides.append(torch.full((height * width,), float(stride), device=device))
    return torch.cat(points), torch.cat(point_strides)


def distances_to_boxes(points: Tensor, distances: Tensor) -> Tensor:
    """Return xyxy boxes (..., P, 4) from distances (..., P, 4) to left, top, right, bottom, in pixels."""
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], -1)


def boxes_to_distances(points: Tensor, boxes: Tensor) -> Tensor:
    """Return the distances (..., P, 4) from points (P, 2) to the sides of boxes (..., P, 4); inverse of
    `distances_to_boxes`. Negative where a point lies outside."""
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], -1)
