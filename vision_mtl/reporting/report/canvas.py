"""A few shapes that become an SVG, which follows the page's colours, or a PNG. NumPy, OpenCV, Pillow only.

Matplotlib draws the same, but at half a second a figure a report would take as long as an evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import cv2
import numpy as np
from markupsafe import escape
from PIL import Image, ImageDraw

from vision_mtl.fonts import font_of_size

# The colours of files; the page has the same names as CSS variables, once for each theme.
COLOURS = {
    "paper": "#ffffff",
    "ink": "#1b1f24",
    "soft": "#59636e",
    "line": "#d8dee4",
    "c0": "#2f6fde",
    "c1": "#d9622b",
    "c2": "#1f8a5b",
    "c3": "#b0378f",
    "c4": "#94760a",
    "c5": "#0d8fa8",
    "c6": "#7a52cc",
    "c7": "#6b7785",
}
SERIES = 8  # colours of lines and bars, c0 to c7
LETTER = 0.62  # mean width of a letter of a wide font, in font sizes
SCALE = 2  # pixels of a PNG per unit
Anchor = Literal["start", "middle", "end"]
Point = tuple[float, float]


@dataclass(frozen=True)
class Line:
    points: Sequence[Point]
    colour: str
    width: float
    dashed: bool


@dataclass(frozen=True)
class Rectangle:
    corner: Point
    size: Point
    colour: str
    opacity: float
    hint: str


@dataclass(frozen=True)
class Dot:
    centre: Point
    radius: float
    colour: str
    opacity: float
    hint: str


@dataclass(frozen=True)
class Words:
    place: Point
    text: str
    colour: str
    size: float
    anchor: Anchor
    upwards: bool


@dataclass
class Canvas:
    """Shapes in the order in which they are painted; x to the right, y down, from (0, 0) at the top left.

    Attributes:
        width: in units, at which text has the size that it is read at.
        height: in units.
        shapes: what is painted; colours are names of `COLOURS`.
    """

    width: float
    height: float
    shapes: list[Line | Rectangle | Dot | Words] = field(default_factory=list)

    def line(self, points: Sequence[Point], colour: str, width: float = 1.0, dashed: bool = False) -> None:
        """Add a line through points."""
        if points:
            self.shapes.append(Line(points, colour, width, dashed))

    def rectangle(
        self, corner: Point, size: Point, colour: str, opacity: float = 1.0, hint: str = ""
    ) -> None:
        """Add a filled rectangle; `hint` shows where the mouse rests on it."""
        self.shapes.append(Rectangle(corner, size, colour, opacity, hint))

    def dot(self, centre: Point, radius: float, colour: str, opacity: float = 1.0, hint: str = "") -> None:
        """Add a filled circle."""
        self.shapes.append(Dot(centre, radius, colour, opacity, hint))

    def words(
        self,
        place: Point,
        text: str,
        colour: str = "soft",
        size: float = 11.0,
        anchor: Anchor = "start",
        upwards: bool = False,
    ) -> None:
        """Add text on one line, whose baseline begins, ends or has its middle at `place`."""
        self.shapes.append(Words(place, text, colour, size, anchor, upwards))

    def svg(self, label: str, colour: Callable[[str], str]) -> str:
        """Return an `<svg>` element.

        Args:
            label: what it shows, for who cannot see it.
            colour: the value for a colour's name.
        """
        body = "".join(_svg_of(shape, colour) for shape in self.shapes)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width:g} {self.height:g}" '
            f'role="img" aria-label="{escape(label)}" font-family="system-ui, sans-serif">{body}</svg>'
        )

    def page_svg(self, label: str) -> str:
        """Return the element for the page, whose theme decides the colours."""
        return self.svg(label, lambda name: f"var(--{name})")

    def file_svg(self, label: str) -> str:
        """Return an SVG file: dark on white."""
        paper = Rectangle((0, 0), (self.width, self.height), "paper", 1.0, "")
        text = Canvas(self.width, self.height, [paper, *self.shapes]).svg(label, COLOURS.__getitem__)
        return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'

    def png(self) -> bytes:
        """Return a PNG file: dark on white, `SCALE` pixels per unit."""
        size = (round(self.height * SCALE), round(self.width * SCALE), 3)
        pixels = np.full(size, _rgb("paper"), np.uint8)
        for shape in self.shapes:
            if not isinstance(shape, Words):
                _paint(pixels, shape)
        picture = Image.fromarray(pixels)
        for shape in self.shapes:
            if isinstance(shape, Words):
                _write(picture, shape)
        return cv2.imencode(".png", np.asarray(picture)[:, :, ::-1])[1].tobytes()


def text_width(text: str, size: float = 11.0) -> float:
    """Return about how many units wide a text is."""
    return LETTER * size * len(text)


def shortened(text: str, width: float, size: float = 11.0) -> str:
    """Return the text, cut with an ellipsis where it would be wider than `width` units."""
    letters = max(2, round(width / (LETTER * size)))
    return text if len(text) <= letters else f"{text[: letters - 1].rstrip()}…"


def _svg_of(shape: Line | Rectangle | Dot | Words, colour: Callable[[str], str]) -> str:
    tint = colour(shape.colour)
    if isinstance(shape, Line):
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in shape.points)
        dash = ' stroke-dasharray="4 3"' if shape.dashed else ""
        return (
            f'<path d="{path}" fill="none" stroke="{tint}" stroke-width="{shape.width:g}" '
            f'stroke-linejoin="round"{dash}/>'
        )
    if isinstance(shape, Words):
        (x, y), turn = shape.place, ""
        if shape.upwards:
            turn = f' transform="rotate(-90 {x:.1f} {y:.1f})"'
        return (
            f'<text x="{x:.1f}" y="{y:.1f}" fill="{tint}" font-size="{shape.size:g}" '
            f'text-anchor="{shape.anchor}"{turn}>{escape(_printable(shape.text))}</text>'
        )
    hint = f"<title>{escape(_printable(shape.hint))}</title>" if shape.hint else ""
    faint = f' fill-opacity="{shape.opacity:.3g}"' if shape.opacity < 1 else ""
    if isinstance(shape, Dot):
        x, y = shape.centre
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{shape.radius:g}" fill="{tint}"{faint}>{hint}</circle>'
    (x, y), (width, height) = shape.corner, shape.size
    place = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {place} fill="{tint}"{faint}>{hint}</rect>'


def _printable(text: str) -> str:
    """Return the text without what XML forbids: control characters and lone surrogates."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    return "".join(c if c.isprintable() else " " for c in text)


