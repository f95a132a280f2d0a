"""Assigners against the plain form of each: all objects times all points at once, nothing sparse."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vision_mtl.heads.dense import assigners
from vision_mtl.heads.dense.assigners import (
    Assignment,
    Targets,
    atss,
    centre_sampling,
    inside_boxes,
    pairwise_iou,
    task_aligned,
)
from vision_mtl.heads.dense.points import boxes_to_distances, pyramid_points

CLASSES, IMAGES = 4, 3
LARGE, TINY = (192, 256), (16, 32)
STRIDES = {LARGE: [8, 16, 32], TINY: [8, 16]}  # the tiny one has 8 points and 2, fewer than candidates


class Image:
    """What assigners read besides the objects, for images of one size (height, width).

    Attributes:
        points, strides, levels: of the pyramid, (P, 2), (P,) and points of each level.
        scores: (B, P, K) probabilities, a third of them 0.
        boxes: (B, P, 4) around the points.
    """

    def __init__(self, size: tuple[int, int], seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        shapes = [(size[0] // stride, size[1] // stride) for stride in STRIDES[size]]
        self.points, self.strides = pyramid_points(shapes, STRIDES[size], torch.device("cpu"))
        self.levels = [height * width for height, width in shapes]
        shape = (IMAGES, len(self.points))
        self.scores = (torch.rand(*shape, CLASSES, generator=generator) * 1.5 - 0.5).clamp(min=0)
        sides = torch.rand(*shape, 4, generator=generator) * 4 * self.strides[:, None]
        self.boxes = torch.cat([self.points - sides[..., :2], self.points + sides[..., 2:]], -1)


def random_targets(size: tuple[int, int], seed: int, slots: int = 16) -> Targets:
    """Boxes of 2 pixels to twice the image's width; some slots repeat others, a fifth is not valid."""
    generator = torch.Generator().manual_seed(seed)
    sides = 2 * size[1] ** torch.rand(IMAGES, slots, 2, generator=generator)
    corner = torch.rand(IMAGES, slots, 2, generator=generator) * torch.tensor([size[1], size[0]]) - sides / 2
    boxes = torch.cat([corner, corner + sides], -1)
    classes = torch.randint(0, CLASSES, (IMAGES, slots), generator=generator)
    repeated = torch.randint(0, slots, (slots // 4,), generator=generator)
    boxes[:, -len(repeated) :], classes[:, -len(repeated) :] = boxes[:, repeated], classes[:, repeated]
    return Targets(boxes, classes, torch.rand(IMAGES, slots, generator=generator) > 0.2)


def owners(matches: Tensor, quality: Tensor) -> tuple[Tensor, Tensor]:
    """Return rows and positive (B, P): of the objects that match a point, the first of highest quality."""
    best, rows = torch.where(matches, quality, -torch.inf).max(1)
    positive = best.isfinite()
    return torch.where(positive, rows, 0), positive


def plain_centre_sampling(image: Image, targets: Targets) -> Assignment:
    boxes, strides = targets.boxes[:, :, None], image.strides
    distances = boxes_to_distances(image.points, boxes)
    near = (image.points - (boxes[..., :2] + boxes[..., 2:]) / 2).abs().amax(-1) < 1.5 * strides
    low = torch.where(strides == strides.min(), 0.0, 4 * strides)
    high = torch.where(strides == strides.max(), torch.inf, 8 * strides)
    fits = (distances.amax(-1) > low) & (distances.amax(-1) < high)
    area = (boxes[..., 2:] - boxes[..., :2]).prod(-1)
    matches = (distances.amin(-1) > 0) & near & fits & targets.valid[..., None]
    rows, positive = owners(matches, -area.expand_as(near))
    return Assignment(rows, positive, positive.float(), positive.float())


def plain_atss(image: Image, targets: Targets) -> Assignment:
    half = 4 * image.strides[:, None]
    anchors = torch.cat([image.points - half, image.points + half], 1)
    iou = pairwise_iou(targets.boxes, anchors.expand(IMAGES, -1, -1))
    centres = (targets.boxes[..., :2] + targets.boxes[..., 2:]) / 2
    distance = (image.points - centres[:, :, None]).norm(dim=-1)
    nearest, start = [], 0
    for part in distance.split(image.levels, -1):
        nearest.append(part.topk(min(9, part.shape[-1]), largest=False).indices + start)
        start += part.shape[-1]
    picked = torch.cat(nearest, -1)
    overlaps = iou.gather(-1, picked)
    threshold = overlaps.mean(-1, keepdim=True) + overlaps.std(-1, keepdim=True)
    chosen = torch.zeros_like(iou, dtype=torch.bool).scatter(-1, picked, overlaps >= threshold)
    matches = chosen & inside_boxes(image.points, targets.boxes) & targets.valid[..., None]
    rows, positive = owners(matches, iou)
    return Assignment(rows, positive, positive.float(), positive.float())


def plain_task_aligned(image: Image, targets: Targets) -> Assignment:
    iou = pairwise_iou(targets.boxes, image.boxes)
    of_class = targets.classes[:, None].expand(-1, len(image.points), -1)
    alignment = image.scores.gather(2, of_class).mT * iou**6
    centres = (targets.boxes[..., :2] + targets.boxes[..., 2:]) / 2
    half = ((targets.boxes[..., 2:] - targets.boxes[..., :2]) / 2).clamp(
        min=0.501 * float(image.strides.min())
    )
    reachable = inside_boxes(image.points, torch.cat([centres - half, centres + half], -1))
    reachable &= targets.valid[..., None]
    picked = torch.where(reachable, alignment, -1.0).topk(min(13, len(image.points))).indices
    chosen = torch.zeros_like(reachable).scatter(-1, picked, True) & reachable
    rows, positive = owners(chosen, iou)
    chosen &= torch.arange(targets.classes.shape[1])[:, None] == rows[:, None]
    alignment, iou = alignment * chosen, iou * chosen
    share = alignment / alignment.amax(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    score = share * iou.amax(-1, keepdim=True)
    return Assignment(rows, positive, score.amax(1), share.amax(1))


def ours_centre(image: Image, targets: Targets) -> Assignment:
    return centre_sampling(targets, image.points, image.strides)


def ours_atss(image: Image, targets: Targets) -> Assignment:
    return atss(targets, image.points, image.strides, image.levels)


def ours_task(image: Image, targets: Targets) -> Assignment:
    return task_aligned(targets, image.points, image.strides, image.scores, image.boxes)


Assign = Callable[[Image, Targets], Assignment]
every_assigner = pytest.mark.parametrize(
    ("ours", "plain"),
    [
        (ours_centre, plain_centre_sampling),
        (ours_atss, plain_atss),
        (ours_task, plain_task_aligned),
    ],
    ids=["centre", "atss", "task"],
)


def assert_same(found: Assignment, expected: Assignment) -> None:
    assert torch.equal(found.positive, expected.positive)
    assert torch.equal(found.rows, expected.rows)
    torch.testing.assert_close(found.score, expected.score, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.share, expected.share, rtol=1e-5, atol=0)


@every_assigner
@pytest.mark.parametrize("pairs", [1, 5000, assigners.PAIRS])
@pytest.mark.parametrize("size", [LARGE, TINY], ids=["large", "tiny"])
def test_equals_the_plain_form(
    ours: Assign, plain: Assign, size: tuple[int, int], pairs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assigners, "PAIRS", pairs)
    positive = repeated = 0
    for seed in range(10):
        image, targets = Image(size, seed), random_targets(size, seed)
        expected = plain(image, targets)
        assert_same(ours(image, targets), expected)
        positive += int(expected.positive.sum())
        repeated += int((expected.rows >= 12).sum())
    assert positive > repeated > 0  # a slot that repeats another wins where that one is not valid


@every_assigner
def test_of_equal_objects_the_first_valid_one_wins(ours: Assign, plain: Assign) -> None:
    image = Image(LARGE, 0)
    box = torch.tensor([40.0, 40, 100, 90]).expand(IMAGES, 4, 4)
    targets = Targets(box, torch.ones(IMAGES, 4).long(), torch.tensor([[False, True, True, True]] * IMAGES))
    found = ours(image, targets)
    assert found.positive.any()
    assert set(found.rows[found.positive].tolist()) == {1}
    # The ones that win nothing take nothing from the one that does.
    alone = ours(image, replace(targets, valid=torch.tensor([[False, True, False, False]] * IMAGES)))
    assert_same(found, alone)


@every_assigner
def test_without_valid_objects_nothing_is_positive(ours: Assign, plain: Assign) -> None:
    targets = random_targets(LARGE, 0)
    found = ours(Image(LARGE, 0), replace(targets, valid=torch.zeros_like(targets.valid)))
    for answer in (found.rows, found.positive, found.score, found.share):
        assert not answer.any()


def test_points_on_the_side_of_a_box_are_outside() -> None:
    boxes = torch.tensor([[[4.0, 4, 20, 20]]])
    points = Image(LARGE, 0).points
    inside = points[inside_boxes(points, boxes)[0, 0]]
    assert sorted(inside.tolist()) == [[8, 8], [12, 12], [16, 16]]
