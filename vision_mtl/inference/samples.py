"""What is to be answered, files or pixels, to samples as at evaluation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from vision_mtl.data.annotations import Objects
from vision_mtl.data.config import ResizeConfig
from vision_mtl.data.dataset import Sample
from vision_mtl.data.images import BadImageError, Decoded, read_reduced
from vision_mtl.data.window import resize_decoded, target_size
from vision_mtl.errors import DataError
from vision_mtl.structures import ImageMeta

Image = str | os.PathLike[str] | np.ndarray | Tensor
"""A file; (H, W, 3) uint8 RGB; or (3, H, W) RGB, uint8 or floats from 0 to 1."""


@dataclass(frozen=True)
class Reader:
    """Images to samples without labels.

    Attributes:
        resize: network-input size.
        max_pixels: larger files are not read.
        reduced: decode at reduced scale what is shrunk to half its size or less.
    """

    resize: ResizeConfig
    max_pixels: int
    reduced: bool

    def sample(self, image: Image, position: int) -> Sample | BadImageError:
        """Return image `position` as a sample, or why its file cannot be read.

        Raises:
            DataError: it is neither a file nor of the documented shapes and types.
        """
        if isinstance(image, (str, os.PathLike)):
            path = os.fspath(image)
            needs = partial(target_size, resize=self.resize) if self.reduced else None
            try:
                decoded = read_reduced(path, needs, self.max_pixels)
            except BadImageError as error:
                return error
        else:
            path = f"images[{position}]"
            decoded = Decoded.whole(pixels_of(image, path))
        resized, scale = resize_decoded(decoded, self.resize)
        nothing = Objects(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))
        meta = ImageMeta(image_id=position, path=path, size=decoded.size, scale=scale)
        return Sample(resized, nothing, has_boxes=False, labels={}, meta=meta)


@dataclass(frozen=True)
class Chunks(torch.utils.data.Dataset):
    """Neighbouring images as lists of samples: one errand of a loader process costs as much as a small image.

    Attributes:
        images: what to read.
        reader: how.
        size: images in a list; the last one may be shorter.
    """

    images: Sequence[Image]
    reader: Reader
    size: int

    def __len__(self) -> int:
        return -(-len(self.images) // self.size)

    def __getitem__(self, i: int) -> list[Sample | BadImageError]:
        if i >= len(self):
            raise IndexError(i)
        start = i * self.size
        return [
            self.reader.sample(image, start + k)
            for k, image in enumerate(self.images[start : start + self.size])
        ]


def pixels_of(image: np.ndarray | Tensor, place: str) -> np.ndarray:
    """Return an array or tensor as (H, W, 3) uint8 RGB; an array as it is.

    Raises:
        DataError: of another shape or type, or floats that are not from 0 to 1.
    """
    if isinstance(image, Tensor):
        expected = "a tensor (3, H, W), uint8 or floats from 0 to 1, RGB"
        pixels = image.detach().cpu()
        if pixels.ndim != 3 or pixels.shape[0] != 3 or 0 in pixels.shape:
            raise DataError(f"{place}: found a tensor {tuple(image.shape)}, expected {expected}")
        if pixels.is_floating_point():
            low, high = float(pixels.min()), float(pixels.max())
            if not 0 <= low <= high <= 1:  # False for NaN too
                raise DataError(f"{place}: found a tensor from {low:g} to {high:g}, expected {expected}")
            pixels = (pixels.float() * 255).round().to(torch.uint8)
        elif pixels.dtype != torch.uint8:
            raise DataError(f"{place}: found a tensor of {pixels.dtype}, expected {expected}")
        return np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
    if not isinstance(image, np.ndarray):
        raise DataError(
            f"{place}: found {type(image).__name__}, expected a path, an array (H, W, 3) uint8 RGB or a "
            "tensor (3, H, W)"
        )
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape or image.dtype != np.uint8:
        raise DataError(
            f"{place}: found an array {image.shape} of {image.dtype}, expected (H, W, 3) uint8 RGB"
        )
    return np.ascontiguousarray(image)
