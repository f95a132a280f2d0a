"""Points of the pyramid and the distances from them to the sides of boxes."""

from __future__ import annotations

import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from vision_mtl.heads.dense.points import (
    boxes_to_distances,
    corner_points,
    distances_to_boxes,
    pyramid_points,
)


def test_points_lie_in_the_middle_of_cells_row_by_row_fine_to_coarse() -> None:
    points, strides = pyramid_points([(2, 3), (1, 2)], [8, 16], torch.device("cpu"))
    assert points.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12], [8, 8], [24, 8]]
    assert strides.tolist() == [8.0] * 6 + [16.0] * 2


def test_distances_are_left_top_right_bottom() -> None:
    points = torch.tensor([[4.0, 12.0]])
    box = torch.tensor([[1.0, 2.0, 10.0, 20.0]])
    assert boxes_to_distances(points, box).tolist() == [[3.0, 10.0, 6.0, 8.0]]
    assert distances_to_boxes(points, torch.tensor([[3.0, 10.0, 6.0, 8.0]])).tolist() == box.tolist()


def test_distance_is_negative_on_the_side_a_point_lies_beyond() -> None:
    distances = boxes_to_distances(torch.tensor([[30.0, 5.0]]), torch.tensor([[10.0, 0.0, 20.0, 10.0]]))
    assert distances.tolist() == [[20.0, 5.0, -10.0, 5.0]]


def test_distances_and_boxes_are_inverse_for_every_object_and_point() -> None:
    points, _ = pyramid_points([(4, 5), (2, 3)], [8, 16], torch.device("cpu"))
    boxes = torch.rand(2, 3, 1, 4, generator=torch.Generator().manual_seed(0)) * 50
    distances = boxes_to_distances(points, boxes)
    assert distances.shape == (2, 3, 26, 4)
    torch.testing.assert_close(distances_to_boxes(points, distances), boxes.expand(-1, -1, 26, -1))


@pytest.mark.parametrize("size", [(96, 96), (160, 96), (192, 256), (32, 64), (800, 1344)])
def test_corner_points_are_the_centres_of_torchvisions_anchors(size: tuple[int, int]) -> None:
    shapes = [tuple(-(-side // stride) for side in size) for stride in (8, 16, 32, 64, 128)]
    generator = AnchorGenerator(tuple((float(side),) for side in (8, 16, 32, 64, 128)), ((1.0,),) * 5)
    images = ImageList(torch.zeros(1, 3, *size), [size])
    (anchors,) = generator(images, [torch.zeros(1, 1, *shape) for shape in shapes])
    points = corner_points(shapes, size, torch.device("cpu"))
    assert torch.equal(points, (anchors[:, :2] + anchors[:, 2:]) / 2)


def test_corner_points_are_spaced_by_whole_pixels_per_cell() -> None:
    points = corner_points([(1, 2), (1, 3)], (50, 97), torch.device("cpu"))
    assert points.tolist() == [[0, 0], [48, 0], [0, 0], [32, 0], [64, 0]]
