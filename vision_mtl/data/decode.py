"""One decoder for training, evaluation and inference: a file -> RGB uint8 as a person sees the image.

OpenCV decodes what it decodes exactly (8-bit gray and RGB of JPEG, PNG and WebP; 16-bit colour of PNG and
TIFF), Pillow everything else. The orientation is applied here, once, whatever the decoder. Pixels that are
no plain 8-bit RGB become so:

- gray: three equal channels; palette and 1-bit: their colours; CMYK: RGB (Adobe's inverted kind too).
- transparency: laid on white, as viewers show it; colours below fully transparent pixels do not show.
- 16 bits: `value // 257`, so that 65535 is 255; 12-bit TIFF: 4095 is 255. A 12-bit image stored in 16 bits
  cannot be told from a dark 16-bit image and is read as one.
- 32-bit integers: as 16 bits where all values fit, refused otherwise.
- floats: [0, 1] is scaled to 255, [0, 255] rounded; refused otherwise.
- animations and multi-page files: the first frame.

A JPEG that will be shrunk anyway can be decoded at 1/2, 1/4 or 1/8 of its size (`read_reduced`): libjpeg then
computes only that part of each 8 x 8 block's cosine transform.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from PIL import ImageFile, TiffImagePlugin

from vision_mtl.data.headers import (
    DEFAULT_MAX_PIXELS,
    ORIENTATION_TAG,
    PILLOW_ERRORS,
    BadImageError,
    ImageHeader,
    describe,
    open_file,
    open_image,
    quiet,
    refuse_heavy,
)

JPEG_END = b"\xff\xd9"
TIFF_BITS, TIFF_PHOTOMETRIC = 258, 262
# OpenCV has no names for reduced RGB: these bits alone say the scale, IMREAD_COLOR_RGB the colours.
REDUCED = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}

Needs = Callable[[int, int], tuple[int, int]]
"""An image's (height, width) -> the least (height, width) that the caller will shrink it to."""


class Decoded(NamedTuple):
    """An image's pixels, perhaps at reduced scale.

    Attributes:
        pixels: (h, w, 3) uint8 RGB, contiguous.
        size: the image's own (height, width).
        factor: x in `pixels` is x * factor in the image, exactly: 1, 2, 4 or 8. Of a side that is no multiple
            of it, the last row or column of `pixels` reaches over the edge: h = ceil(height / factor).
    """

    pixels: np.ndarray
    size: tuple[int, int]
    factor: int = 1

    @classmethod
    def whole(cls, pixels: np.ndarray) -> Decoded:
        """Return (H, W, 3) pixels that are at full scale."""
        return cls(pixels, (pixels.shape[0], pixels.shape[1]))

    @property
    def span(self) -> tuple[int, int]:
        """The (height, width) that `pixels` cover, in the image's own pixels."""
        return self.pixels.shape[0] * self.factor, self.pixels.shape[1] * self.factor


def read_image(path: str | os.PathLike[str], max_pixels: int = DEFAULT_MAX_PIXELS) -> np.ndarray:
    """Return the image at `path`, (H, W, 3) uint8 RGB, contiguous; errors as of `read_reduced`."""
    return read_reduced(path, None, max_pixels).pixels