def _rgb(name: str, opacity: float = 1.0) -> tuple[int, int, int]:
    """Return a colour laid on white."""
    parts = (int(COLOURS[name][i : i + 2], 16) for i in (1, 3, 5))
    red, green, blue = (round(opacity * part + (1 - opacity) * 255) for part in parts)
    return red, green, blue


def _paint(pixels: np.ndarray, shape: Line | Rectangle | Dot) -> None:
    fine = 4  # OpenCV takes fixed-point places: 4 bits behind the point
    if isinstance(shape, Line):
        corners = (np.array(shape.points) * SCALE * 2**fine).round().astype(np.int32)
        thickness = max(1, round(shape.width * SCALE))
        parts = [corners]
        if shape.dashed and len(corners) == 2:
            ends = np.linspace(corners[0], corners[1], 2 * 24 + 1).round().astype(np.int32)
            parts = [ends[i : i + 2] for i in range(0, 48, 2)]
        cv2.polylines(pixels, parts, False, _rgb(shape.colour), thickness, cv2.LINE_AA, fine)
    elif isinstance(shape, Dot):
        x, y = ((np.array(shape.centre)) * SCALE * 2**fine).round().astype(int).tolist()
        radius = round(shape.radius * SCALE * 2**fine)
        cv2.circle(pixels, (x, y), radius, _rgb(shape.colour, shape.opacity), -1, cv2.LINE_AA, fine)
    else:
        (x, y), (width, height) = shape.corner, shape.size
        left, top = round(x * SCALE), round(y * SCALE)
        right, bottom = round((x + width) * SCALE), round((y + height) * SCALE)
        pixels[top:bottom, left:right] = _rgb(shape.colour, shape.opacity)


def _write(picture: Image.Image, words: Words) -> None:
    font = font_of_size(round(words.size * SCALE))
    text = _printable(words.text)
    x, y = (value * SCALE for value in words.place)
    if not words.upwards:
        anchor = {"start": "ls", "middle": "ms", "end": "rs"}[words.anchor]
        ImageDraw.Draw(picture).text((x, y), text, fill=_rgb(words.colour), font=font, anchor=anchor)
        return
    length, height = int(font.getlength(text)) + 2, round(words.size * SCALE * 1.4)
    patch = Image.new("L", (length, height))
    ImageDraw.Draw(patch).text((0, round(height * 0.75)), text, fill=255, font=font, anchor="ls")
    patch = patch.rotate(90, expand=True)
    shift = {"start": length, "middle": length // 2, "end": 0}[words.anchor]
    place = (round(x - height * 0.75), round(y - shift))
    picture.paste(Image.new("RGB", patch.size, _rgb(words.colour)), place, patch)
