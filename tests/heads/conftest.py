"""Batches and features made by hand, for all heads' tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch

from vision_mtl.heads.base import TrunkInfo
from vision_mtl.structures import Batch, Features, ImageMeta

STRIDES = (8, 16, 32)
CHANNELS = 32
STAGES = {"c2": 8, "c3": 12, "c4": 16, "c5": 24}

Object = tuple[int, Sequence[float]]  # class, xyxy box
MakeBatch = Callable[..., Batch]
MakeFeatures = Callable[..., Features]


@pytest.fixture
def trunk_info() -> TrunkInfo:
    """What `make_features` gives, in a trunk's words."""
    return TrunkInfo(STAGES, CHANNELS, STRIDES)


@pytest.fixture
def make_batch() -> MakeBatch:
    """A function from objects per image to a batch: `crowds` per image, `slots` for padding."""

    def make(
        objects: Sequence[Sequence[Object]],
        crowds: Sequence[Sequence[Object]] | None = None,
        size: tuple[int, int] = (64, 96),
        slots: int | None = None,
        has_boxes: Sequence[bool] | None = None,
        labels: dict[str, torch.Tensor] | None = None,
    ) -> Batch:
        count = len(objects)
        crowds = crowds or [[] for _ in objects]
        rows = [[*plain, *crowd] for plain, crowd in zip(objects, crowds, strict=True)]
        width = max(len(row) for row in rows) if slots is None else slots
        boxes, classes = torch.zeros(count, width, 4), torch.full((count, width), -1)
        ignore = torch.zeros(count, width, dtype=torch.bool)
        for i, row in enumerate(rows):
            for j, (label, box) in enumerate(row):
                boxes[i, j], classes[i, j] = torch.tensor(box), label
                ignore[i, j] = j >= len(objects[i])
        return Batch(
            images=torch.zeros(count, 3, *size, dtype=torch.uint8),
            sizes=torch.tensor([size] * count),
            boxes=boxes,
            classes=classes,
            ignore=ignore,
            has_boxes=torch.tensor(has_boxes if has_boxes is not None else [True] * count),
            labels=labels or {},
            metas=[ImageMeta(i, f"{i}.png", size, (1.0, 1.0)) for i in range(count)],
        )

    return make


@pytest.fixture
def make_features() -> MakeFeatures:
    """A function from an image count and an input size to random features with gradients."""

    def make(count: int, size: tuple[int, int] = (64, 96), seed: int = 0) -> Features:
        generator = torch.Generator().manual_seed(seed)

        def level(channels: int, stride: int) -> torch.Tensor:
            cells = (size[0] // stride, size[1] // stride)
            return torch.randn(count, channels, *cells, generator=generator).requires_grad_()

        return Features(
            stages={name: level(STAGES[name], 2**i) for i, name in enumerate(STAGES, 2)},
            pyramid=[level(CHANNELS, stride) for stride in STRIDES],
            strides=list(STRIDES),
            input_size=size,
            sizes=torch.tensor([size] * count),
        )

    return make
