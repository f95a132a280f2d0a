"""Maps of what adds to an answer, over pictures. NumPy, OpenCV and Pillow only."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from vision_mtl.fonts import font_of_size
from vision_mtl.inference.draw import CAPTION_BACKGROUND, caption_size, draw_image

# From nothing to the strongest, RGB; the picture beneath is grey, so that colour means the map alone.
RAISES = np.array([(150, 20, 20), (245, 90, 10), (255, 215, 60)], np.float32)
LOWERS = np.array([(20, 40, 140), (20, 120, 230), (110, 220, 255)], np.float32)
STRONGEST = 0.75  # how much the strongest places hide the picture


def heat_colours(strength: np.ndarray) -> np.ndarray:
    """Return the RGB colours (..., 3) float32 of strengths (...) in [-1, 1]."""
    at = np.abs(strength) * (len(RAISES) - 1)
    stops = np.arange(len(RAISES))
    both = [np.stack([np.interp(at, stops, ramp[:, i]) for i in range(3)], -1) for ramp in (RAISES, LOWERS)]
    return np.where(strength[..., None] >= 0, *both).astype(np.float32)


def lay_over(image: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """Return a grey copy of an image (H, W, 3) uint8 with a map (H, W) in [-1, 1] over it."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None]
    cover = STRONGEST * np.sqrt(np.abs(strength))[..., None]
    return (grey * (1 - cover) + heat_colours(strength) * cover).round().astype(np.uint8)


def scaled(heat: np.ndarray) -> np.ndarray:
    """Return a map with its strongest place at 1 or -1; one without any stays as it is."""
    strongest = np.abs(heat).max()
    return heat / strongest if strongest > 0 else heat


def legend(width: int, font_size: int, ends: tuple[str, str], signed: bool) -> np.ndarray:
    """Return a strip (height, width, 3) uint8: a bar of the colours between what its two ends mean."""
    font = font_of_size(font_size)
    margin = font_size // 2
    strip = Image.new("RGB", (width, round(font_size * 1.35) + margin), CAPTION_BACKGROUND)
    draw = ImageDraw.Draw(strip)
    left = margin + round(font.getlength(ends[0])) + margin
    right = width - 2 * margin - round(font.getlength(ends[1]))
    draw.text((margin, margin // 2), ends[0], font=font, fill=(240, 240, 240))
    draw.text((right + margin, margin // 2), ends[1], font=font, fill=(240, 240, 240))
    if right > left:
        strength = np.linspace(-1 if signed else 0, 1, right - left, dtype=np.float32)
        bar = lay_over(
            np.full((font_size, right - left, 3), 110, np.uint8), np.tile(strength, (font_size, 1))
        )
        strip.paste(Image.fromarray(bar), (left, margin // 2 + 2))
    return np.asarray(strip)


def heat_picture(
    image: np.ndarray,
    strength: np.ndarray,
    caption: Sequence[str],
    ends: tuple[str, str],
    signed: bool,
    boxes: np.ndarray,
    texts: Sequence[str],
    classes: Sequence[int],
) -> np.ndarray:
    """Return a picture with a map over it, boxes, a caption and a legend.

    Args:
        image: (H, W, 3) uint8 RGB.
        strength: (H, W) in [-1, 1].
        caption: lines.
        ends: what the two ends of the legend mean.
        signed: whether the map may be below 0.
        boxes: (M, 4) xyxy in pixels of `image`.
        texts: one per box.
        classes: one per box, which decides its colour.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    drawn = draw_image(lay_over(image, strength), boxes, texts, classes, caption)
    width = drawn.shape[1]
    enlarged = (image.shape[0] * width // image.shape[1], width)  # the picture without its caption
    return np.concatenate([drawn, legend(width, caption_size(enlarged), ends, signed)])
