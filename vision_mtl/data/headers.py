"""What an image file says about itself, read without decoding a pixel.

A file's format is told by its first bytes, never by its name, and the matching Pillow reader is called
directly: `PIL.Image.open` would add a limit on pixels of its own, which lives in a global variable.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from vision_mtl.errors import DataError

DEFAULT_MAX_PIXELS = 100_000_000

# fmt: off
IMAGE_EXTENSIONS = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff",
    ".ppm", ".pgm", ".pbm", ".pnm",
})
# fmt: on

OPENERS: dict[str, Callable[[BinaryIO], ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
}

SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (rb"\xff\xd8\xff", "JPEG"),
    (rb"\x89PNG\r\n\x1a\n", "PNG"),
    (rb"RIFF....WEBP", "WEBP"),
    (rb"BM", "BMP"),
    (rb"GIF8[79]a", "GIF"),
    (rb"II[*+]\0|MM\0[*+]", "TIFF"),
    (rb"P[1-6]\s", "PPM"),
)
SIGNATURE_BYTES = 16

LIGHT_BYTES = 64 * 2**20  # files up to this size are read, whatever they hold
BYTES_PER_PIXEL = 16  # four channels of 32 bits

# What Pillow's readers raise on malformed files.
PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    IndexError,
    KeyError,
    ArithmeticError,
    EOFError,
    MemoryError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)

ORIENTATION_TAG = 0x0112

_warnings_lock = threading.Lock()


class BadImageError(DataError):
    """An image file that cannot be used.

    Attributes:
        path: the file, as text.
        reason: what was found and what to do.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)  # kept as `args`, so that the error survives pickling
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class ImageHeader:
    """Format and size of an image file.

    Attributes:
        format: "JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF" or "PPM".
        width, height: pixels, as a person sees the image (EXIF orientation applied).
        stored_width, stored_height: pixels, as they lie in the file.
        orientation: EXIF orientation, 1 to 8; 1 where the file names none or nonsense.
    """

    format: str
    width: int
    height: int
    stored_width: int
    stored_height: int
    orientation: int


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Pillow's warnings in; one thread at a time, since Python's warning filters are global."""
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def read_header(path: str | os.PathLike[str], max_pixels: int = DEFAULT_MAX_PIXELS) -> ImageHeader:
    """Read format and size of the image at `path`; the pixels are not decoded.

    Raises:
        BadImageError: missing, a folder, empty, not an image, unreadable or over `max_pixels`.
    """
    with quiet():
        return read_header_aloud(path, max_pixels)


def read_header_aloud(path: str | os.PathLike[str], max_pixels: int) -> ImageHeader:
    """`read_header` for threads that run inside one `quiet()`."""
    name = os.fspath(path)
    try:
        with open_file(name) as file:
            refuse_heavy(name, file, max_pixels)
            return open_image(name, file, max_pixels)[0]
    except OSError as error:
        raise BadImageError(name, f"cannot be read ({describe(error)})") from error


def looks_like_image(path: str | os.PathLike[str]) -> bool:
    """Tell whether `path` is a file with an image's extension or an image's first bytes."""
    name = os.fspath(path)
    if not os.path.isfile(name):
        return False
    if os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS:
        return True
    try:
        with open(name, "rb") as file:
            return image_format(file.read(SIGNATURE_BYTES)) is not None
    except OSError:
        return False


def image_format(head: bytes) -> str | None:
    """Return the format that a file's first `SIGNATURE_BYTES` bytes announce, or None."""
    for pattern, name in SIGNATURES:
        if re.match(pattern, head, re.DOTALL):
            return name
    return None


def open_file(name: str) -> BinaryIO:
    """Open a regular file for reading; BadImageError where there is none or it may not be read."""
    try:
        mode = os.stat(name).st_mode
        if stat.S_ISDIR(mode):
            raise BadImageError(name, "is a folder; an image file was expected")
        if not stat.S_ISREG(mode):
            raise BadImageError(name, "is a pipe or a device; an image file was expected")
        return open(name, "rb")
    except FileNotFoundError:
        raise BadImageError(name, "does not exist; restore the file or correct its name") from None
    except (OSError, ValueError) as error:  # ValueError: a name that no file system can hold
        raise BadImageError(name, f"cannot be opened ({describe(error)})") from error


