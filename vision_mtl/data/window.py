"""What a sample shows of its image: the evaluation size, and the window that training draws."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from vision_mtl.data.config import ResizeConfig
from vision_mtl.data.decode import Decoded


def target_size(height: int, width: int, resize: ResizeConfig) -> tuple[int, int]:
    """Return the (height, width) that an image of `height` x `width` pixels gets, at least 1 x 1."""
    factor = min(resize.shorter / min(height, width), resize.longer / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (H, W, 3) uint8 to `size` (height, width): area average when shrinking, else bilinear."""
    if image.shape[:2] == size:
        return image
    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def resize_decoded(decoded: Decoded, resize: ResizeConfig) -> tuple[np.ndarray, tuple[float, float]]:
    """Return an image at the evaluation size, and the (x, y) factors from there to its own pixels."""
    image = resize_image(decoded.pixels, target_size(*decoded.size, resize))
    height, width = decoded.span
    return image, (width / image.shape[1], height / image.shape[0])


@dataclass(frozen=True)
class Window:
    """What `ScaleJitter` shows of an image.

    Attributes:
        crop: (left, top, right, bottom) in the image's own pixels.
        size: (height, width) that the crop is resampled to.
    """

    crop: tuple[int, int, int, int]
    size: tuple[int, int]

    def needs(self, height: int, width: int) -> tuple[int, int]:
        """Return the least (height, width) of the whole image at which the crop is not enlarged."""
        left, top, right, bottom = self.crop
        return -(-height * self.size[0] // (bottom - top)), -(-width * self.size[1] // (right - left))

    def reduced(self, factor: int) -> Window:
        """Return the crop in pixels of an image at 1/`factor`, whole pixels outwards."""
        left, top, right, bottom = self.crop
        return Window((left // factor, top // factor, -(-right // factor), -(-bottom // factor)), self.size)

    def cut(self, image: np.ndarray) -> np.ndarray:
        """Return the crop of (H, W, 3) uint8, resampled."""
        left, top, right, bottom = self.crop
        return resize_image(image[top:bottom, left:right], self.size)

    def move(self, boxes: np.ndarray, size: np.ndarray) -> np.ndarray:
        """Return normalised boxes (N, 4 + columns) of an image in the crop's frame, not clipped.

        `size` is the image's (width, height) in the pixels of `crop`.
        """
        start, stop = np.array(self.crop[:2] * 2), np.array(self.crop[2:] * 2)
        seen = (boxes[:, :4] * np.tile(size, 2) - start) / (stop - start)
        return np.concatenate([seen, boxes[:, 4:]], axis=1)
