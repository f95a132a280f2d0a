"""Images whose boxes are painted, so that a test sees where the pixels of a class went."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vision_mtl.data.annotations import AnnotationIndex
from vision_mtl.data.images import BadImageError, Decoded, Needs

COLOURS = np.array([[250, 20, 20], [20, 250, 20], [20, 20, 250], [250, 250, 20]], np.uint8)


@dataclass(frozen=True)
class PaintedImages:
    """Black images whose boxes have the colour of their class; `bad` positions cannot be read."""

    index: AnnotationIndex
    colours: np.ndarray
    bad: frozenset[int] = frozenset()

    def path(self, position: int) -> str:
        return f"{position}.png"

    def read(self, position: int, needs: Needs | None = None) -> Decoded:
        if position in self.bad:
            raise BadImageError(self.path(position), "is damaged")
        image = np.zeros((*self.index.sizes[position], 3), np.uint8)
        found = self.index.objects(position)
        for (x1, y1, x2, y2), number in zip(found.boxes.astype(int), found.classes, strict=True):
            image[y1:y2, x1:x2] = self.colours[number]
        return Decoded.whole(image)


def area(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)


def inside(image: np.ndarray, box: np.ndarray, margin: int = 0) -> np.ndarray:
    """Return the (n, 3) pixels within a box, less a margin."""
    x1, y1, x2, y2 = box.round().astype(int) + margin * np.array([1, 1, -1, -1])
    return image[y1:y2, x1:x2].reshape(-1, 3)