def read_reduced(
    path: str | os.PathLike[str], needs: Needs | None, max_pixels: int = DEFAULT_MAX_PIXELS
) -> Decoded:
    """Decode the image at `path`, EXIF orientation applied, at reduced scale where that is enough.

    Args:
        path: the file.
        needs: tells what the image will be shrunk to; None for its own size.
        max_pixels: of the whole image.

    Raises:
        BadImageError: missing, not an image, over `max_pixels`, far too large a file for its pixels, damaged
            or truncated, or of a pixel type that has no defined way to 8 bits.
    """
    name = os.fspath(path)
    try:
        with open_file(name) as file:
            with quiet():
                refuse_heavy(name, file, max_pixels)
            data = file.read()
    except OSError as error:
        raise BadImageError(name, f"cannot be read ({describe(error)})") from error
    with quiet():
        header, image = open_image(name, io.BytesIO(data), max_pixels)

    if header.format == "PNG":
        _check_png(name, data)
    elif header.format == "JPEG" and not data.endswith(JPEG_END):
        # Cut off, or something is appended: Pillow refuses a file that ends too early, OpenCV may not.
        image = _load_strictly(name, data.rstrip(b"\0"), max_pixels)

    size, factor, pixels = (header.height, header.width), 1, None
    if _opencv_is_exact(header, image):
        factor = _reduction(header, needs(*size) if needs else size)
        pixels = _decode_opencv(data, header, factor)
    if pixels is None:
        factor = 1
        with quiet():
            pixels = _decode_pillow(name, image, header.orientation)
    if pixels.shape != (-(-header.height // factor), -(-header.width // factor), 3):
        raise BadImageError(
            name,
            f"is damaged: its header says {header.width} x {header.height} pixels and "
            f"{pixels.shape[1]} x {pixels.shape[0]} were decoded{f' at 1/{factor}' if factor > 1 else ''}; "
            "replace the file",
        )
    return Decoded(pixels, size, factor)


def _reduction(header: ImageHeader, least: tuple[int, int]) -> int:
    """Return the factor to decode at, of which the pixels are nearly those of the area average.

    A half is near enough. 1/4 and 1/8 leave the last halving to the caller's resampling: without it sharp
    pictures were 2 to 4 levels of 255 off on average, with it about 1.
    """
    if header.format != "JPEG":
        return 1
    shrink = min(header.height / least[0], header.width / least[1])
    for factor in (8, 4, 2):
        # What reaches over the edge lies right and below in the file, and must still do so when it is turned.
        flush = (not _flips_rows(header.orientation) or header.height % factor == 0) and (
            not _flips_columns(header.orientation) or header.width % factor == 0
        )
        if flush and shrink >= (2 if factor == 2 else 2 * factor):
            return factor
    return 1


def _load_strictly(name: str, data: bytes, max_pixels: int) -> ImageFile.ImageFile:
    with quiet():
        _, image = open_image(name, io.BytesIO(data), max_pixels)
        try:
            image.load()
        except PILLOW_ERRORS as error:
            raise _damaged(name, error) from error
    return image


def _check_png(name: str, data: bytes) -> None:
    """Raise BadImageError unless all critical chunks are whole, up to the last; Pillow does not look."""
    offset, kind = 8, b""
    view = memoryview(data)
    while kind != b"IEND":
        length = int.from_bytes(view[offset : offset + 4], "big")
        end = offset + 8 + length
        kind = bytes(view[offset + 4 : offset + 8])
        if end + 4 > len(data):
            raise BadImageError(name, "is damaged: the PNG ends too early; replace the file")
        is_critical = kind[:1].isupper()
        if is_critical and zlib.crc32(view[offset + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            raise BadImageError(name, f"is damaged: wrong checksum in PNG chunk {kind!r}; replace the file")
        offset = end + 4


def _opencv_is_exact(header: ImageHeader, image: ImageFile.ImageFile) -> bool:
    if _is_deep_colour(image):
        # OpenCV turns TIFF whatever the flags say. Pillow's upper 8 bits are at most one level off.
        return header.format != "TIFF" or header.orientation == 1
    plain = image.mode in ("L", "RGB") and not image.has_transparency_data
    return plain and header.format in ("JPEG", "PNG", "WEBP") and not getattr(image, "is_animated", False)


def _is_deep_colour(image: ImageFile.ImageFile) -> bool:
    """Tell whether the file holds 16-bit colour, of which Pillow would keep the upper 8 bits."""
    return image.mode in ("RGB", "RGBA", "LA") and any(";16" in str(tile[3]) for tile in image.tile)


def _decode_opencv(data: bytes, header: ImageHeader, factor: int) -> np.ndarray | None:
    """Return (h, w, 3) uint8 turned pixels, or None where OpenCV cannot read the file."""
    # UNCHANGED keeps 16 bits and alpha, and leaves the orientation to us. JPEG has neither of the former,
    # and its decoder writes RGB at once, which saves a pass.
    flags = cv2.IMREAD_UNCHANGED
    if header.format == "JPEG":
        flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION | REDUCED[factor]
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    if pixels is None:
        return None
    if header.format == "JPEG":
        return _turn(pixels, header.orientation)
    if pixels.dtype == np.uint16:
        pixels = (pixels // 257).astype(np.uint8)
    if pixels.ndim == 2:
        pixels = _gray(pixels)
    elif pixels.shape[2] == 4:
        pixels = _on_white(cv2.cvtColor(pixels, cv2.COLOR_BGRA2RGBA))
    else:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
    return _turn(pixels, header.orientation)


def _decode_pillow(name: str, image: ImageFile.ImageFile, orientation: int) -> np.ndarray:
    """Return (H, W, 3) uint8 turned pixels."""
    try:
        image.load()
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            # Pillow turns TIFF while loading and then removes the tag; what is left is ours to do.
            orientation = image.tag_v2.get(ORIENTATION_TAG, 1)
        if image.mode.startswith("I;16"):
            pixels = _gray(_from_16_bits(image))
        elif image.mode == "I":
            pixels = _gray(_from_32_bits(name, np.asarray(image)))
        elif image.mode == "F":
            pixels = _gray(_from_floats(name, np.asarray(image)))
        elif image.has_transparency_data:
            pixels = _on_white(np.asarray(image.convert("RGBA")))
        else:
            pixels = np.asarray(image.convert("RGB"))
    except PILLOW_ERRORS as error:
        raise _damaged(name, error) from error
    return _turn(pixels, orientation)


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return (H, W, 3) stored pixels as EXIF orientation 1 to 8 wants them seen, contiguous and writable."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if _flips_rows(orientation):
        pixels = pixels[::-1]
    if _flips_columns(orientation):
        pixels = pixels[:, ::-1]
    return np.require(pixels, requirements=["C", "W"])  # Pillow's are read-only


def _flips_rows(orientation: int) -> bool:
    return orientation in (3, 4, 7, 8)


def _flips_columns(orientation: int) -> bool:
    return orientation in (2, 3, 6, 7)


def _gray(pixels: np.ndarray) -> np.ndarray:
    """(H, W) -> (H, W, 3)."""
    return np.repeat(pixels[:, :, None], 3, axis=2)


def _on_white(rgba: np.ndarray) -> np.ndarray:
    """(H, W, 4) uint8 -> (H, W, 3) uint8, laid on white."""
    colour = rgba[:, :, :3].astype(np.uint16)
    alpha = rgba[:, :, 3:].astype(np.uint16)
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)


def _from_16_bits(image: ImageFile.ImageFile) -> np.ndarray:
    values = np.asarray(image).astype(np.uint32)
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    white = 4095 if tags.get(TIFF_BITS) == (12,) else 65535
    pixels = (values * 255 // white).astype(np.uint8)
    if tags.get(TIFF_PHOTOMETRIC) == 0:
        pixels = 255 - pixels  # "white is zero", which Pillow applies to 8 bits only
    transparent = image.info.get("transparency")
    if transparent is not None:
        pixels[values == transparent] = 255
    return pixels


def _from_32_bits(name: str, values: np.ndarray) -> np.ndarray:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65535:
        raise BadImageError(
            name,
            f"has 32-bit pixels from {low} to {high}, where white is unknown; convert it to 8 or 16 bits",
        )
    return (values // 257).astype(np.uint8)


def _from_floats(name: str, values: np.ndarray) -> np.ndarray:
    low, high = float(values.min()), float(values.max())
    if not 0 <= low <= high <= 255:  # False for NaN too
        raise BadImageError(
            name,
            f"has float pixels from {low:g} to {high:g}, not in [0, 1] or [0, 255]; convert it to 8 bits",
        )
    return np.rint(values * 255 if high <= 1 else values).astype(np.uint8)


def _damaged(name: str, error: BaseException) -> BadImageError:
    return BadImageError(name, f"is damaged or of an unsupported kind ({describe(error)}); replace the file")
