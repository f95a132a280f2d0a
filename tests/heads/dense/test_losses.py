"""Losses of dense heads, against torchvision and by hand."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import ops

from vision_mtl.heads.dense.losses import (
    aligned_iou,
    box_loss,
    class_targets,
    distribution_focal_loss,
    focal_loss,
    quality_focal_loss,
)

Kind = Literal["giou", "diou", "ciou"]
REFERENCES = {
    "giou": ops.generalized_box_iou_loss,
    "diou": ops.distance_box_iou_loss,
    "ciou": ops.complete_box_iou_loss,
}


def random_boxes(count: int, seed: int) -> Tensor:
    corners = torch.rand(count, 2, 2, generator=torch.Generator().manual_seed(seed)) * 100
    return torch.cat([corners.amin(1), corners.amax(1) + 0.5], 1)


@pytest.mark.parametrize("kind", ["giou", "diou", "ciou"])
def test_box_losses_and_their_gradients_equal_torchvisions(kind: Kind) -> None:
    target = random_boxes(300, 1)
    ours, theirs = (random_boxes(300, 0).requires_grad_() for _ in range(2))
    loss = box_loss(ours, target, kind)
    reference = REFERENCES[kind](theirs, target, reduction="none")
    torch.testing.assert_close(loss, reference, rtol=1e-4, atol=1e-5)
    (gradient,) = torch.autograd.grad(loss.sum(), ours)
    (wanted,) = torch.autograd.grad(reference.sum(), theirs)
    torch.testing.assert_close(gradient, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "expected"),
    # Boxes 2x2 and 2x2, one apart in x: IoU 2/6, hull 3x2, centres 1 apart, hull diagonal^2 13.
    [("giou", 1 - 1 / 3), ("diou", 1 - 1 / 3 + 1 / 13), ("ciou", 1 - 1 / 3 + 1 / 13)],
)
def test_box_losses_by_hand(kind: Kind, expected: float) -> None:
    loss = box_loss(torch.tensor([0.0, 0, 2, 2]), torch.tensor([1.0, 0, 3, 2]), kind)
    assert float(loss) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", ["giou", "diou", "ciou"])
def test_box_loss_is_zero_at_the_target(kind: Kind) -> None:
    boxes = random_boxes(50, 2)
    torch.testing.assert_close(box_loss(boxes, boxes, kind), torch.zeros(50), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["giou", "diou", "ciou"])
def test_empty_slots_and_boxes_without_area_have_finite_losses_and_gradients(kind: Kind) -> None:
    boxes = torch.tensor([[0.0, 0, 0, 0], [5.0, 5, 5, 5], [1.0, 1, 9, 1]]).requires_grad_()
    loss = box_loss(boxes, torch.zeros(3, 4), kind)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert boxes.grad is not None
    assert boxes.grad.isfinite().all()


def test_aligned_iou_equals_torchvisions_pairs() -> None:
    a, b = random_boxes(100, 3), random_boxes(100, 4)
    torch.testing.assert_close(aligned_iou(a, b), ops.box_iou(a, b).diagonal())
    assert aligned_iou(torch.zeros(1, 4), torch.zeros(1, 4)).tolist() == [0.0]


def test_focal_loss_equals_torchvisions() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 5, generator=generator) * 4
    targets = (torch.rand(200, 5, generator=generator) < 0.2).float()
    torch.testing.assert_close(focal_loss(logits, targets), ops.sigmoid_focal_loss(logits, targets))
    torch.testing.assert_close(
        focal_loss(logits, targets, 0.6, 1.5), ops.sigmoid_focal_loss(logits, targets, 0.6, 1.5)
    )


def test_focal_loss_and_its_gradient_are_finite_and_right_at_extreme_logits() -> None:
    logits = torch.tensor([[-200.0, 200.0, -60.0, 60.0]]).repeat(2, 1).requires_grad_()
    targets = torch.tensor([[0.0], [1.0]]).expand(2, 4)
    loss = focal_loss(logits, targets)
    assert loss.tolist() == [[0, 150, 0, 45], [50, 0, 15, 0]]
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert gradient.tolist() == [[0, 0.75, 0, 0.75], [-0.25, 0, -0.25, 0]]


def test_quality_focal_loss_is_the_unweighted_focal_loss_at_hard_targets() -> None:
    logits = torch.linspace(-6, 6, 25).repeat(2, 1)
    targets = torch.tensor([[0.0], [1.0]]).expand(2, 25)
    expected = ops.sigmoid_focal_loss(logits, targets, alpha=-1, gamma=2)
    torch.testing.assert_close(quality_focal_loss(logits, targets), expected)


@pytest.mark.parametrize(
    ("logit", "target", "expected"),
    [
        (0.0, 1.0, 0.25 * math.log(2)),
        (0.0, 0.0, 0.25 * math.log(2)),
        (math.log(3), 0.25, 0.5**2 * -(0.25 * math.log(0.75) + 0.75 * math.log(0.25))),  # sigmoid 0.75
        (math.log(3), 0.75, 0.0),
    ],
)
def test_quality_focal_loss_by_hand(logit: float, target: float, expected: float) -> None:
    loss = quality_focal_loss(torch.tensor(logit), torch.tensor(target))
    assert float(loss) == pytest.approx(expected, abs=1e-6)


def test_quality_focal_loss_is_least_at_its_target() -> None:
    probabilities = torch.linspace(0.05, 0.95, 91)
    loss = quality_focal_loss(probabilities.logit(), torch.full((91,), 0.3))
    assert float(probabilities[loss.argmin()]) == pytest.approx(0.3, abs=1e-6)


def test_distribution_focal_loss_by_hand() -> None:
    # Probabilities 1/8, 1/2, 1/4, 1/8; distance 1.25 weighs its neighbours 1 and 2 with 3/4 and 1/4.
    logits = torch.tensor([0.125, 0.5, 0.25, 0.125]).log()
    loss = distribution_focal_loss(logits, torch.tensor(1.25))
    assert float(loss) == pytest.approx(0.75 * math.log(2) + 0.25 * math.log(4), abs=1e-6)


@pytest.mark.parametrize("target", [0.0, 0.4, 2.0, 6.7])
def test_distribution_focal_loss_is_least_where_the_mean_is_the_target(target: float) -> None:
    left = int(target)
    share = target - left
    best = torch.full((8,), 1e-9)
    best[left], best[left + 1] = max(1 - share, 1e-9), max(share, 1e-9)
    logits = best.log()
    assert float(logits.softmax(0) @ torch.arange(8.0)) == pytest.approx(target, abs=1e-5)
    least = float(distribution_focal_loss(logits, torch.tensor(target)))
    generator = torch.Generator().manual_seed(0)
    others = torch.randn(200, 8, generator=generator) * torch.tensor([[1.0], [4.0]]).repeat(100, 1)
    assert (distribution_focal_loss(others, torch.full((200,), target)) > least).all()
    near = distribution_focal_loss(logits + others / 10, torch.full((200,), target))
    assert (near >= least - 1e-6).all()


@pytest.mark.parametrize(("target", "bin_"), [(-3.0, 0), (100.0, 7), (7.0, 7)])
def test_distances_out_of_reach_ask_for_the_nearest_end(target: float, bin_: int) -> None:
    logits = torch.randn(8, generator=torch.Generator().manual_seed(0))
    loss = distribution_focal_loss(logits, torch.tensor(target))
    entropy = F.cross_entropy(logits[None], torch.tensor([bin_]))
    assert float(loss) == pytest.approx(float(entropy), abs=5e-3)


def test_class_targets_are_scores_at_their_classes() -> None:
    wanted = class_targets(torch.tensor([[2, 0], [1, 1]]), torch.tensor([[0.5, 1.0], [0.0, 0.25]]), 3)
    assert wanted.tolist() == [[[0, 0, 0.5], [1, 0, 0]], [[0, 0, 0], [0, 0.25, 0]]]
