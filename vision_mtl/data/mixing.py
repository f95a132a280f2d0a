"""Samples composed of several images: mosaic and mixup.

Both work on augmented images and may hide or add what a label speaks of, so the dataset computes labels
again from the objects returned here and masks those of the whole image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from vision_mtl.data.annotations import Objects
from vision_mtl.data.config import MixConfig

Picture = tuple[np.ndarray, Objects]  # (H, W, 3) uint8, and the objects in its pixels

FILL = (124, 116, 104)  # RGB mean of ImageNet: zero after normalisation, like the padding of a batch
CENTRE = (0.2, 0.8)  # where the four images of a mosaic meet, as shares of its sides; as in YOLOv4's code


@dataclass(frozen=True)
class Mixing:
    """Mosaic and mixup with their probabilities, until they are switched off.

    Attributes:
        config: the probabilities.
        stop: the first epoch without either, counted from 0.
        min_visibility: boxes of which less than this share of area is left are dropped.
    """

    config: MixConfig
    stop: int
    min_visibility: float

    def __call__(
        self,
        picture: Picture,
        partner: Callable[[int], Picture],
        size: tuple[int, int],
        epoch: int,
        generator: np.random.Generator,
    ) -> Picture:
        """Mix a picture with others; return `picture` itself where neither mosaic nor mixup was drawn.

        Args:
            picture: the augmented image that the sample is named after.
            partner: number (1 to 4) -> another augmented image.
            size: (height, width) of a mosaic.
            epoch: counted from 0.
            generator: what all draws are made from.
        """
        if epoch >= self.stop:
            return picture
        if generator.random() < self.config.mosaic:
            tiles = [picture, partner(1), partner(2), partner(3)]
            picture = mosaic(tiles, size, self.min_visibility, generator)
        if generator.random() < self.config.mixup:
            weight = generator.beta(self.config.mixup_beta, self.config.mixup_beta)
            picture = mixup(picture, partner(4), weight, self.min_visibility, generator)
        return picture


def mosaic(
    tiles: Sequence[Picture], size: tuple[int, int], min_visibility: float, generator: np.random.Generator
) -> Picture:
    """Compose four pictures around a random centre (Bochkovskiy et al., YOLOv4, arXiv 2004.10934).

    The tiles keep their scale: of a larger one a random window is shown, a smaller one touches the centre.

    Args:
        tiles: for the quadrants top left, top right, bottom left, bottom right.
        size: (height, width) of the result.
        min_visibility: boxes of which less than this share of area is left are dropped.
        generator: decides the centre and the windows.
    """
    height, width = size
    canvas = np.full((height, width, 3), FILL, np.uint8)
    middle, centre = (round(side * generator.uniform(*CENTRE)) for side in size)
    found = []
    for k, tile in enumerate(tiles):
        below, right = divmod(k, 2)
        room = (height - middle if below else middle, width - centre if right else centre)
        image, objects = random_crop(tile, room, min_visibility, generator)
        rows, columns = image.shape[:2]
        top = middle if below else middle - rows
        left = centre if right else centre - columns
        canvas[top : top + rows, left : left + columns] = image
        found.append(_moved(objects, left, top))
    return canvas, _joined(found)


def mixup(
    first: Picture, second: Picture, weight: float, min_visibility: float, generator: np.random.Generator
) -> Picture:
    """Blend a second picture into the first and keep the boxes of both.

    Zhang et al., arXiv 1710.09412; for detection, where scale and aspect are kept: Zhang et al., "Bag of
    Freebies", arXiv 1902.04103. The result has the first one's size. Of a larger second one a random window
    is blended in; a smaller one lies anywhere, and around it the first one is left as it was.

    Args:
        first: the picture that gives the size.
        second: the other one.
        weight: of the first picture's pixels, 0 to 1.
        min_visibility: boxes of which the window leaves less than this share of area are dropped.
        generator: decides window and place.
    """
    mixed, objects = first[0].copy(), first[1]
    image, others = random_crop(second, mixed.shape[:2], min_visibility, generator)
    rows, columns = image.shape[:2]
    top = int(generator.integers(mixed.shape[0] - rows + 1))
    left = int(generator.integers(mixed.shape[1] - columns + 1))
    window = mixed[top : top + rows, left : left + columns]
    window[:] = cv2.addWeighted(window, weight, image, 1 - weight, 0)
    return mixed, _joined([objects, _moved(others, left, top)])


def random_crop(
    picture: Picture, size: tuple[int, ...], min_visibility: float, generator: np.random.Generator
) -> Picture:
    """Cut a random window of at most `size` (height, width), which may be 0.

    Boxes are clipped; those left with less than `min_visibility` of their area, or thinner than a pixel, are
    dropped.
    """
    image, objects = picture
    height, width = (min(side, most) for side, most in zip(image.shape[:2], size, strict=True))
    top = int(generator.integers(image.shape[0] - height + 1))
    left = int(generator.integers(image.shape[1] - width + 1))
    moved = _moved(objects, -left, -top).boxes
    boxes = moved.clip(0, np.array([width, height] * 2, np.float32))
    sides = boxes[:, 2:] - boxes[:, :2]
    areas = (moved[:, 2:] - moved[:, :2]).prod(axis=1)
    kept = (sides >= 1).all(axis=1) & (sides.prod(axis=1) >= min_visibility * areas)
    window = image[top : top + height, left : left + width]
    return window, Objects(boxes[kept], objects.classes[kept], objects.crowd[kept])


def _moved(objects: Objects, x: int, y: int) -> Objects:
    return Objects(objects.boxes + np.array([x, y] * 2, np.float32), objects.classes, objects.crowd)


def _joined(parts: Sequence[Objects]) -> Objects:
    return Objects(
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.classes for part in parts]),
        np.concatenate([part.crowd for part in parts]),
    )
