"""Feature maps to one answer per image, counting only cells that see the image and not its padding."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from vision_mtl.structures import Features

FeatureName = Literal["c3", "c4", "c5", "pyramid"]
STAGE_STRIDES = {"c3": 8, "c4": 16, "c5": 32}


def feature_channels(name: FeatureName, stages: dict[str, int], pyramid: int) -> int:
    """Return the channels of the named features."""
    return pyramid if name == "pyramid" else stages[name]


def cell_weights(sizes: Tensor, height: int, width: int, stride: int) -> Tensor:
    """Return (B, height * width) weights that are equal on the cells that see a valid pixel and sum to 1."""
    rows = torch.arange(height, device=sizes.device) * stride < sizes[:, :1]
    columns = torch.arange(width, device=sizes.device) * stride < sizes[:, 1:]
    inside = (rows[:, :, None] & columns[:, None, :]).flatten(1).float()
    return inside / inside.sum(1, keepdim=True)


def flat_cells(features: Features, name: FeatureName) -> tuple[Tensor, Tensor]:
    """Return the named features as (B, cells, C) and weights (B, cells) that sum to 1.

    The levels of a pyramid weigh the same, whatever their number of cells. Cells of padding weigh 0.
    In channels-last memory this is the order in which features lie, so that one map is not even copied.
    """
    if name == "pyramid":
        levels, strides = features.pyramid, features.strides
    else:
        levels, strides = [features.stages[name]], [STAGE_STRIDES[name]]
    weights = [
        cell_weights(features.sizes, level.shape[2], level.shape[3], stride) / len(levels)
        for level, stride in zip(levels, strides, strict=True)
    ]
    cells = [level.permute(0, 2, 3, 1).flatten(1, 2) for level in levels]
    return (torch.cat(cells, 1), torch.cat(weights, 1)) if len(levels) > 1 else (cells[0], weights[0])


class PooledLogits(nn.Module):
    """Features to (B, out) logits.

    Args:
        channels: of the features.
        out: logits.
        pool: `avg`; `gem`, the generalised mean with a learned exponent (Radenovic et al., arXiv
            1711.02512, eq. 3); or `attention`, class-specific residual attention (Zhu and Wu, arXiv
            2108.02456, eq. 1 to 4 with one head): a class's logit is the mean of its score map plus a
            share of the mean under its softmax, so small objects count.
        hidden: width of a hidden layer before the logits; 0 for none.
        dropout: probability, before the last layer.
        attention_share: lambda in eq. 4.
        attention_temperature: T in eq. 1; None for its limit, the maximum of the score map.
    """

    def __init__(
        self,
        channels: int,
        out: int,
        pool: Literal["avg", "gem", "attention"],
        hidden: int = 0,
        dropout: float = 0.0,
        attention_share: float = 0.3,
        attention_temperature: float | None = None,
    ) -> None:
        super().__init__()
        self.pool = pool
        self.attention_share, self.attention_temperature = attention_share, attention_temperature
        self.hidden = nn.Linear(channels, hidden) if hidden else None
        self.dropout = nn.Dropout(dropout)
        self.logits = nn.Linear(hidden or channels, out)
        nn.init.normal_(self.logits.weight, std=0.01)
        nn.init.zeros_(self.logits.bias)
        if pool == "gem":
            self.exponent = nn.Parameter(torch.tensor(3.0))

    def forward(self, cells: Tensor, weights: Tensor) -> Tensor:
        """Pool (B, cells, C) with weights (B, cells) that sum to 1, 0 on padding."""
        if self.pool == "attention":
            scores = self.logits(self.dropout(self._hidden(cells))).float()  # (B, cells, out)
            mean = (scores * weights[:, :, None]).sum(1)
            return mean + self.attention_share * self._attended(scores, weights)
        if self.pool == "gem":
            powers = cells.float().clamp(min=1e-6) ** self.exponent
            # A channel that is 0 everywhere underflows from an exponent of 7 on; its root has no gradient.
            mean = (powers * weights[:, :, None]).sum(1).clamp(min=torch.finfo(torch.float32).tiny)
            pooled = mean ** (1 / self.exponent)
        else:
            pooled = (cells.float() * weights[:, :, None]).sum(1)
        return self.logits(self.dropout(self._hidden(pooled))).float()

    def _attended(self, scores: Tensor, weights: Tensor) -> Tensor:
        """Return (B, out), the mean of the scores (B, cells, out) under the softmax of each class's own."""
        if self.attention_temperature is None:
            return scores.masked_fill(weights[:, :, None] == 0, -torch.inf).amax(1)
        # A cell counts as much as it weighs: padding not at all, and a level of a pyramid as any other.
        attention = (self.attention_temperature * scores + weights.log()[:, :, None]).softmax(1)
        return (attention * scores).sum(1)

    def _hidden(self, x: Tensor) -> Tensor:
        return x if self.hidden is None else torch.relu(self.hidden(x))
