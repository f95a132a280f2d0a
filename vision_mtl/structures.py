"""The few types that travel between rooms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageMeta:
    """Where an image came from and how to get back to it.

    Attributes:
        image_id: the id in the annotation file; the position in the list at inference.
        path: the file, as text.
        size: original (height, width) in pixels, as a person sees the image (EXIF applied).
        scale: (x, y) factors from network-input pixels back to original pixels.
    """

    image_id: int
    path: str
    size: tuple[int, int]
    scale: tuple[float, float]


@dataclass(frozen=True)
class Batch:
    """What the network reads: B images padded right and bottom, N object slots each.

    Attributes:
        images: (B, 3, H, W) uint8 RGB; H and W are multiples of 32.
        sizes: (B, 2) int64, valid (height, width) of each image.
        boxes: (B, N, 4) float32 xyxy in network-input pixels; zeros in empty slots.
        classes: (B, N) int64, contiguous from 0; -1 in empty slots.
        ignore: (B, N) bool, crowd regions: neither positive nor negative.
        has_boxes: (B,) bool, False where this image's source annotates no boxes.
        labels: head name -> (B,) int64 with -1, (B,) float32 or (B, K) float32 with NaN for unknown.
        metas: one `ImageMeta` per image.
        annotated: (B, K) bool over the detection classes, False where this image's source does not annotate
            the class: an image without its boxes is no negative for it; None where every source annotates all
    """

    images: Tensor
    sizes: Tensor
    boxes: Tensor
    classes: Tensor
    ignore: Tensor
    has_boxes: Tensor
    labels: dict[str, Tensor]
    metas: list[ImageMeta]
    annotated: Tensor | None = None

    def __post_init__(self) -> None:
        count = self.images.shape[0]
        assert self.images.dtype == torch.uint8, self.images.dtype
        assert all(side % 32 == 0 for side in self.images.shape[2:]), self.images.shape
        assert self.sizes.shape == (count, 2), self.sizes.shape
        assert self.boxes.shape == (*self.classes.shape, 4), self.boxes.shape
        assert self.ignore.shape == self.classes.shape, self.ignore.shape
        assert self.has_boxes.shape == (count,)
        assert len(self.metas) == count
        assert all(len(target) == count for target in self.labels.values())
        assert self.annotated is None or len(self.annotated) == count, self.annotated.shape

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with every tensor on `device`, copied without blocking."""
        return self._each(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory; the loader calls this where there is a GPU."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """Return the batch with every tensor changed."""
        tensors: dict[str, Any] = {
            name: change(getattr(self, name))
            for name in ("images", "sizes", "boxes", "classes", "ignore", "has_boxes")
        }
        labels = {name: change(target) for name, target in self.labels.items()}
        annotated = None if self.annotated is None else change(self.annotated)
        return replace(self, **tensors, labels=labels, annotated=annotated)


@dataclass(frozen=True)
class Features:
    """What the trunk gives every head.

    Attributes:
        stages: "c2".."c5" -> (B, C, H/s, W/s).
        pyramid: levels from fine to coarse, each (B, C, H/s, W/s); [] if no head reads them.
        strides: pixels of the network input per cell, one per pyramid level.
        input_size: (H, W) of the padded batch.
        sizes: (B, 2) int64, valid (height, width) of each image.
    """

    stages: dict[str, Tensor]
    pyramid: list[Tensor]
    strides: list[int]
    input_size: tuple[int, int]
    sizes: Tensor


@dataclass(frozen=True)
class Detections:
    """The objects found in one image, best first.

    Attributes:
        boxes: (M, 4) float32 xyxy in original pixels.
        scores: (M,) float32 in [0, 1].
        classes: (M,) int64, contiguous from 0.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor

    def __post_init__(self) -> None:
        assert self.boxes.shape == (len(self.scores), 4), self.boxes.shape
        assert self.classes.shape == self.scores.shape, self.classes.shape


@dataclass(frozen=True)
class ClassScores:
    """One image's class probabilities, (K,) float32: softmax for one label, sigmoid for several."""

    scores: Tensor


@dataclass(frozen=True)
class Scalar:
    """One image's regression answer, in the label's own unit."""

    value: float


Prediction = Detections | ClassScores | Scalar
