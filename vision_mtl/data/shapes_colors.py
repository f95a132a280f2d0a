"""Colour and pixel arithmetic of the embedded data set: RGB in [0, 1], images float32 (H, W, 3)."""

from __future__ import annotations

import colorsys

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


def hsv(h: float, s: float, v: float) -> Array:
    """RGB (3,) of hue (turning round at 1), saturation and value (both cut at 1)."""
    return np.asarray(colorsys.hsv_to_rgb(h % 1, min(s, 1), min(v, 1)), np.float32)


def gray(t: Array) -> Array:
    """`t` (H, W) as three equal channels, to multiply an image with."""
    return cv2.merge([t, t, t])


def mix(a: Array, b: Array, t: Array) -> Array:
    """Blend of the colours `a` and `b` (each (3,) or (H, W, 3)) by `t` (H, W), 0 giving `a`."""
    # One channel at a time: a broadcast over three colours costs NumPy ten times as much.
    return cv2.merge([a[..., c] + (b[..., c] - a[..., c]) * t for c in range(3)])


def pixel_axes(height: int, width: int) -> tuple[Array, Array]:
    """Pixel rows (H, 1) and columns (1, W), to be broadcast against each other."""
    return np.arange(height, dtype=np.float32)[:, None], np.arange(width, dtype=np.float32)[None]


def finish(rng: np.random.Generator, image: Array) -> NDArray[np.uint8]:
    """The picture as a camera would take it: RGB uint8 (H, W, 3), slightly blurred, then noisy."""
    blur, noise = rng.uniform(0.2, 0.9), rng.uniform(0.005, 0.025)
    image = cv2.GaussianBlur(image, (5, 5), blur)
    image += gray(rng.standard_normal(image.shape[:2], np.float32) * np.float32(noise))
    np.clip(image, 0, 1, out=image)
    image *= 255
    return np.rint(image, out=image).astype(np.uint8)
