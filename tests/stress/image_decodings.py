"""Kinds of odd image files that must be decoded, each with what a person sees in it."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.data.image_files import exif, tiff
from tests.stress.image_files import (
    GOOD_JPEG,
    LOSSY,
    Kind,
    Rng,
    Seen,
    Verdict,
    chunk,
    encoded,
    gray,
    picture,
    png,
)


def plain(format_: str, tolerance: int = 0, shape: tuple[int, int] = (0, 0), **options: object) -> Kind:
    """Write RGB in some format."""

    def write(path: Path, rng: Rng) -> Verdict:
        pixels = picture(rng, *shape)
        path.write_bytes(encoded(pixels, format_, **options))
        return Seen(pixels, tolerance)

    return write


TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # pixels as seen -> as a camera stores them
    1: lambda seen: seen,
    2: lambda seen: seen[:, ::-1],
    3: lambda seen: seen[::-1, ::-1],
    4: lambda seen: seen[::-1],
    5: lambda seen: seen.transpose(1, 0, 2),
    6: lambda seen: np.rot90(seen, 1),
    7: lambda seen: np.rot90(seen, 2).transpose(1, 0, 2),
    8: lambda seen: np.rot90(seen, -1),
}


def turned(orientation: int) -> Kind:
    """Write pixels as a camera stores them under an EXIF orientation, in a random format."""

    def write(path: Path, rng: Rng) -> Verdict:
        format_ = ("JPEG", "PNG", "WEBP", "TIFF")[int(rng.integers(4))]
        pixels = picture(rng)
        options = {"JPEG": GOOD_JPEG, "WEBP": {"lossless": True}}.get(format_, {})
        stored = np.ascontiguousarray(TURNS[orientation](pixels))
        path.write_bytes(encoded(stored, format_, exif=exif(orientation), **options))
        return Seen(pixels, LOSSY if format_ == "JPEG" else 0)

    return write


def cmyk(format_: str, tolerance: int) -> Kind:
    """Write ink: what is seen is white paper less colour, less black."""

    def write(path: Path, rng: Rng) -> Verdict:
        ink = np.concatenate([picture(rng, 32, 48), picture(rng, 32, 48)[..., :1] // 2], axis=2)
        buffer = io.BytesIO()
        options = GOOD_JPEG if format_ == "JPEG" else {}
        Image.frombytes("CMYK", (48, 32), ink.tobytes()).save(buffer, format_, **options)
        path.write_bytes(buffer.getvalue())
        light = 255 - ink.astype(int)
        return Seen((light[..., :3] * light[..., 3:] / 255).astype(np.uint8), tolerance)

    return write


def gray_jpeg(path: Path, rng: Rng) -> Verdict:
    values = picture(rng)[..., 0]
    path.write_bytes(encoded(values, "JPEG", quality=95))
    return Seen(gray(values), LOSSY)


def deep_gray_png(path: Path, rng: Rng) -> Verdict:
    values = rng.integers(0, 65536, (20, 30), np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    path.write_bytes(png(30, 20, 16, 0, rows))
    return Seen(gray((values // 257).astype(np.uint8)), 1)


def deep_colour_png(path: Path, rng: Rng) -> Verdict:
    values = rng.integers(0, 65536, (20, 30, 3), np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    path.write_bytes(png(30, 20, 16, 2, rows))
    return Seen((values // 257).astype(np.uint8), 1)


def deep_tiff(channels: int) -> Kind:
    def write(path: Path, rng: Rng) -> Verdict:
        values = rng.integers(0, 65536, (20, 30, channels)[: 2 + (channels > 1)], np.uint16)
        path.write_bytes(tiff(values, {}))
        seen = (values // 257).astype(np.uint8)
        return Seen(seen if channels > 1 else gray(seen), 1)

    return write


def white_is_zero(path: Path, rng: Rng) -> Verdict:
    values = rng.integers(0, 65536, (9, 11), np.uint16)
    path.write_bytes(tiff(values, {262: 0}))
    return Seen(gray(255 - (values // 257).astype(np.uint8)), 1)


def unit_floats(path: Path, rng: Rng) -> Verdict:
    values = rng.uniform(0, 1, (9, 11)).astype(np.float32)
    path.write_bytes(tiff(values, {339: 3}))
    return Seen(gray(np.rint(values * 255).astype(np.uint8)))


def few_bits(path: Path, rng: Rng) -> Verdict:
    """Write black and white, one bit each."""
    values = rng.integers(0, 2, (13, 16), np.uint8) * 255
    path.write_bytes(encoded(values, "PNG", mode="1"))
    return Seen(gray(values))


def palette(transparent: bool) -> Kind:
    """Write numbers of four colours, of which the last may be transparent: white shows through."""

    def write(path: Path, rng: Rng) -> Verdict:
        colours = rng.integers(0, 256, (4, 3), np.uint8)
        numbers = rng.integers(0, 4, (12, 17), np.uint8)
        before = chunk(b"PLTE", colours.tobytes())
        if transparent:
            before += chunk(b"tRNS", b"\xff\xff\xff\0")
            colours = np.concatenate([colours[:3], np.full((1, 3), 255, np.uint8)])
        rows = b"".join(b"\0" + row.tobytes() for row in numbers)
        path.write_bytes(png(17, 12, 8, 3, rows, before))
        return Seen(colours[numbers])

    return write


def alpha(channels: int, format_: str) -> Kind:
    """Write gray or colour with transparency, which is laid on white."""

    def write(path: Path, rng: Rng) -> Verdict:
        values = rng.integers(0, 256, (14, 18, channels), np.uint8)
        mode = {2: "LA", 4: "RGBA"}[channels]
        buffer = io.BytesIO()
        options = {"lossless": True, "exact": True} if format_ == "WEBP" else {}
        Image.frombytes(mode, (18, 14), values.tobytes()).save(buffer, format_, **options)
        path.write_bytes(buffer.getvalue())
        part = values[..., -1:].astype(float) / 255
        seen = values[..., :-1] * part + 255 * (1 - part)
        return Seen(np.repeat(np.rint(seen), 3 if channels == 2 else 1, axis=2).astype(np.uint8), 1)

    return write


def animated(format_: str) -> Kind:
    """Write three frames, or pages: the first is what counts."""

    def write(path: Path, rng: Rng) -> Verdict:
        colours = rng.permutation([[250, 20, 20], [20, 250, 20], [20, 20, 250]]).astype(np.uint8)
        frames = [Image.fromarray(np.broadcast_to(colour, (16, 24, 3)).copy()) for colour in colours]
        buffer = io.BytesIO()
        options = {"lossless": True} if format_ == "WEBP" else {}
        frames[0].save(buffer, format_, save_all=True, append_images=frames[1:], **options)
        path.write_bytes(buffer.getvalue())
        return Seen(np.asarray(frames[0]))

    return write


def appended(path: Path, rng: Rng) -> Verdict:
    pixels = picture(rng)
    path.write_bytes(encoded(pixels, "JPEG", **GOOD_JPEG) + b"maker's note" * int(rng.integers(1, 50)))
    return Seen(pixels, LOSSY)


def netpbm(path: Path, rng: Rng) -> Verdict:
    pixels = picture(rng)
    height, width = pixels.shape[:2]
    path.write_bytes(b"P6\n# a comment\n%d %d\n255\n" % (width, height) + pixels.tobytes())
    return Seen(pixels)


def nonsense_exif(path: Path, rng: Rng) -> Verdict:
    """Name an orientation that there is not."""
    pixels = picture(rng)
    path.write_bytes(encoded(pixels, "JPEG", exif=exif(int(rng.integers(9, 65536))), **GOOD_JPEG))
    return Seen(pixels, LOSSY)


def pixel_zip_bomb(path: Path, rng: Rng) -> Verdict:
    """Pack 100 MB of pixels into a PNG that announces few: the rest is not read."""
    pixels = picture(rng)
    packer = zlib.compressobj(6)
    packed = packer.compress(b"".join(b"\0" + row.tobytes() for row in pixels))
    packed += b"".join(packer.compress(bytes(10**6)) for _ in range(100))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", packed + packer.flush())
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + data + chunk(b"IEND", b""))
    return Seen(pixels)


DECODINGS: dict[str, Kind] = {
    "zip bomb of pixels": pixel_zip_bomb,
    "1 x 1": plain("PNG", shape=(1, 1)),
    "1 x 4000": plain("PNG", shape=(4000, 1)),
    "4000 x 1": plain("PNG", shape=(1, 4000)),
    **{f"orientation {number}": turned(number) for number in TURNS},
    "nonsense orientation": nonsense_exif,
    "progressive JPEG": plain("JPEG", LOSSY, **GOOD_JPEG, progressive=True),
    "gray JPEG": gray_jpeg,
    "JPEG with something behind": appended,
    "CMYK JPEG, inverted as Adobe does": cmyk("JPEG", LOSSY),
    "CMYK TIFF": cmyk("TIFF", 2),
    "16-bit gray PNG": deep_gray_png,
    "16-bit colour PNG": deep_colour_png,
    "16-bit gray TIFF": deep_tiff(1),
    "16-bit colour TIFF": deep_tiff(3),
    "white is zero": white_is_zero,
    "floats from 0 to 1": unit_floats,
    "1 bit": few_bits,
    "palette": palette(transparent=False),
    "palette with transparency": palette(transparent=True),
    "gray with alpha": alpha(2, "PNG"),
    "colour with alpha": alpha(4, "PNG"),
    "WebP with alpha": alpha(4, "WEBP"),
    "animated GIF": animated("GIF"),
    "animated WebP": animated("WEBP"),
    "animated PNG": animated("PNG"),
    "TIFF of pages": animated("TIFF"),
    "BMP": plain("BMP"),
    "PPM with a comment": netpbm,
    "lossless WebP": plain("WEBP", lossless=True),
    "LZW TIFF": plain("TIFF", compression="tiff_lzw"),
}
