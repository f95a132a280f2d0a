"""Kinds of image files that must be refused, each with words of the reason."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from tests.data.image_files import tiff
from tests.stress.image_files import Kind, Rng, Skipped, Verdict, chunk, encoded, picture, plain_png, png


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


def jpeg2000(path: Path, rng: Rng) -> Verdict:
    """Write a format that is not among those that are read, by a decoder that would read it."""
    path.write_bytes(b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(60))
    return Skipped("is none of JPEG")


REFUSALS: dict[str, Kind] = {
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
    "photo of 600 MiB": heavy,
    "floats out of range": floats((-1, 300), "float pixels"),
    "floats that are none": floats((0, float("nan")), "float pixels"),
    "32-bit integers": wide_integers,
}
