"""The objects of the embedded data set: their outlines, the pixels that they cover, and their paint."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from vision_mtl.data.shapes_colors import Array, gray, hsv, mix, pixel_axes

Outline = list[Array]
"""Closed contours (P, 2) of x, y; a second contour cuts a hole."""

SUPERSAMPLING = 2
SHADOW_REACH = 12  # pixels a drop shadow spreads beyond its object


def _polar(radii: list[float], points: int) -> Array:
    """Contour (points, 2) around the origin whose radius cycles through `radii`."""
    angle = np.arange(points) * (2 * np.pi / points) - np.pi / 2
    radius = np.resize(np.asarray(radii), points)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)


def _crescent() -> Array:
    """A unit disc without the disc of radius 0.75 around (0.5, 0)."""
    outer, inner = np.arccos(0.6875), np.arctan2(np.sqrt(1 - 0.6875**2), 0.1875)
    a, b = np.linspace(outer, 2 * np.pi - outer, 48), np.linspace(2 * np.pi - inner, inner, 32)
    back = np.stack([0.5 + 0.75 * np.cos(b), 0.75 * np.sin(b)], axis=1)
    return np.concatenate([np.stack([np.cos(a), np.sin(a)], axis=1), back]).astype(np.float32)


def _cross() -> Array:
    arm = 0.36
    corner = [[arm, -1], [arm, -arm], [1, -arm]]
    quarter = np.array([[0, -1], [1, 0]])
    turned = [np.asarray(corner) @ np.linalg.matrix_power(quarter, k).T for k in range(4)]
    return np.concatenate(turned).astype(np.float32)


_OUTLINES: dict[str, Outline] = {
    "ring": [_polar([1], 64), _polar([0.52], 64)],
    "triangle": [_polar([1], 3)],
    "square": [_polar([1], 4)],
    "star": [_polar([1, 0.45], 10)],
    "cross": [_cross()],
    "crescent": [_crescent()],
}
SHAPES: tuple[str, ...] = tuple(_OUTLINES)


def outline(shape: str, center: tuple[float, float], size: float, angle: float, squash: float) -> Outline:
    """Contours of `shape` in pixels: squashed in height, then rotated by `angle` radians.

    The longer side of its bounding box is exactly `size`, and the box is centred on `center` (x, y).
    """
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, sin], [-sin, cos]]) * np.array([[1], [squash]])
    contours = [contour @ turn for contour in _OUTLINES[shape]]
    low, high = contours[0].min(axis=0), contours[0].max(axis=0)
    scale = size / (high - low).max()
    return [((c - (low + high) / 2) * scale + center).astype(np.float32) for c in contours]


def outline_area(contours: Outline) -> float:
    """Area in pixels inside the first contour and outside the others."""
    outer, *holes = (float(cv2.contourArea(contour)) for contour in contours)
    return outer - sum(holes)


def _raster(contours: Outline, height: int, width: int, rim: float = 0) -> Array:
    """Coverage in [0, 1] (H, W) of the filled outline, or of its stroke when `rim` (pixels) is positive."""
    canvas = np.zeros((height * SUPERSAMPLING, width * SUPERSAMPLING), np.uint8)
    # Sixteenths of a pixel (shift=4); the half pixel moves pixel corners to OpenCV's pixel centres.
    points = [np.rint((c * SUPERSAMPLING - 0.5) * 16).astype(np.int32) for c in contours]
    if rim:
        thickness = max(1, round(2 * rim * SUPERSAMPLING))
        cv2.polylines(canvas, points, True, 255, thickness, cv2.LINE_AA, 4)
    else:
        cv2.fillPoly(canvas, points, 255, cv2.LINE_AA, 4)
    small = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) / 255


def covered(contours: Outline, height: int, width: int) -> NDArray[np.bool_]:
    """The pixels (H, W) of which the outline covers at least half."""
    return _raster(contours, height, width) >= 0.5


def _pattern(rng: np.random.Generator, u: Array, v: Array) -> Array:
    """One of plain, gradient, stripes, dots, checks: (H, W) in [0, 1], of coordinates in about [-1, 1]."""
    kind, frequency = rng.integers(5), rng.uniform(7, 14)
    waves: list[Callable[[], Array]] = [
        lambda: np.zeros_like(u),
        lambda: 0.5 + 0.5 * u,
        lambda: 0.5 + 2 * np.sin(frequency * u),
        lambda: 0.5 + 4 * (np.cos(frequency * u) * np.cos(frequency * v) - 0.5),
        lambda: 0.5 + 3 * np.sin(frequency * u / 1.5) * np.sin(frequency * v / 1.5),
    ]
    return np.clip(waves[kind](), 0, 1)


def paint(rng: np.random.Generator, image: Array, contours: Outline) -> None:
    """Draw one object into `image` (H, W, 3) in place: soft shadow, patterned fill, shading, rim."""
    low, high = contours[0].min(axis=0), contours[0].max(axis=0)
    size = float((high - low).max())
    x0, y0 = np.maximum(np.floor(low).astype(int) - SHADOW_REACH, 0)
    x1, y1 = np.ceil(high).astype(int) + SHADOW_REACH
    view = image[y0:y1, x0:x1]
    height, width = view.shape[:2]
    local = [contour - np.array([x0, y0], np.float32) for contour in contours]
    alpha = _raster(local, height, width)

    offset = np.array(rng.uniform(1, 4, 2), np.float32)
    shadow = cv2.GaussianBlur(_raster([c + offset for c in local], height, width), (0, 0), 2.5)
    view *= gray(1 - 0.5 * shadow)

    cx, cy = ((low + high) / 2 - (x0, y0)).astype(np.float32)
    y, x = pixel_axes(height, width)
    x, y = (x - cx) * (2 / size), (y - cy) * (2 / size)
    turn = rng.uniform(0, np.pi)
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    pattern = _pattern(rng, cos * x + sin * y, cos * y - sin * x)

    hue, saturation, value = rng.uniform(), rng.uniform(0.65, 1), rng.uniform(0.75, 1)
    first = hsv(hue, saturation, value)
    second = hsv(
        hue + rng.uniform(-0.05, 0.05), saturation * rng.uniform(0.85, 1), value * rng.uniform(0.78, 0.92)
    )
    fill = mix(first, second, pattern) * gray(1 - 0.13 * (x + y))
    edge = hsv(hue, 0.12, 1) if rng.uniform() < 0.7 else hsv(hue, saturation, 0.25)
    fill = mix(fill, edge, _raster(local, height, width, rim=float(np.clip(0.03 * size, 1, 3.5))))
    view[:] = mix(view, fill, alpha)
