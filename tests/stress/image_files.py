"""Image files made by hand, and what must come of them."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

Rng = np.random.Generator


@dataclass(frozen=True)
class Seen:
    """The file is decoded to these (H, W, 3) uint8 pixels, none of which is further off than `tolerance`."""

    pixels: np.ndarray
    tolerance: int = 0


@dataclass(frozen=True)
class Skipped:
    """The file is refused with a reason that holds these words."""

    reason: str


Verdict = Seen | Skipped
Kind = Callable[[Path, Rng], Verdict]  # writes a file to the path and says what must come of it

LOSSY = 24  # levels that JPEG and lossy WebP may be off, of smooth pixels at high quality


def picture(rng: Rng, height: int = 0, width: int = 0) -> np.ndarray:
    """Return smooth colours, (H, W, 3) uint8, of a random shape where none is given; no turn of it is like
    another."""
    height, width = height or int(rng.integers(24, 60)), width or int(rng.integers(64, 99))
    y, x = np.mgrid[:height, :width]
    low, high = rng.integers(0, 60), rng.integers(180, 256)
    x, y = x / max(1, width - 1), y / max(1, height - 1)
    return (low + (high - low) * np.stack([x, y, (x + 3 * y) / 4], axis=2)).astype(np.uint8)


def gray(pixels: np.ndarray) -> np.ndarray:
    """(H, W) -> (H, W, 3)."""
    return np.repeat(pixels[..., None], 3, axis=2)


def encoded(pixels: np.ndarray, format_: str, mode: str | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, format_, **options)
    return buffer.getvalue()


GOOD_JPEG: dict[str, object] = {"quality": 95, "subsampling": 0}


def chunk(kind: bytes, content: bytes) -> bytes:
    """Return a PNG chunk with its right checksum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, before: bytes = b"") -> bytes:
    """Return a PNG whose filtered `rows` are given, with the chunks `before` them."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + before + data + chunk(b"IEND", b"")


def plain_png(pixels: np.ndarray, before: bytes = b"") -> bytes:
    height, width = pixels.shape[:2]
    return png(width, height, 8, 2, b"".join(b"\0" + row.tobytes() for row in pixels), before)
