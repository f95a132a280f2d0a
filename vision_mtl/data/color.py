"""Brightness, contrast, saturation, hue and the order of channels as one affine map of RGB."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

# The NTSC colour space: luma, and two coordinates whose angle is the hue and whose length the saturation.
RGB_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
YIQ_TO_RGB = np.linalg.inv(RGB_TO_YIQ)


def change_colors(
    image: np.ndarray,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
    order: Sequence[int] = (0, 1, 2),
) -> np.ndarray:
    """Return the image with its colours changed; nothing is clipped between the five steps.

    Args:
        image: (H, W, 3) uint8 RGB.
        brightness: factor on all channels.
        contrast: factor on the distance to the image's mean luma.
        saturation: factor on the distance to each pixel's own luma.
        hue: turns about the gray axis, from red to green; luma stays.
        order: at last, which channel goes where: (2, 1, 0) swaps red and blue.
    """
    angle = -2 * np.pi * hue  # in YIQ the way from red to green is clockwise
    sine, cosine = saturation * np.sin(angle), saturation * np.cos(angle)
    turn = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    matrix = brightness * contrast * (YIQ_TO_RGB @ turn @ RGB_TO_YIQ)
    shift = brightness * (1 - contrast) * (RGB_TO_YIQ[0] @ cv2.mean(image)[:3])
    whole = np.concatenate([matrix, np.full((3, 1), shift)], axis=1)
    return cv2.transform(image, whole[list(order)].astype(np.float32))
