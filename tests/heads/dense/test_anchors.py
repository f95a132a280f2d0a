"""Anchor boxes and offsets from them, by hand and against torchvision's."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import _default_anchorgen

from vision_mtl.heads.dense.anchors import cell_anchors, decode_boxes, encode_boxes, pyramid_anchors

STRIDES = (8, 16, 32, 64, 128)


def test_anchors_of_a_cell_by_hand() -> None:
    """Sides 32, 40 and 50; by ratio, then by size; half sides are rounded to whole pixels."""
    (cells,) = cell_anchors([8], 4.0)
    assert cells[:, 2:].tolist() == [
        [23, 11],  # 32 * 2^0.5 / 2 = 22.6 wide, 32 / 2^0.5 / 2 = 11.3 high
        [28, 14],
        [35, 18],
        [16, 16],
        [20, 20],
        [25, 25],
        [11, 23],
        [14, 28],
        [18, 35],
    ]
    assert torch.equal(cells[:, :2], -cells[:, 2:])


def test_anchors_lie_about_the_points_level_after_level() -> None:
    cells = torch.tensor([[[-1.0, -2, 1, 2], [-3.0, -3, 3, 3]], [[-9.0, -9, 9, 9], [-8.0, -4, 8, 4]]])
    anchors = pyramid_anchors([(1, 2), (1, 1)], (8, 16), cells)
    assert anchors.tolist() == [
        [-1, -2, 1, 2],
        [-3, -3, 3, 3],
        [7, -2, 9, 2],
        [5, -3, 11, 3],
        [-9, -9, 9, 9],
        [-8, -4, 8, 4],
    ]


@pytest.mark.parametrize("size", [(192, 256), (96, 96), (160, 96), (32, 32), (800, 1344)])
def test_anchors_are_torchvisions(size: tuple[int, int]) -> None:
    """Of odd P6 and P7 too, whose cells stick out of the input."""
    shapes = [(-(-size[0] // stride), -(-size[1] // stride)) for stride in STRIDES]
    images = ImageList(torch.zeros(1, 3, *size), [size])
    (expected,) = _default_anchorgen()(images, [torch.zeros(1, 1, *shape) for shape in shapes])
    assert torch.equal(pyramid_anchors(shapes, size, cell_anchors(STRIDES, 4.0)), expected)


@pytest.mark.parametrize("scale", [1.0, 1.5, 2.0])
def test_anchors_grow_with_scale_and_stride(scale: float) -> None:
    cells = cell_anchors(STRIDES, scale)
    assert cells.shape == (5, 9, 4)
    squares = (cells[..., 2:] - cells[..., :2])[:, 3]  # ratio 1, first octave
    assert squares.tolist() == [[scale * stride] * 2 for stride in STRIDES]


def random_boxes(count: int, seed: int) -> Tensor:
    corners = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed)) * 100
    return torch.cat([corners.amin(1), corners.amax(1) + 0.5], 1)


def test_offsets_by_hand() -> None:
    """An anchor 10 wide and 20 high at (5, 10); the box is as wide, twice as high, moved by (1, 10)."""
    anchor, box = torch.tensor([0.0, 0, 10, 20]), torch.tensor([1.0, 0, 11, 40])
    offsets = encode_boxes(box, anchor)
    torch.testing.assert_close(offsets, torch.tensor([0.1, 0.5, 0.0, math.log(2)]))
    torch.testing.assert_close(decode_boxes(offsets, anchor), box)
    assert encode_boxes(anchor, anchor).tolist() == [0, 0, 0, 0]


def test_offsets_and_boxes_are_inverse_for_a_batch() -> None:
    boxes, anchors = random_boxes(600, 0).view(2, 300, 4), random_boxes(300, 1)
    anchors[:, 2:] += 1.5  # at least 2 pixels a side, and no box is 62.5 times as large
    offsets = encode_boxes(boxes, anchors)
    assert offsets.shape == boxes.shape
    torch.testing.assert_close(decode_boxes(offsets, anchors), boxes, rtol=1e-4, atol=1e-3)


def test_offsets_are_torchvisions() -> None:
    boxes, anchors = random_boxes(300, 2), random_boxes(300, 3)
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))
    torch.testing.assert_close(encode_boxes(boxes, anchors), coder.encode_single(boxes, anchors))
    offsets = torch.randn(300, 4, generator=torch.Generator().manual_seed(4)) * 3  # some beyond the clip
    assert (offsets[:, 2:] > math.log(62.5)).any()
    torch.testing.assert_close(decode_boxes(offsets, anchors), coder.decode_single(offsets, anchors))


def test_sides_are_clipped_at_62_and_a_half_times_the_anchors() -> None:
    anchor = torch.tensor([-1.0, -2, 1, 2])
    box = decode_boxes(torch.tensor([0.0, 0, 1000, 1000]), anchor)
    torch.testing.assert_close(box, anchor * 62.5)
