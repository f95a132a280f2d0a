"""The convolutions of dense heads, shared by all pyramid levels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

# The class logits' first bias: a probability of 0.01 (Lin et al., arXiv 1708.02002, section 4.1).
PRIOR = -math.log((1 - 0.01) / 0.01)


def convolution(channels: int, out: int, bias: float | None = 0.0) -> nn.Conv2d:
    """Return a 3x3 convolution initialised as in RetinaNet (Lin et al., arXiv 1708.02002, section 4.1);
    without a bias if `bias` is None."""
    layer = nn.Conv2d(channels, out, 3, padding=1, bias=bias is not None)
    nn.init.normal_(layer.weight, std=0.01)
    if bias is not None:
        nn.init.constant_(layer.bias, bias)  # type: ignore[arg-type]
    return layer


class GroupNorm(nn.GroupNorm):
    """`nn.GroupNorm`, also where a group has a single value: one image, one channel, a map of 1x1. It gives
    the bias, as each image of a larger batch gets it; `nn.GroupNorm` raises ValueError."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class SharedTower(nn.Sequential):
    """Layers that read every pyramid level alike."""

    def forward(self, pyramid: Sequence[Tensor]) -> list[Tensor]:
        """Return a map (B, width, H, W) for each level."""
        return [super(SharedTower, self).forward(level) for level in pyramid]


def group_norm_tower(channels: int, width: int, depth: int) -> SharedTower:
    """Return convolution, group norm (32 groups) and ReLU, `depth` times; as in torchvision's FCOS."""
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [convolution(width if i else channels, width), GroupNorm(32, width), nn.ReLU()]
    return SharedTower(*layers)


def block_tower(channels: int, depth: int, norm: Literal["none", "group"]) -> SharedTower:
    """Return `depth` blocks of `channels` channels, the layout of torchvision's RetinaNet: convolution with
    a bias and ReLU, or without one, group norm (32 groups) and ReLU."""
    if norm == "none":
        return SharedTower(*(nn.Sequential(convolution(channels, channels), nn.ReLU()) for _ in range(depth)))
    return SharedTower(
        *(
            nn.Sequential(convolution(channels, channels, None), GroupNorm(32, channels), nn.ReLU())
            for _ in range(depth)
        )
    )


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


class LevelTowers(nn.ModuleList):
    """Layers of each pyramid level's own: what a `BatchNormTower` becomes for inference."""

    def forward(self, pyramid: Sequence[Tensor]) -> list[Tensor]:
        """Return a map (B, width, H, W) for each level."""
        return [layers(level) for layers, level in zip(self, pyramid, strict=True)]


def tower(
    channels: int, width: int, depth: int, norm: Literal["group", "batch"], levels: int
) -> SharedTower | BatchNormTower:
    """Return `depth` convolutions from `channels` to `width` channels for a pyramid of `levels` levels."""
    if norm == "group":
        return group_norm_tower(channels, width, depth)
    return BatchNormTower(channels, width, depth, levels)


def per_point(levels: Sequence[Tensor]) -> Tensor:
    """Join maps (B, C, H, W) of all levels to (B, P, C) float32."""
    return torch.cat([level.permute(0, 2, 3, 1).flatten(1, 2) for level in levels], 1).float()
