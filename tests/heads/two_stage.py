"""A two-stage head on small random features, for its tests."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vision_mtl.heads.base import LabelInfo, TrunkInfo
from vision_mtl.heads.faster_rcnn import FasterRcnnConfig, FasterRcnnHead
from vision_mtl.structures import Batch, Features

LABELS = LabelInfo(("bolt", "nut", "washer"), (3, 7, 21))
STRIDES = (4, 8, 16, 32, 64)
CHANNELS = 16
TRUNK = TrunkInfo({"c5": 24}, CHANNELS, STRIDES)
OBJECTS = [[(0, (8.0, 8, 40, 36)), (2, (50.0, 10, 90, 60))], [(1, (20.0, 16, 60, 50))]]
TERMS = {"objectness", "rpn_box", "class", "box"}


def build_head(**values: Any) -> FasterRcnnHead:
    """Return a head on small anchors whose outputs are not the nearly constant ones of a fresh head."""
    torch.manual_seed(0)
    small = {"anchor_sizes": (8, 16, 32, 64, 128), "proposals": 100, "proposals_train": 200}
    built = FasterRcnnConfig(**{**small, **values}).build(TRUNK, LABELS)
    with torch.no_grad():
        for parameter in built.rpn.parameters():
            if parameter.ndim == 4:
                parameter.normal_(std=0.05)
    return built


def make_features(count: int, size: tuple[int, int] = (64, 96), seed: int = 0) -> Features:
    """Random features of the pyramid that the head asks for, with gradients."""
    generator = torch.Generator().manual_seed(seed)
    pyramid = [
        torch.randn(count, CHANNELS, -(-size[0] // stride), -(-size[1] // stride), generator=generator)
        for stride in STRIDES
    ]
    sizes = torch.tensor([size] * count)
    return Features({}, [level.requires_grad_() for level in pyramid], list(STRIDES), size, sizes)


def loss(head: FasterRcnnHead, features: Features, batch: Batch, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)  # which anchors and proposals are drawn
    terms = head.loss(head(features), features, batch)
    assert set(terms) == TERMS
    assert all(term.shape == () and term.dtype == torch.float32 for term in terms.values())
    return terms


def gradients(head: FasterRcnnHead, features: Features, batch: Batch) -> dict[str, Tensor | None]:
    head.zero_grad()
    torch.stack(list(loss(head, features, batch).values())).sum().backward()
    return {name: parameter.grad for name, parameter in head.named_parameters()}
