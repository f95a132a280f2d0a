"""Points, batches and predictions for the tests of the assigners."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from vision_mtl.heads.dense.assigners import Assignment, assignable, atss, centre_sampling, task_aligned
from vision_mtl.heads.dense.points import pyramid_points
from vision_mtl.structures import Batch, ImageMeta

SIZE, STRIDES, CLASSES = (192, 256), [8, 16, 32], 4
SHAPES = [(SIZE[0] // stride, SIZE[1] // stride) for stride in STRIDES]
LEVELS = [height * width for height, width in SHAPES]
POINTS, POINT_STRIDES = pyramid_points(SHAPES, STRIDES, torch.device("cpu"))

Assign = Callable[[Batch], Assignment]


def make(boxes: Tensor, classes: Tensor, ignore: Tensor | None = None) -> Batch:
    count = len(boxes)
    return Batch(
        images=torch.zeros(count, 3, *SIZE, dtype=torch.uint8),
        sizes=torch.tensor([SIZE] * count),
        boxes=boxes,
        classes=classes,
        ignore=torch.zeros_like(classes, dtype=torch.bool) if ignore is None else ignore,
        has_boxes=torch.ones(count, dtype=torch.bool),
        labels={},
        metas=[ImageMeta(i, "", SIZE, (1.0, 1.0)) for i in range(count)],
    )


def one(box: list[float], ignore: bool = False) -> Batch:
    return make(torch.tensor([[box]]), torch.tensor([[1]]), torch.tensor([[ignore]]))


def random_batch(seed: int, images: int = 3, slots: int = 12) -> Batch:
    """Boxes of 2 to 180 pixels, some of them crowds, some slots empty."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    sides = 2 * 90 ** rand(images, slots, 2)
    corner = rand(images, slots, 2) * (torch.tensor([SIZE[1], SIZE[0]]) - sides).clamp(min=0)
    classes = torch.randint(0, CLASSES, (images, slots), generator=generator)
    empty = rand(images, slots) < 0.2
    boxes = torch.cat([corner, corner + sides], -1).masked_fill(empty[..., None], 0.0)
    classes = classes.masked_fill(empty, -1)
    return make(boxes, classes, (rand(images, slots) < 0.15) & ~empty)


def predicted(images: int) -> tuple[Tensor, Tensor]:
    """Class probabilities and boxes around the points, an image's own whatever else is in its batch."""
    scores, boxes = [], []
    for i in range(images):
        generator = torch.Generator().manual_seed(100 + i)
        scores.append(torch.rand(len(POINTS), CLASSES, generator=generator))
        sides = torch.rand(len(POINTS), 4, generator=generator) * 4 * POINT_STRIDES[:, None]
        boxes.append(torch.cat([POINTS - sides[:, :2], POINTS + sides[:, 2:]], 1))
    return torch.stack(scores), torch.stack(boxes)


def by_centre(batch: Batch) -> Assignment:
    return centre_sampling(assignable(batch), POINTS, POINT_STRIDES)


def by_atss(batch: Batch) -> Assignment:
    return atss(assignable(batch), POINTS, POINT_STRIDES, LEVELS)


def by_task(batch: Batch) -> Assignment:
    return task_aligned(assignable(batch), POINTS, POINT_STRIDES, *predicted(len(batch.boxes)))
