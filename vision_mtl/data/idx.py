"""A pair of idx files, MNIST's format, -> `AnnotationIndex` and `ImageSource`."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from vision_mtl.data.annotations import AnnotationIndex, Facts, ValidationReport
from vision_mtl.data.cache import cache_folder
from vision_mtl.data.coco_checks import pack_attributes, pack_names
from vision_mtl.data.idx_files import (
    Header,
    blocks,
    demand,
    is_gzipped,
    read_labels,
    read_pixels_header,
    unpack,
)
from vision_mtl.data.images import Decoded, ImageSource, Needs
from vision_mtl.errors import DataError
from vision_mtl.files import whole

FORMAT = 1  # of the unpacked copies; raise it with any change to them

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class IdxImages:
    """The images of an idx file.

    Attributes:
        file: the idx file.
        pixels: (I, H, W) grey or (I, H, W, 3) RGB, uint8; mapped from a file, or in memory.
    """

    file: Path
    pixels: np.ndarray

    def path(self, position: int) -> str:
        """Return the file and the number of image `position`, counted from 1 as its id is."""
        return _numbered(str(self.file), position)

    def read(self, position: int, needs: Needs | None = None) -> Decoded:
        """Return image `position` at its own size, which is never large."""
        del needs
        image = np.array(self.pixels[position])
        return Decoded.whole(image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle mapped pixels as the place to map, so that spawned workers share its pages."""
        pixels = self.pixels
        if isinstance(pixels, np.memmap):
            return _remapped, (self.file, pixels.filename, pixels.offset, pixels.shape)
        return IdxImages, (self.file, pixels)


def is_idx(path: Path) -> bool:
    """Return whether the name is an idx file's: `*-ubyte` or `*.idx`, with or without `.gz`."""
    return path.name.removesuffix(".gz").endswith(("-ubyte", ".idx"))


def read_idx(images: Path, labels: Path) -> tuple[AnnotationIndex, ImageSource]:
    """Read a file of pixels, (I, H, W) or (I, H, W, 3) uint8, and one of labels, (I,) whole numbers.

    The images have the ids 1 to I, no objects, and one attribute: `label`, a number. A plain file of pixels
    is mapped as it lies. A gzipped one is unpacked into the cache folder, again only if its path, size, time
    of change or inode is another, and mapped from there; where no cache can be written, into memory.

    Raises:
        DataError: a file cannot be read or is malformed, or there are not as many labels as images.
    """
    header = read_pixels_header(images)
    numbers = read_labels(labels)
    count = header.shape[0]
    expected = f"{count}, one for each image of '{images}'"
    demand(len(numbers) == count, labels, f"{len(numbers)} labels", expected, "give files of the same images")
    return _index(images, labels, header, numbers), IdxImages(images, _pixels(images, header))


def _numbered(file: str, position: int) -> str:
    return f"{file}#{position + 1:05d}"


def _index(images: Path, labels: Path, header: Header, numbers: np.ndarray) -> AnnotationIndex:
    """Return images with labels (I,) and without objects."""
    count = len(numbers)
    fields, attributes = pack_attributes(
        [{"label": msgspec.Raw(str(number).encode())} for number in numbers.tolist()]
    )
    arrays = {
        "image_ids": np.arange(1, count + 1, dtype=np.int64),
        "sizes": np.tile(np.array(header.shape[1:3], np.int64), (count, 1)),
        "offsets": np.zeros(count + 1, np.int64),
        "xywh": np.zeros((0, 4), np.float64),
        "areas": np.zeros(0, np.float64),
        "classes": np.zeros(0, np.int64),
        "crowd": np.zeros(0, bool),
        "usable": np.zeros(0, bool),
        "annotation_ids": np.zeros(0, np.int64),
        **pack_names([_numbered(images.name, position) for position in range(count)]),
        **attributes,
    }
    report = ValidationReport(images=count, negatives=count, annotations=0)
    fingerprint = hashlib.sha256(numbers.tobytes()).hexdigest()
    return AnnotationIndex(str(labels), arrays, Facts((), fingerprint, report, fields))


def _pixels(path: Path, header: Header) -> np.ndarray:
    """Return the pixels, mapped from the file or from its unpacked copy, else in memory."""
    if not is_gzipped(path):
        return np.memmap(path, np.uint8, "r", header.start, header.shape)
    copy = _copy_of(path)
    pixels = _mapped(copy, header)
    if pixels is None:
        try:
            _store(path, header, copy)
            pixels = _mapped(copy, header)
        except OSError as error:
            logger.warning("%s is unpacked into memory, not cached: %s. Set VISION_MTL_CACHE.", path, error)
    return unpack(path, header) if pixels is None else pixels


def _copy_of(path: Path) -> Path:
    """Return where the unpacked copy belongs: under the path's key, then that of the file as it is now."""
    stat = path.stat()
    stamp = f"{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ino}".encode()
    key, version = (hashlib.sha256(part).hexdigest()[:24] for part in (os.fsencode(path.resolve()), stamp))
    return cache_folder() / f"idx-v{FORMAT}-{key}-{version}.npy"


def _mapped(copy: Path, header: Header) -> np.ndarray | None:
    """Return the pixels of an unpacked copy, None where it is missing or damaged."""
    try:
        pixels = np.lib.format.open_memmap(copy, mode="r")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        problem = str(error)
    else:
        if (pixels.dtype, pixels.shape) == (header.dtype, header.shape):
            return pixels
        problem = f"it holds {pixels.dtype} {pixels.shape}"
    logger.warning("unpacking again, %s cannot be used: %s", copy, problem)
    return None


def _store(path: Path, header: Header, copy: Path) -> None:
    """Unpack the file to `copy`, which appears whole or not at all; remove copies of what it was before.

    Raises:
        OSError: the folder cannot be made or written to.
        DataError: the file is damaged.
    """
    with whole(copy) as temporary, temporary.open("wb") as stream:
        facts = {"descr": "|u1", "fortran_order": False, "shape": header.shape}
        np.lib.format.write_array_header_1_0(stream, facts)
        for block in blocks(path, header):
            stream.write(block)
    for other in copy.parent.glob(f"{copy.stem.rpartition('-')[0]}-*.npy"):
        if other != copy:
            with contextlib.suppress(OSError):  # it costs space, nothing else
                other.unlink()


def _remapped(file: Path, mapped: Path, offset: int, shape: tuple[int, ...]) -> IdxImages:
    try:
        return IdxImages(file, np.memmap(mapped, np.uint8, "r", offset, shape))
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: the file changed while it was in use. Start the command again.") from error
