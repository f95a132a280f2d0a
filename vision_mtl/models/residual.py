"""torchvision's residual blocks, run so that norms whose statistics stay cost nothing."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import FrozenBatchNorm2d


def residual(block: BasicBlock | Bottleneck, x: Tensor) -> Tensor:
    """Return what `block` makes of (B, C, H, W), as calling it does (He et al., arXiv 1512.03385, fig. 5)."""
    shortcut = x
    if block.downsample is not None:
        shortcut = normed(block.downsample[0], block.downsample[1], x)
    x = F.relu(normed(block.conv1, block.bn1, x), inplace=True)
    x = normed(block.conv2, block.bn2, x)
    if isinstance(block, Bottleneck):
        x = normed(block.conv3, block.bn3, F.relu(x, inplace=True))
    return F.relu(x + shortcut, inplace=True)


def normed(convolution: nn.Conv2d, norm: nn.Module, x: Tensor) -> Tensor:
    """Return `norm(convolution(x))`.

    In mixed precision a frozen norm, a factor and an offset for each channel, becomes part of the
    convolution: by itself it would read and write every activation once more, and turn it to fp32.
    """
    if not (isinstance(norm, FrozenBatchNorm2d) and torch.is_autocast_enabled(x.device.type)):
        return norm(convolution(x))
    frozen = cast(FrozenBatchNorm2d, norm)
    factor = frozen.weight * (frozen.running_var + frozen.eps).rsqrt()
    return F.conv2d(
        x,
        convolution.weight * factor[:, None, None, None],
        frozen.bias - frozen.running_mean * factor,
        convolution.stride,
        convolution.padding,
        convolution.dilation,
        convolution.groups,
    )
