"""Where a dense head predicts: one point for every cell of every pyramid level."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def pyramid_points(
    shapes: Sequence[tuple[int, int]], strides: Sequence[int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return points (P, 2) as x, y in network-input pixels and the stride (P,) of each, fine to coarse.

    Points lie in the middle of their cells.

    Args:
        shapes: (height, width) of each level, in cells.
        strides: pixels per cell of each level.
        device: where the tensors go.
    """
    points, point_strides = [], []
    for (height, width), stride in zip(shapes, strides, strict=True):
        points.append(_grid((height, width), (stride, stride), 0.5, device))
        point_strides.append(torch.full((height * width,), float(stride), device=device))
    return torch.cat(points), torch.cat(point_strides)


def corner_points(
    shapes: Sequence[tuple[int, int]], input_size: tuple[int, int], device: torch.device
) -> Tensor:
    """Return torchvision's points (P, 2) in the order of `pyramid_points`: in the top left corner of each
    cell, spaced by the whole pixels of `input_size` (H, W) that each cell of a side has.

    The spacing is not the stride where a level's cells stick out of the input: 96 pixels make 2 cells of
    stride 64 and 1 of stride 128, whose spacings are 48 and 96.
    """
    height, width = input_size
    return torch.cat([_grid(shape, (height // shape[0], width // shape[1]), 0.0, device) for shape in shapes])


def _grid(shape: tuple[int, int], spacing: tuple[int, int], offset: float, device: torch.device) -> Tensor:
    """Return x, y (H * W, 2) of cells (H, W), row by row; `spacing` (y, x) in pixels, `offset` in cells."""
    y, x = (
        (torch.arange(count, device=device) + offset) * step
        for count, step in zip(shape, spacing, strict=True)
    )
    rows, columns = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([columns.flatten(), rows.flatten()], 1)


def distances_to_boxes(points: Tensor, distances: Tensor) -> Tensor:
    """Return xyxy boxes (..., P, 4) from distances (..., P, 4) to left, top, right, bottom, in pixels."""
    return torch.cat([points - distances[..., :2], points + distances[..., 2:]], -1)


def boxes_to_distances(points: Tensor, boxes: Tensor) -> Tensor:
    """Return the distances (..., P, 4) from points (P, 2) to the sides of boxes (..., P, 4); inverse of
    `distances_to_boxes`. Negative where a point lies outside."""
    return torch.cat([points - boxes[..., :2], boxes[..., 2:] - points], -1)
