"""The convolutions of dense heads, shared by all pyramid levels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn


def convolution(channels: int, out: int, bias: float = 0.0) -> nn.Conv2d:
    """Return a 3x3 convolution initialised as in RetinaNet (Lin et al., arXiv 1708.02002, section 4.1)."""
    layer = nn.Conv2d(channels, out, 3, padding=1)
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.constant_(layer.bias, bias)  # type: ignore[arg-type]
    return layer


class GroupNormTower(nn.Sequential):
    """Convolution, group norm (32 groups) and ReLU, `depth` times; the layout of torchvision's heads."""

    def __init__(self, channels: int, width: int, depth: int) -> None:
        layers: list[nn.Module] = []
        for i in range(depth):
            layers += [convolution(width if i else channels, width), nn.GroupNorm(32, width), nn.ReLU()]
        super().__init__(*layers)

    def forward(self, pyramid: Sequence[Tensor]) -> list[Tensor]:
        """Return a map (B, width, H, W) for each level."""
        return [super(GroupNormTower, self).forward(level) for level in pyramid]


class BatchNormTower(nn.Module):
    """Convolution, batch norm and ReLU, `depth` times; convolutions are shared, statistics are each level's.

    Levels differ in scale, and running statistics shared by all would fit none (Lyu et al., RTMDet, arXiv
    2212.07784, section 3.2: shared weights with separate batch norm).
    """

    def __init__(self, channels: int, width: int, depth: int, levels: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(convolution(width if i else channels, width) for i in range(depth))
        self.norms = nn.ModuleList(
            nn.ModuleList(nn.BatchNorm2d(width) for _ in range(depth)) for _ in range(levels)
        )

    def forward(self, pyramid: Sequence[Tensor]) -> list[Tensor]:
        """Return a map (B, width, H, W) for each level."""
        maps = []
        for level, norms in zip(pyramid, self.norms, strict=True):
            assert isinstance(norms, nn.ModuleList)
            for layer, norm in zip(self.convolutions, norms, strict=True):
                level = torch.relu(norm(layer(level)))
            maps.append(level)
        return maps


def tower(
    channels: int, width: int, depth: int, norm: Literal["group", "batch"], levels: int
) -> GroupNormTower | BatchNormTower:
    """Return `depth` convolutions from `channels` to `width` channels for a pyramid of `levels` levels."""
    if norm == "group":
        return GroupNormTower(channels, width, depth)
    return BatchNormTower(channels, width, depth, levels)


def per_point(levels: Sequence[Tensor]) -> Tensor:
    """Join maps (B, C, H, W) of all levels to (B, P, C) float32."""
    return torch.cat([level.flatten(2) for level in levels], 2).transpose(1, 2).float()
