"""Losses of image-level class heads, by hand and against torch and torchvision."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision import ops

from vision_mtl.heads.image_losses import asymmetric_loss, sigmoid_focal_loss, softmax_focal_loss


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def random_labels(images: int, classes: int) -> tuple[Tensor, Tensor]:
    """Logits (B, K) float64 with gradients, and targets of 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(images, classes, generator=generator, dtype=torch.float64) * 5
    targets = torch.randint(0, 2, (images, classes), generator=generator).double()
    return logits.requires_grad_(), targets


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_softmax_focal_loss_by_hand(gamma: float) -> None:
    logits = torch.tensor([[0.0, math.log(2), math.log(5)]] * 3)  # probabilities 1/8, 2/8, 5/8
    expected = [-((1 - p) ** gamma) * math.log(p) for p in (0.625, 0.125, 0.25)]
    found = softmax_focal_loss(logits, torch.tensor([2, 0, 1]), gamma)
    torch.testing.assert_close(found, torch.tensor(expected))


def test_softmax_focal_loss_without_focus_is_the_cross_entropy() -> None:
    logits, _ = random_labels(20, 5)
    targets = torch.arange(20) % 5
    expected = F.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(softmax_focal_loss(logits, targets, 0.0), expected)


@pytest.mark.parametrize("alpha", [None, 0.25, 0.75])
@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
def test_sigmoid_focal_loss_and_its_gradient_equal_torchvisions(alpha: float | None, gamma: float) -> None:
    logits, targets = random_labels(50, 4)
    expected = ops.sigmoid_focal_loss(logits, targets, -1 if alpha is None else alpha, gamma)
    found = sigmoid_focal_loss(logits, targets, gamma, alpha)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(loss.sum(), logits)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_asymmetric_loss_by_hand() -> None:
    present, absent = torch.tensor(1.0), torch.tensor(0.0)
    at = torch.tensor([logit(0.5), logit(0.8)], dtype=torch.float64)
    # The paper's defaults: positives not focused, negatives by 4 after a shift of 0.05.
    assert float(asymmetric_loss(at[0], present)) == pytest.approx(math.log(2))
    assert float(asymmetric_loss(at[0], absent)) == pytest.approx(-(0.45**4) * math.log(0.55))
    assert float(asymmetric_loss(at[1], absent)) == pytest.approx(-(0.75**4) * math.log(0.25))
    found = asymmetric_loss(at[1], present, gamma_neg=1.0, gamma_pos=2.0, margin=0.3)
    assert float(found) == pytest.approx(-(0.2**2) * math.log(0.8))
    found = asymmetric_loss(at[1], absent, gamma_neg=1.0, gamma_pos=2.0, margin=0.3)
    assert float(found) == pytest.approx(-0.5 * math.log(0.5))


def test_asymmetric_loss_equals_its_formula() -> None:
    logits, targets = random_labels(50, 4)
    p = logits.sigmoid()
    shifted = (p - 0.1).clamp(min=0)
    expected = -targets * (1 - p) * p.log() - (1 - targets) * shifted**3 * (1 - shifted).log()
    found = asymmetric_loss(logits, targets, gamma_neg=3.0, gamma_pos=1.0, margin=0.1)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(loss.sum(), logits)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_asymmetric_loss_without_its_parts_is_binary_cross_entropy() -> None:
    logits, targets = random_labels(50, 4)
    expected = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    torch.testing.assert_close(asymmetric_loss(logits, targets, 0.0, 0.0, 0.0), expected)


@pytest.mark.parametrize("gamma_neg", [0.0, 0.5, 4.0])
def test_absent_labels_below_the_margin_cost_and_teach_nothing(gamma_neg: float) -> None:
    logits = torch.tensor([-50.0, logit(0.01), logit(0.04), logit(0.06)], requires_grad=True)
    loss = asymmetric_loss(logits, torch.zeros(4), gamma_neg, margin=0.05)
    loss.sum().backward()
    assert logits.grad is not None
    assert loss[:3].tolist() == [0, 0, 0]
    assert logits.grad[:3].tolist() == [0, 0, 0]
    assert loss[3] > 0
    assert logits.grad[3] > 0


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("margin", [0.0, 0.05])
def test_losses_are_finite_however_sure_the_answer(gamma: float, margin: float) -> None:
    sure = torch.tensor([-1e4, -200.0, -90.0, -20.0, 20.0, 90.0, 200.0, 1e4])
    logits = torch.stack([sure, torch.zeros(8)], 1).requires_grad_()
    for target in (0, 1):
        labels = torch.full((8, 2), float(target))
        for loss in (
            softmax_focal_loss(logits, torch.full((8,), target), gamma),
            asymmetric_loss(logits, labels, gamma, gamma, margin),
        ):
            assert loss.isfinite().all()
            assert (loss >= 0).all()
            (gradient,) = torch.autograd.grad(loss.sum(), logits)
            assert gradient.isfinite().all()
