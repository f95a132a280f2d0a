"""Losses of image-level class heads, per label and without reduction: the head weighs and sums them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def softmax_focal_loss(logits: Tensor, targets: Tensor, gamma: float = 2.0) -> Tensor:
    """Return -(1 - p)^gamma log p (B,), p being the softmax probability of the target.

    Lin et al., arXiv 1708.02002, eq. 4, whose p is a sigmoid's.

    Args:
        logits: (B, K).
        targets: (B,) int64, 0 to K - 1.
        gamma: 0 is the cross-entropy; the more, the less does an image count that is right already.
    """
    log_p = logits.log_softmax(1).gather(1, targets[:, None])[:, 0]
    return -_power(-torch.expm1(log_p), gamma) * log_p


def sigmoid_focal_loss(
    logits: Tensor, targets: Tensor, gamma: float = 2.0, alpha: float | None = None
) -> Tensor:
    """Return the focal loss (...) for targets 0 or 1 (Lin et al., arXiv 1708.02002, eq. 4).

    Args:
        logits: (...).
        targets: (...).
        gamma: 0 is the binary cross-entropy.
        alpha: factor on present labels, and 1 - alpha on absent ones (eq. 5); None for no factors.
    """
    loss = asymmetric_loss(logits, targets, gamma, gamma, margin=0.0)
    return loss if alpha is None else torch.where(targets > 0, alpha, 1 - alpha) * loss


def asymmetric_loss(
    logits: Tensor, targets: Tensor, gamma_neg: float = 4.0, gamma_pos: float = 0.0, margin: float = 0.05
) -> Tensor:
    """Return the asymmetric loss (...) for targets 0 or 1 (Ridnik et al., arXiv 2009.14119, eq. 7).

    -(1 - p)^gamma_pos log p for present labels, -q^gamma_neg log(1 - q) with q = max(p - margin, 0) for
    absent ones: those of a probability below the margin cost nothing.

    Args:
        logits: (...).
        targets: (...).
        gamma_neg: focusing of absent labels.
        gamma_pos: focusing of present labels.
        margin: 0 to below 1.
    """
    # 1 - q = min(1 - p + margin, 1), as logarithms, which stay exact where p is nearly 0 or 1.
    log_margin = logits.new_full((), margin).log()
    log_absent = torch.logaddexp(F.logsigmoid(-logits), log_margin).clamp(max=0)
    absent = -_power(-torch.expm1(log_absent), gamma_neg) * log_absent
    present = -_power((-logits).sigmoid(), gamma_pos) * F.logsigmoid(logits)
    return torch.where(targets > 0, present, absent)


def _power(base: Tensor, exponent: float) -> Tensor:
    """Return base^exponent for a base from 0 on; below an exponent of 1 its slope at 0 stays finite."""
    return base.clamp(min=torch.finfo(base.dtype).tiny) ** exponent
