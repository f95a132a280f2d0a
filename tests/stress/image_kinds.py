"""Kinds of malformed and odd image files, each with what a person sees in it or why it is refused."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from tests.data.image_files import exif, tiff

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


# Refused


def truncated(format_: str) -> Kind:
    """Cut a file off somewhere behind its first bytes."""

    def write(path: Path, rng: Rng) -> Verdict:
        noise = rng.integers(0, 256, (40, 60, 3), np.uint8)
        data = encoded(noise, format_)
        path.write_bytes(data[: int(len(data) * rng.uniform(0.05, 0.97))])
        return Skipped("replace the file")

    return write


def content(data: bytes, reason: str) -> Kind:
    """Write something that is no image."""

    def write(path: Path, rng: Rng) -> Verdict:
        path.write_bytes(data)
        return Skipped(reason)

    return write


def folder(path: Path, rng: Rng) -> Verdict:
    path.mkdir()
    return Skipped("is a folder")


def broken_link(path: Path, rng: Rng) -> Verdict:
    path.symlink_to("nowhere.jpg")
    return Skipped("does not exist")


def pipe(path: Path, rng: Rng) -> Verdict:
    os.mkfifo(path)
    return Skipped("pipe or a device")


def noise_behind(signature: bytes) -> Kind:
    """Write random bytes behind a format's first ones."""

    def write(path: Path, rng: Rng) -> Verdict:
        noise = rng.integers(0, 256, int(rng.integers(50, 5000)), np.uint8)
        noise[noise == ord(",")] = 0  # begins a frame of a GIF, of which anything can be made
        path.write_bytes(signature + noise.tobytes())
        return Skipped("")

    return write


def bomb(data: Callable[[int, int], bytes]) -> Kind:
    """Announce far more pixels than the file holds."""

    def write(path: Path, rng: Rng) -> Verdict:
        path.write_bytes(data(int(rng.integers(12_000, 16_000)), int(rng.integers(12_000, 16_000))))
        return Skipped("data.max_pixels")

    return write


def bomb_png(width: int, height: int) -> bytes:
    return png(width, height, 8, 2, bytes(100))


def bomb_gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\0\0\0,\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0;"


def bomb_tiff(width: int, height: int) -> bytes:
    return tiff(np.zeros((2, 2), np.uint8), {256: width, 257: height, 278: height})


def bomb_webp(width: int, height: int) -> bytes:
    sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    inner = encoded(np.zeros((2, 2, 3), np.uint8), "WEBP", lossless=True)[12:]
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + sizes + inner
    return b"RIFF" + struct.pack("<I", len(body)) + body


