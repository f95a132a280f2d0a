"""What a dense head sees of each class anywhere in an image, for heads that answer for all of it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vision_mtl.heads.pooling import cell_weights
from vision_mtl.structures import Features

LIMIT = 8.0  # a probability of 0.9997: what a logit says beyond is how long the head was trained


def class_evidence(logits: Tensor, shapes: Sequence[tuple[int, int]], features: Features) -> Tensor:
    """Return (B, K) float32: each class's highest logit in the cells that see a valid pixel of the image.

    It is clamped to +-`LIMIT`.

    Args:
        logits: (B, P, K), the same number for each cell of the pyramid, cell by cell, fine to coarse.
        shapes: (height, width) of each level, in cells.
        features: whose strides and valid sizes say which cells are padding.
    """
    inside = torch.cat(
        [
            cell_weights(features.sizes, height, width, stride) > 0
            for (height, width), stride in zip(shapes, features.strides, strict=True)
        ],
        1,
    )
    highest = logits.unflatten(1, (inside.shape[1], -1)).amax(2)
    return highest.masked_fill(~inside[..., None], -torch.inf).amax(1).clamp(-LIMIT, LIMIT)
