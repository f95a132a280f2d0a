"""Image files for tests: known pixels in every mode and format."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vision_mtl.data.images import (
    BadImageError,
    read_image,
)

REPO = Path(__file__).resolve().parents[2]
ODD_IMAGES = REPO.parent / "shared" / "data" / "odd_images"
# Those of the odd images that are no images any more, and why.
REFUSED = {
    "pillow__10ct_32bit_128.tiff": "float pixels from -3.14094",
    "pillow__bmp__b__reallybig.bmp": "data.max_pixels",
    "pillow__bmp__b__shortfile.bmp": "truncated",
    "pillow__bmp__q__pal8os2v2-16.bmp": "BMP header cannot be read",
    "pillow__crash-2020-10-test.tif": "replace the file",
    "pillow__crash-f46f5b2f43c370fe65706c11449f567ecc345e74.tif": "replace the file",
    "pillow__decompression_bomb.gif": "data.max_pixels",
    "pillow__truncated_end_chunk.png": "ends too early",
    "pillow__truncated_image.png": "ends too early",
    "pillow__truncated_jpeg.jpg": "truncated",
    "pillow__unknown_compression_method.png": "PNG header cannot be read",
}

# 2 x 3 pixels, all different, so that every turn shows.
SEEN = np.array(
    [[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[10, 20, 30], [200, 100, 50], [255, 255, 255]]], np.uint8
)
# How a camera stores SEEN under each EXIF orientation.
STORED = {
    1: SEEN,
    2: SEEN[:, ::-1],
    3: SEEN[::-1, ::-1],
    4: SEEN[::-1],
    5: SEEN.transpose(1, 0, 2),
    6: np.rot90(SEEN, 1),
    7: np.rot90(SEEN, 2).transpose(1, 0, 2),
    8: np.rot90(SEEN, -1),
}


def exif(orientation: int) -> Image.Exif:
    block = Image.Exif()
    block[0x0112] = orientation
    return block


def photo(height: int = 48, width: int = 64) -> np.ndarray:
    """(height, width, 3) uint8: smooth, so that lossy formats keep it nearly."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], axis=2).astype(np.uint8)


def encoded(pixels: np.ndarray, name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, name, **options)
    return buffer.getvalue()


def tiff(values: np.ndarray, tags: dict[int, int]) -> bytes:
    """A little-endian uncompressed TIFF of (H, W) or (H, W, C) values, with the given SHORT tags."""
    channels = values.shape[2] if values.ndim == 3 else 1
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    entries = {
        256: values.shape[1],
        257: values.shape[0],
        258: values.dtype.itemsize * 8,
        259: 1,
        262: 2 if channels == 3 else 1,
        273: 8,
        277: channels,
        278: values.shape[0],
        279: len(data),
        **tags,
    }
    offset = 8 + len(data)
    block = struct.pack("<H", len(entries))
    bits = b""
    for tag, value in sorted(entries.items()):
        if tag == 258 and channels == 3:
            bits = struct.pack("<3H", value, value, value)
            block += struct.pack("<HHII", tag, 3, 3, offset + 2 + 12 * len(entries) + 4)
        else:
            block += struct.pack("<HHII", tag, 3, 1, value)
    return b"II*\0" + struct.pack("<I", offset) + data + block + struct.pack("<I", 0) + bits


def refusal(path: Path, **options: int) -> str:
    """The reason for which `read_image` refuses `path`."""
    with pytest.raises(BadImageError) as caught:
        read_image(path, **options)
    assert caught.value.path == str(path)
    assert str(caught.value) == f"{path}: {caught.value.reason}"
    return caught.value.reason
