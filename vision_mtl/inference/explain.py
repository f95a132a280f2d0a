"""How much each place of an image adds to an answer.

A head is a function of feature maps A. A cell's part in one of its scores s is the sum over channels of
ds/dA * A in that cell. For image-level heads, on the very features that they read, this is HiResCAM (Draelos
and Carin, arXiv 2011.08891); for a linear layer after mean pooling it is CAM itself (Zhou et al., arXiv
1512.04150), and all parts add up to the score without its bias. Grad-CAM (Selvaraju et al., arXiv 1610.02391,
eq. 1 and 2) averages the gradient over the cells first, and so can point at places that added nothing. The
sum is exact wherever the head, its biases apart, scales with A: for the mean, the generalised mean, the
strongest cell, ReLU. For a softmax over the cells, a detector's clamped evidence and group norm it is an
approximation of first order.

For a box, s is the logit of its class where the box came from, and A are the levels of the pyramid: the
gradient-weighted maps of ODAM (Zhao and Chan, ICLR 2023, arXiv 2304.06354), without smoothing. That is one
backward pass of the head for each box; D-RISE (Petsiuk et al., arXiv 2006.03204) asks for thousands of
forward passes of the whole network. What changes a box's score beside its class logit, quality and context,
is not explained.

Maps are as fine as the features. What a cell itself saw of the image, its receptive field, is wider.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from vision_mtl.heads.pooling import STAGE_STRIDES
from vision_mtl.models.multitask import MultiTaskModel
from vision_mtl.models.precision import mixed_precision
from vision_mtl.structures import Features


@dataclass(frozen=True)
class CellMap:
    """What the cells of one feature map add to a score.

    Attributes:
        values: (rows, columns) float32, of the cells that see a valid pixel.
        stride: pixels of the network input per cell.
    """

    values: np.ndarray
    stride: int


@dataclass(frozen=True)
class Explanation:
    """One score and what adds to it, place by place.

    Attributes:
        score: the logit, or the number that a regression head answers with.
        maps: one for each feature map that the score depends on.
        size: valid (height, width) of the image in network-input pixels.
    """

    score: float
    maps: list[CellMap]
    size: tuple[int, int]

    @property
    def total(self) -> float:
        """What all places add together; the rest of the score is of no place."""
        return float(sum(cells.values.sum(dtype=np.float64) for cells in self.maps))

    def heat(self, size: tuple[int, int]) -> np.ndarray:
        """Return the map in the frame of an image of `size` (height, width), float32: what each pixel of the
        network input there adds, each cell spread evenly over its pixels and smoothed in between."""
        height, width = self.size
        pixels = np.zeros(self.size, np.float32)
        for cells in self.maps:
            rows, columns = cells.values.shape
            grown = cv2.resize(cells.values, (columns * cells.stride, rows * cells.stride))  # bilinear
            pixels += grown[:height, :width] / cells.stride**2
        return cv2.resize(pixels, size[::-1])


def explainable_features(
    model: MultiTaskModel, images: Tensor, sizes: Tensor, dtype: torch.dtype
) -> Features:
    """Return the features of one image, which scores can be traced back to.

    Args:
        model: in evaluation mode, not compiled.
        images: (1, 3, H, W) uint8, padded, on the model's device.
        sizes: (1, 2) its valid (height, width).
        dtype: what the forward pass runs in.
    """
    with torch.no_grad(), mixed_precision(images.device, dtype):
        features = model.trunk(images, sizes)
    return replace(
        features,
        stages={name: stage.detach().requires_grad_() for name, stage in features.stages.items()},
        pyramid=[level.detach().requires_grad_() for level in features.pyramid],
    )


def image_scores(model: MultiTaskModel, head: str, features: Features, dtype: torch.dtype) -> Tensor:
    """Return the scores of an image-level head: (K,) logits, or (1,) the number in the label's own unit.

    Where the head reads a detection head's evidence, that is traced back too.
    """
    heads = model.named_heads()
    asked = heads[head]
    with torch.enable_grad(), mixed_precision(features.sizes.device, dtype):
        if head in model.sources:
            source = heads[model.sources[head]]
            outputs = asked(features, source.evidence(source(features), features))
        else:
            outputs = asked(features)
        return outputs[0] if outputs.dim() == 2 else asked.decode(outputs, features)


def detection_scores(
    model: MultiTaskModel,
    head: str,
    features: Features,
    boxes: Tensor,
    classes: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """Return (M,) the class logits behind boxes (M, 4), in network-input pixels, of `classes` (M,)."""
    asked = model.named_heads()[head]
    with torch.enable_grad(), mixed_precision(features.sizes.device, dtype):
        return asked.detection_logits(asked(features), features, boxes, classes)


def explain(score: Tensor, features: Features) -> Explanation:
    """Return what each place adds to a score (), computed from `explainable_features`; no gradient stays."""
    maps = [(features.stages[name], stride) for name, stride in STAGE_STRIDES.items()]
    maps += zip(features.pyramid, features.strides, strict=True)
    gradients = torch.autograd.grad(score, [cells for cells, _ in maps], retain_graph=True, allow_unused=True)
    height, width = features.sizes[0].tolist()
    found = []
    for (cells, stride), gradient in zip(maps, gradients, strict=True):
        if gradient is None:
            continue
        parts = (gradient.float() * cells.detach().float()).sum(1)[0]
        seen = parts[: -(-height // stride), : -(-width // stride)]
        found.append(CellMap(np.ascontiguousarray(seen.cpu().numpy()), stride))
    return Explanation(float(score.detach()), found, (height, width))
