"""A ResNet-18 with an eighth of the channels, for tests of whole runs whose weights do not matter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from torch import nn
from torchvision.models import resnet


class NarrowResNet(resnet.ResNet):
    def _make_layer(self, block: Any, planes: int, *arguments: Any, **named: Any) -> nn.Sequential:
        return super()._make_layer(block, planes // 8, *arguments, **named)


@contextmanager
def narrow_trunk() -> Iterator[None]:
    """Let `trunk.name: resnet18` be a narrow one: checkpoints have 3 MB in place of 180."""

    def build(weights: None = None, **named: Any) -> NarrowResNet:
        assert weights is None
        return NarrowResNet(resnet.BasicBlock, [2, 2, 2, 2], **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnet, "resnet18", build)
        yield
