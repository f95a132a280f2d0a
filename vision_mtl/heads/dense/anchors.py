"""Anchor boxes of a pyramid, and boxes as offsets from them.

The anchors are torchvision's RetinaNet's, which lie on whole pixels, so that its weights fit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vision_mtl.heads.dense.points import corner_points

# Three sizes of three ratios (height / width) in each cell (Lin et al., arXiv 1708.02002, section 4).
SIZES = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
RATIOS = (0.5, 1.0, 2.0)
MAX_LOG_SIZE = math.log(1000 / 16)  # by which a box's side may exceed its anchor's: exp must not overflow


def cell_anchors(strides: Sequence[int], scale: float) -> Tensor:
    """Return the anchors (L, 9, 4) of one cell on each of L levels, xyxy in pixels about the cell's point.

    Args:
        strides: pixels per cell of each level.
        scale: side of a level's smallest square anchor, in strides; sides are truncated to whole pixels.
    """
    sides = torch.tensor([[float(int(scale * stride * size)) for size in SIZES] for stride in strides])
    roots = torch.tensor(RATIOS).sqrt()[:, None]
    widths, heights = (1 / roots * sides[:, None]).flatten(1), (roots * sides[:, None]).flatten(1)
    return (torch.stack([-widths, -heights, widths, heights], -1) / 2).round()


def pyramid_anchors(shapes: Sequence[tuple[int, int]], input_size: tuple[int, int], cells: Tensor) -> Tensor:
    """Return the anchors (P * A, 4) of all P points, xyxy in network-input pixels, point by point.

    Args:
        shapes: (height, width) of each of L levels, in cells.
        input_size: (H, W) of the padded batch; see `corner_points` for where it puts the points.
        cells: (L, A, 4) from `cell_anchors`.
    """
    points = corner_points(shapes, input_size, cells.device)
    levels = points.split([height * width for height, width in shapes])
    return torch.cat(
        [
            (level.repeat(1, 2)[:, None] + anchors).flatten(0, 1)
            for level, anchors in zip(levels, cells, strict=True)
        ]
    )


def encode_boxes(boxes: Tensor, anchors: Tensor) -> Tensor:
    """Return xyxy boxes (..., 4) as offsets (..., 4) from anchors (..., 4), both with area.

    The centre's x and y in widths and heights of the anchor, and the logarithms of width and height as
    multiples of the anchor's (Girshick et al., arXiv 1311.2524, appendix C).
    """
    centres, sides = _centres_and_sides(boxes)
    anchor_centres, anchor_sides = _centres_and_sides(anchors)
    return torch.cat([(centres - anchor_centres) / anchor_sides, (sides / anchor_sides).log()], -1)


def decode_boxes(offsets: Tensor, anchors: Tensor) -> Tensor:
    """Return the xyxy boxes (..., 4) of offsets (..., 4) from anchors (..., 4); inverse of `encode_boxes`
    for boxes up to 62.5 times their anchor's side, at which sides are clipped."""
    anchor_centres, anchor_sides = _centres_and_sides(anchors)
    centres = anchor_centres + offsets[..., :2] * anchor_sides
    half = offsets[..., 2:].clamp(max=MAX_LOG_SIZE).exp() * anchor_sides / 2
    return torch.cat([centres - half, centres + half], -1)


def _centres_and_sides(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return centres (..., 2) as x, y and sides (..., 2) as width, height of xyxy boxes (..., 4)."""
    sides = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + sides / 2, sides
