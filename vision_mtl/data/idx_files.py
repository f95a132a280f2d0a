"""The idx format of MNIST, plain or gzipped: a checked header, and the numbers behind it.

Two zero bytes, one for the type of the numbers, one for how many dimensions there are, and each dimension's
length in four bytes; then the numbers, the last dimension fastest. All of it is big endian
(http://yann.lecun.com/exdb/mnist/).
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

import numpy as np

from vision_mtl.errors import DataError

TYPES = {0x08: "|u1", 0x09: "|i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
BLOCK = 1 << 20  # bytes read at once
MOST_UNPACKED = 1032  # bytes that one byte of gzip can stand for, by the deflate format
AGAIN = "download it again"


@dataclass(frozen=True)
class Header:
    """What an idx file's first bytes say.

    Attributes:
        dtype: of the numbers.
        shape: the dimensions' lengths.
    """

    dtype: np.dtype
    shape: tuple[int, ...]

    @property
    def start(self) -> int:
        """Bytes before the numbers."""
        return 4 + 4 * len(self.shape)

    @property
    def size(self) -> int:
        """Bytes of the numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


def is_gzipped(path: Path) -> bool:
    """Return whether the name says that the file is gzipped."""
    return path.suffix == ".gz"


def demand(fits: bool, path: Path, found: str, expected: str, cure: str) -> None:
    """Raise DataError unless the file fits."""
    if not fits:
        raise DataError(f"{path}: found {found}, expected {expected}; {cure}")


def read_pixels_header(path: Path) -> Header:
    """Return the header of a file of pixels, (I, H, W) or (I, H, W, 3) uint8, as long as it has to be.

    Raises:
        DataError: it cannot be read, or is something else.
    """
    header = _read_header(path)
    shape = header.shape
    demand(
        len(shape) in (3, 4) and shape[3:] in ((), (3,)),
        path,
        f"the dimensions {shape}",
        "(images, height, width) or (images, height, width, 3)",
        "give the file of pixels as `images`, that of labels as `annotations`",
    )
    kind = header.dtype.name
    demand(kind == "uint8", path, f"pixels of type {kind}", "uint8", "write them as bytes from 0 to 255")
    demand(0 not in shape, path, f"the dimensions {shape}", "at least one image of one pixel", AGAIN)
    _check_length(path, header)
    return header


def read_labels(path: Path) -> np.ndarray:
    """Return the content of a file of labels, (I,) of any type of whole numbers.

    Raises:
        DataError: it cannot be read, or is something else.
    """
    header = _read_header(path)
    shape, kind = header.shape, header.dtype.name
    demand(
        len(shape) == 1,
        path,
        f"the dimensions {shape}",
        "one: a label for each image",
        "give the file of labels as `annotations`, that of pixels as `images`",
    )
    demand(header.dtype.kind in "iu", path, f"labels of type {kind}", "whole numbers", "write them as uint8")
    demand(shape[0] > 0, path, "no labels", "at least one", AGAIN)
    _check_length(path, header)
    return unpack(path, header)


def unpack(path: Path, header: Header) -> np.ndarray:
    """Return the numbers, of the header's shape, in memory; raise DataError where the file is damaged."""
    content = np.empty(header.size, np.uint8)
    end = 0
    for block in blocks(path, header):
        content[end : end + len(block)] = np.frombuffer(block, np.uint8)
        end += len(block)
    return content.view(header.dtype).reshape(header.shape)


def blocks(path: Path, header: Header) -> Iterator[bytes]:
    """Yield the numbers' bytes in turn, just as many as the header promises; one more is asked for.

    Raises:
        DataError: there are fewer or more, or they cannot be unpacked.
    """
    promised = f"{header.size:,}, for the dimensions {header.shape}"
    left = header.size
    with _open(path) as stream:
        _read(path, stream, header.start)
        while left:
            block = _read(path, stream, min(left, BLOCK))
            found = f"{header.size - left:,} bytes behind the header"
            demand(len(block) > 0, path, found, promised, f"it is cut short: {AGAIN}")
            left -= len(block)
            yield block
        beyond = _read(path, stream, 1)
    demand(not beyond, path, f"more than {header.size:,} bytes behind the header", promised, AGAIN)


def _read_header(path: Path) -> Header:
    with _open(path) as stream:
        start = _read(path, stream, 4)
        cure = "it is gzipped: add .gz to its name" if start[:2] == b"\x1f\x8b" else AGAIN
        expected = "'00 00', the type and the number of dimensions of an idx file"
        is_idx = len(start) == 4 and start[:2] == b"\0\0"
        demand(is_idx, path, f"the first bytes '{start.hex(' ')}'", expected, cure)
        known = ", ".join(f"{number:02x} ({np.dtype(name).name})" for number, name in TYPES.items())
        demand(start[2] in TYPES, path, f"the type {start[2]:02x}", f"one of {known}", AGAIN)
        lengths = _read(path, stream, 4 * start[3])
    found = f"a header of {4 + len(lengths)} bytes"
    needed = f"{4 + 4 * start[3]}, for {start[3]} dimensions"
    demand(len(lengths) == 4 * start[3], path, found, needed, f"it is cut short: {AGAIN}")
    return Header(np.dtype(TYPES[start[2]]), struct.unpack(f">{start[3]}I", lengths))


def _check_length(path: Path, header: Header) -> None:
    """Raise DataError where the file cannot hold what its header promises, before memory is asked for it."""
    length, whole = path.stat().st_size, header.start + header.size
    fits, least = whole == length, whole
    if is_gzipped(path):
        least = -(-whole // MOST_UNPACKED)
        fits = least <= length
    found = f"{length:,} bytes{' of gzip' if is_gzipped(path) else ''}"
    needed = f"{'at least ' if is_gzipped(path) else ''}{least:,}, for the dimensions {header.shape}"
    demand(fits, path, found, needed, f"it is cut short, or its header is damaged: {AGAIN}")


def _open(path: Path) -> BufferedIOBase:
    try:
        return gzip.open(path) if is_gzipped(path) else path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from error


def _read(path: Path, stream: BufferedIOBase, count: int) -> bytes:
    """Return the next `count` bytes, fewer where the content ends."""
    try:
        return stream.read(count)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path}: found damaged gzip data ({error}), expected a whole gzip file, as its name says; "
            f"{AGAIN}, or take .gz off its name if it is not gzipped"
        ) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(
        f"{path}: found a file that cannot be read ({error.strerror or error}), expected an idx file; check "
        "data.root and the source's `images` and `annotations`"
    )