def open_image(name: str, file: BinaryIO, max_pixels: int) -> tuple[ImageHeader, ImageFile.ImageFile]:
    """Read the header of an open file; return it with the Pillow image, whose pixels are not loaded yet.

    Raises:
        BadImageError: `file` is empty, no known image, unreadable, or over `max_pixels`.
    """
    head = file.read(SIGNATURE_BYTES)
    kind = image_format(head)
    if kind is None:
        raise BadImageError(name, _not_an_image(head))
    if kind == "WEBP":
        _refuse_webp_canvas(name, file, max_pixels)
    file.seek(0)
    try:
        image = OPENERS[kind](file)
        header = _header(kind, image)
    except Image.DecompressionBombError as error:  # the GIF and WebP readers' own limit, 179 million
        raise BadImageError(name, f"has too many pixels for data.max_pixels ({error}); shrink it") from error
    except PILLOW_ERRORS as error:
        reason = f"its {kind} header cannot be read ({describe(error)}); replace the file"
        raise BadImageError(name, reason) from error
    _refuse_pixels(name, header.width, header.height, max_pixels)
    return header, image


def _refuse_pixels(name: str, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise BadImageError(
            name,
            f"has {width} x {height} = {width * height:,} pixels, more than "
            f"data.max_pixels = {max_pixels:,}; shrink the image or raise the limit",
        )


def _refuse_webp_canvas(name: str, file: BinaryIO, max_pixels: int) -> None:
    """Refuse an extended WebP by the size in its header (RFC 9649, section 2.7): Pillow's reader allocates
    two canvases of it at once, and says nothing of pixels where it cannot."""
    file.seek(0)
    head = file.read(30)
    if head[12:16] == b"VP8X" and len(head) == 30:
        width, height = (1 + int.from_bytes(head[at : at + 3], "little") for at in (24, 27))
        _refuse_pixels(name, width, height, max_pixels)


def refuse_heavy(name: str, file: BinaryIO, max_pixels: int) -> None:
    """Raise BadImageError for a file that is far larger than its pixels can be: it is read into memory whole.

    `file` is at its start before and after. Raises BadImageError also for what `open_image` refuses.
    """
    size = os.fstat(file.fileno()).st_size
    if size <= LIGHT_BYTES:
        return
    header, _ = open_image(name, file, max_pixels)
    file.seek(0)
    if size > LIGHT_BYTES + BYTES_PER_PIXEL * header.width * header.height:
        raise BadImageError(
            name,
            f"has {size:,} bytes, far more than an image of {header.width} x {header.height} pixels needs; "
            "save the image alone",
        )


def describe(error: BaseException) -> str:
    """Return an error's cause in a few words."""
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__


def _header(kind: str, image: ImageFile.ImageFile) -> ImageHeader:
    width, height = image.size
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        # Pillow reports a TIFF's size turned already, and not in all versions.
        width, height = image.tag_v2[256], image.tag_v2[257]
        orientation = image.tag_v2.get(ORIENTATION_TAG, 1)
    else:
        orientation = exif_orientation(image.info.get("exif", b""))
    if orientation not in range(1, 9):
        orientation = 1
    seen = (height, width) if orientation >= 5 else (width, height)
    return ImageHeader(kind, *seen, width, height, orientation)


def exif_orientation(exif: bytes) -> int:
    """Return the orientation that an EXIF block names; 1 where it names none or is damaged.

    Parsed here because Pillow's `getexif` decodes a whole PNG to look for a late EXIF block.
    """
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for offset in range(start + 2, start + 2 + 12 * count, 12):
            tag, _kind, _count, value = struct.unpack_from(f"{order}HHIH", exif, offset)
            if tag == ORIENTATION_TAG:
                return int(value)
    except struct.error:
        pass  # the block ends early: it names no orientation
    return 1


def _not_an_image(head: bytes) -> str:
    if not head:
        return "is empty (0 bytes); download or export it again"
    if head.lstrip().startswith(b"<"):
        return "is an HTML or XML text and no image, perhaps of a failed download; download it again"
    known = ", ".join(OPENERS)
    return f"is none of {known} (it begins with {head[:8]!r}); convert the file to JPEG or PNG"
