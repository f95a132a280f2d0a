"""A trained network made ready to answer: norms folded into convolutions, weights in the working format."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torchvision.ops import FrozenBatchNorm2d

from vision_mtl.heads.dense.towers import BatchNormTower, LevelTowers, SharedTower
from vision_mtl.models.multitask import MultiTaskModel

FIXED = (nn.BatchNorm2d, FrozenBatchNorm2d)  # in evaluation mode, a factor and an offset for each channel


def for_inference(model: MultiTaskModel, dtype: torch.dtype) -> MultiTaskModel:
    """Return a network that answers as `model` does in evaluation mode, up to `dtype`'s rounding, and faster.

    In bf16 it is a copy: batch norms are part of the convolutions, whose weights are in bf16 already, where
    autocast would turn all of them at each pass. In fp32 it is `model` itself, whose answers stay the same to
    the last bit.

    Args:
        model: in evaluation mode.
        dtype: what the forward pass runs in.
    """
    if dtype == torch.float32:
        return model
    copy = fold_norms(model)
    towers = [module for module in copy.modules() if isinstance(module, (LevelTowers, SharedTower))]
    for part in (copy.trunk, *towers):
        for module in part.modules():
            if isinstance(module, nn.Conv2d):
                module.to(dtype)
    return copy


def fold_norms(model: MultiTaskModel) -> MultiTaskModel:
    """Return a copy of which every batch norm that follows a convolution has become part of it.

    Args:
        model: in evaluation mode; the copy cannot be trained.
    """
    assert not model.training
    copy = deepcopy(model).requires_grad_(False)
    for parent in list(copy.modules()):
        for convolution, norm in _pairs(parent):
            setattr(parent, convolution, folded(getattr(parent, convolution), getattr(parent, norm)))
            setattr(parent, norm, nn.Identity())
        for name, child in parent.named_children():
            if isinstance(child, BatchNormTower):
                setattr(parent, name, folded_tower(child))
    return copy


def folded(convolution: nn.Conv2d, norm: nn.BatchNorm2d | FrozenBatchNorm2d) -> nn.Conv2d:
    """Return one convolution that does what `norm(convolution(x))` does in evaluation mode."""
    fused = deepcopy(convolution)
    fused.weight, fused.bias = fuse_conv_bn_weights(
        convolution.weight,
        convolution.bias,
        norm.running_mean,  # type: ignore[arg-type]
        norm.running_var,  # type: ignore[arg-type]
        norm.eps,
        norm.weight,
        norm.bias,
    )
    return fused


def folded_tower(tower: BatchNormTower) -> LevelTowers:
    """Return a tower with convolutions of each level's own, which its norms have become part of."""
    levels = []
    for norms in tower.norms:
        assert isinstance(norms, nn.ModuleList)
        layers: list[nn.Module] = []
        for convolution, norm in zip(tower.convolutions, norms, strict=True):
            layers += [folded(convolution, norm), nn.ReLU(inplace=True)]  # type: ignore[arg-type]
        levels.append(nn.Sequential(*layers))
    return LevelTowers(levels)


def _pairs(parent: nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the names of a module's convolutions and of the fixed norms that read them alone.

    Those are, as torchvision names them, `conv1` and `bn1` and so on, and neighbours in an `nn.Sequential`.
    """
    children = dict(parent.named_children())
    if isinstance(parent, nn.Sequential):
        names = list(children)
        candidates = list(pairwise(names))
    else:
        candidates = [(f"conv{name[2:]}", name) for name in children if name.startswith("bn")]
    for convolution, norm in candidates:
        if isinstance(children.get(convolution), nn.Conv2d) and isinstance(children[norm], FIXED):
            yield convolution, norm
