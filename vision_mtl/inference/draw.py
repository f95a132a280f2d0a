"""Boxes, names and image-level answers on pictures. NumPy, OpenCV and Pillow only."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw

from vision_mtl.fonts import Font, font_of_size

READABLE = 640  # pixels of the longer side below which a picture is enlarged
CAPTION_BACKGROUND = (24, 26, 30)
# Costs of a label's place.
HIDDEN_LABEL = 4.0  # for each pixel of another label that it hides
HIDDEN_BOX = 0.2  # for each pixel of a small box
LESS_LIKED = 0.03  # for each pixel of its own, times its rank among the places
Colour = tuple[int, int, int]
Area = tuple[int, int, int, int]  # left, top, right, bottom

PALETTE: tuple[Colour, ...] = (
    (230, 57, 70),
    (29, 145, 244),
    (46, 184, 92),
    (255, 166, 0),
    (155, 93, 229),
    (0, 187, 185),
    (241, 91, 181),
    (173, 204, 24),
    (255, 112, 67),
    (94, 108, 255),
    (190, 134, 84),
    (120, 144, 156),
)


def class_colour(index: int) -> Colour:
    """Return a class's RGB colour; beyond the palette, hues a golden angle apart."""
    if index < len(PALETTE):
        return PALETTE[index]
    red, green, blue = colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.65 + 0.3 * (index % 2), 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def text_colour(background: Colour) -> Colour:
    """Return black or white, whichever reads better on `background` (luma of ITU-R BT.601)."""
    red, green, blue = background
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)


def draw_image(
    image: np.ndarray,
    boxes: np.ndarray,
    texts: Sequence[str],
    classes: Sequence[int],
    caption: Sequence[str] = (),
    wrap: bool = True,
) -> np.ndarray:
    """Return the picture with boxes and, in a strip below it, the caption.

    Small pictures are enlarged by a whole factor, so that the text is readable.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (M, 4) xyxy in pixels of `image`.
        texts: one per box.
        classes: one per box, which decides its colour.
        caption: lines.
        wrap: break a caption line that is too long; otherwise it is cut, so that as many lines always take
            the same room.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    factor = max(1, -(-READABLE // max(image.shape[:2])))
    if factor > 1:
        image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    height, width = image.shape[:2]
    font_size = text_size(image.shape)
    canvas = Image.fromarray(image)
    corners = np.asarray(boxes, np.float64).reshape(-1, 4) * factor
    _draw_boxes(canvas, corners, texts, classes, font_size)
    if not caption:
        return np.asarray(canvas)
    strip = _caption_strip(width, caption, caption_size(image.shape), wrap)
    whole = Image.new("RGB", (width, height + strip.height))
    whole.paste(canvas, (0, 0))
    whole.paste(strip, (0, height))
    return np.asarray(whole)


def text_size(shape: tuple[int, ...]) -> int:
    """Return the font size, in pixels, of labels on a picture of `shape` (height, width, ...)."""
    return int(np.clip(max(shape[:2]) / 52, 12, 80))


def caption_size(shape: tuple[int, ...]) -> int:
    """Return the font size, in pixels, of what is written below a picture of `shape` (height, width, ...)."""
    return round(text_size(shape) * 1.1)


def _draw_boxes(
    canvas: Image.Image, boxes: np.ndarray, texts: Sequence[str], classes: Sequence[int], font_size: int
) -> None:
    draw = ImageDraw.Draw(canvas)
    font = font_of_size(font_size)
    line = max(2, round(max(canvas.size) / 420))
    areas = (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(1)
    order = np.argsort(-areas, kind="stable")  # large ones first, so that small ones stay visible
    for i in order:
        left, top, right, bottom = boxes[i].round().tolist()
        corners = (left, top, max(left, right), max(top, bottom))
        draw.rectangle(corners, outline=class_colour(classes[i]), width=line)
    pad = max(2, font_size // 5)
    # As high for every text, whatever its letters.
    _, above, _, below = draw.textbbox((0, 0), "Ág", font=font)
    chips: list[Area] = []
    for i in order:
        text = _fitted(texts[i], font, canvas.width - 2 * pad)
        if not text:
            continue
        start, _, end, _ = draw.textbbox((0, 0), text, font=font)
        size = (round(end - start) + 2 * pad, round(below - above) + 2 * pad)
        chip = _place_chip(boxes[i], size, canvas.size, chips, boxes)
        chips.append(chip)
        colour = class_colour(classes[i])
        draw.rounded_rectangle(chip, radius=max(2, font_size // 5), fill=colour)
        corner = (chip[0] + pad - start, chip[1] + pad - above)
        draw.text(corner, text, font=font, fill=text_colour(colour))


def _place_chip(
    box: np.ndarray, size: tuple[int, int], canvas: tuple[int, int], others: list[Area], boxes: np.ndarray
) -> Area:
    """Return where a label hides least: above its box, below, beside, or inside at a corner.

    Of `boxes` (M, 4), xyxy, a large one hardly minds: what is hidden is weighed by the box's size.
    """
    width, height = size
    left, top, right, bottom = box.round().astype(int).tolist()
    corners = [
        (left, top - height),
        (left, bottom),
        (right - width, top - height),
        (right - width, bottom),
        (left, top),
        (left, bottom - height),
        (right - width, top),
        (right - width, bottom - height),
        (right, top),
        (left - width, top),
    ]
    share = width * height / np.maximum((boxes[:, 2:] - boxes[:, :2]).clip(0).prod(1), width * height)
    best: tuple[float, Area] | None = None
    for preference, (x, y) in enumerate(corners):
        x = min(max(x, 0), max(0, canvas[0] - width))
        inside = min(max(y, 0), max(0, canvas[1] - height))
        chip = (x, inside, x + width, inside + height)
        covered = (np.minimum(chip[2:], boxes[:, 2:]) - np.maximum(chip[:2], boxes[:, :2])).clip(0).prod(1)
        hidden = HIDDEN_LABEL * sum(_overlap(chip, other) for other in others)
        hidden += abs(inside - y) * width
        hidden += LESS_LIKED * preference * width * height
        hidden += HIDDEN_BOX * float(covered @ share)
        if best is None or hidden < best[0]:
            best = (hidden, chip)
    assert best is not None
    return best[1]


def _overlap(a: Area, b: Area) -> int:
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def _caption_strip(width: int, caption: Sequence[str], font_size: int, wrap: bool) -> Image.Image:
    font = font_of_size(font_size)
    margin = font_size // 2
    fit = _wrapped if wrap else _cut
    lines = [part for line in caption for part in fit(line, font, width - 2 * margin)]
    step = round(font_size * 1.35)
    strip = Image.new("RGB", (width, step * len(lines) + 2 * margin), CAPTION_BACKGROUND)
    draw = ImageDraw.Draw(strip)
    for i, line in enumerate(lines):
        draw.text((margin, margin + i * step), line, font=font, fill=(240, 240, 240))
    return strip


def _wrapped(line: str, font: Font, width: int) -> list[str]:
    """Break a line between words where it would be wider than `width` pixels."""
    lines = [""]
    for word in (_fitted(part, font, width) for part in line.split()):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _cut(line: str, font: Font, width: int) -> list[str]:
    return [_fitted(line, font, width)]


def _fitted(text: str, font: Font, width: int) -> str:
    """Return the text on one line, cut with an ellipsis where it would be wider than `width` pixels."""
    # A lone surrogate, from a file name that is no UTF-8, cannot be drawn.
    text = " ".join(text.encode("utf-8", "replace").decode("utf-8").split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"