def bomb_bmp(width: int, height: int) -> bytes:
    data = bytearray(encoded(np.zeros((2, 2, 3), np.uint8), "BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def bomb_jpeg(width: int, height: int) -> bytes:
    data = encoded(np.zeros((16, 16, 3), np.uint8), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def flipped_bit(path: Path, rng: Rng) -> Verdict:
    """Flip a bit in the pixels of a PNG, which its checksum tells."""
    data = bytearray(encoded(picture(rng), "PNG"))
    start = data.index(b"IDAT") + 4
    data[int(rng.integers(start, len(data) - 16))] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)
    return Skipped("checksum")


def without_end(path: Path, rng: Rng) -> Verdict:
    path.write_bytes(encoded(picture(rng), "PNG")[:-12])
    return Skipped("ends too early")


def no_rows(path: Path, rng: Rng) -> Verdict:
    path.write_bytes(png(10, 0, 8, 2, b""))
    return Skipped("PNG")


@cache
def packed_zeros() -> bytes:
    """Return 300 MB of zeros, compressed."""
    packer = zlib.compressobj(6)
    return b"".join(packer.compress(bytes(10**6)) for _ in range(300)) + packer.flush()


def zip_bomb(kind: bytes, head: bytes, reason: str) -> Kind:
    """Hide 300 MB of zeros in a compressed chunk of text or colours."""

    def write(path: Path, rng: Rng) -> Verdict:
        path.write_bytes(plain_png(picture(rng), chunk(kind, head + packed_zeros())))
        return Skipped(reason)

    return write


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


def heavy(path: Path, rng: Rng) -> Verdict:
    """Append a hole of 600 MiB to a small photo."""
    path.write_bytes(encoded(picture(rng), "JPEG"))
    os.truncate(path, 600 * 2**20)
    return Skipped("bytes")


def floats(values: tuple[float, float], reason: str) -> Kind:
    def write(path: Path, rng: Rng) -> Verdict:
        array = np.linspace(*values, 48, dtype=np.float32).reshape(6, 8)
        path.write_bytes(tiff(array, {339: 3}))
        return Skipped(reason)

    return write


def wide_integers(path: Path, rng: Rng) -> Verdict:
    path.write_bytes(tiff(np.full((5, 5), 70_000, np.int32), {339: 2}))
    return Skipped("32-bit pixels")


# Decoded


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


def jpeg2000(path: Path, rng: Rng) -> Verdict:
    """Write a format that is not among those that are read, by a decoder that would read it."""
    path.write_bytes(b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(60))
    return Skipped("is none of JPEG")


def nonsense_exif(path: Path, rng: Rng) -> Verdict:
    """Name an orientation that there is not."""
    pixels = picture(rng)
    path.write_bytes(encoded(pixels, "JPEG", exif=exif(int(rng.integers(9, 65536))), **GOOD_JPEG))
    return Seen(pixels, LOSSY)


KINDS: dict[str, Kind] = {
    **{f"{name} cut off": truncated(name) for name in ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "PPM")},
    "empty": content(b"", "is empty"),
    "HTML": content(b"<!DOCTYPE html><title>404</title>", "HTML"),
    "SVG": content(b'<svg xmlns="http://www.w3.org/2000/svg"/>', "HTML or XML"),
    "PDF": content(b"%PDF-1.7\n%\xe2\xe3", "is none of JPEG"),
    "PostScript": content(b"%!PS-Adobe-3.0\n(x) run", "is none of JPEG"),
    "text": content(b"0.5 0.5 0.2 0.2\n", "is none of JPEG"),
    "JPEG 2000": jpeg2000,
    "JPEG start only": content(b"\xff\xd8\xff", "JPEG header cannot be read"),
    "folder": folder,
    "broken link": broken_link,
    "pipe": pipe,
    "noise as JPEG": noise_behind(b"\xff\xd8\xff\xe0"),
    "noise as PNG": noise_behind(b"\x89PNG\r\n\x1a\n"),
    "noise as WebP": noise_behind(b"RIFF\x99\x09\0\0WEBP"),
    "noise as GIF": noise_behind(b"GIF89a"),
    "noise as TIFF": noise_behind(b"II*\0"),
    "noise as BMP": noise_behind(b"BM"),
    "PNG bomb": bomb(bomb_png),
    "GIF bomb": bomb(bomb_gif),
    "TIFF bomb": bomb(bomb_tiff),
    "WebP bomb": bomb(bomb_webp),
    "BMP bomb": bomb(bomb_bmp),
    "JPEG bomb": bomb(bomb_jpeg),
    "PNG with a flipped bit": flipped_bit,
    "PNG without its end": without_end,
    "PNG without rows": no_rows,
    "zip bomb in zTXt": zip_bomb(b"zTXt", b"Comment\0\0", "PNG header cannot be read"),
    "zip bomb in iTXt": zip_bomb(b"iTXt", b"Comment\0\x01\0\0\0", "PNG header cannot be read"),
    "zip bomb in iCCP": zip_bomb(b"iCCP", b"profile\0\0", "PNG header cannot be read"),
    "zip bomb of pixels": pixel_zip_bomb,
    "photo of 600 MiB": heavy,
    "floats out of range": floats((-1, 300), "float pixels"),
    "floats that are none": floats((0, float("nan")), "float pixels"),
    "32-bit integers": wide_integers,
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
