"""Reading images: known pixels for every mode, format and orientation."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from vision_mtl.data.images import (
    read_header,
    read_image,
)

from .image_files import SEEN, STORED, encoded, exif, photo, refusal, tiff

# Orientation


@pytest.mark.parametrize("name", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_seen_alike(tmp_path: Path, name: str, orientation: int) -> None:
    path = tmp_path / "image"
    options = {"lossless": True} if name == "WEBP" else {}
    stored = np.ascontiguousarray(STORED[orientation])
    path.write_bytes(encoded(stored, name, exif=exif(orientation), **options))

    np.testing.assert_array_equal(read_image(path), SEEN)
    header = read_header(path)
    assert (header.format, header.width, header.height, header.orientation) == (name, 3, 2, orientation)
    assert (header.stored_height, header.stored_width) == stored.shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_16_bit_colour_and_jpeg_are_turned_too(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "deep.tif"
    path.write_bytes(tiff(STORED[orientation].astype(np.uint16) * 257, {274: orientation}))
    np.testing.assert_array_equal(read_image(path), SEEN)

    path = tmp_path / "large.jpg"
    stored = np.kron(STORED[orientation], np.ones((16, 16, 1), np.uint8))
    path.write_bytes(encoded(stored, "JPEG", exif=exif(orientation), quality=95, subsampling=0))
    np.testing.assert_allclose(read_image(path)[8::16, 8::16].astype(int), SEEN, atol=4)


@pytest.mark.parametrize("orientation", [0, 9, 4711])
def test_orientation_out_of_range_turns_nothing(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(SEEN, "PNG", exif=exif(orientation)))
    np.testing.assert_array_equal(read_image(path), SEEN)


@pytest.mark.parametrize("block", [b"", b"Exif\0\0", b"II*\0\xff\xff", b"MM\0*\0\0\0\x08\0\x05", b"garbage"])
def test_damaged_exif_turns_nothing(tmp_path: Path, block: bytes) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(photo(), "JPEG", exif=block or b"Exif\0\0"))
    assert read_header(path).orientation == 1
    assert read_image(path).shape == (48, 64, 3)


def test_big_endian_exif(tmp_path: Path) -> None:
    block = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">HHHIHHI", 1, 0x0112, 3, 1, 6, 0, 0)
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(photo(48, 64), "JPEG", exif=block))
    assert read_image(path).shape == (64, 48, 3)


# Pixels


@pytest.mark.parametrize("name", ["PNG", "WEBP", "BMP", "TIFF", "PPM"])
def test_lossless_formats_keep_rgb(tmp_path: Path, name: str) -> None:
    path = tmp_path / "image.of_any_name"
    path.write_bytes(encoded(photo(), name, **({"lossless": True} if name == "WEBP" else {})))
    pixels = read_image(path)
    assert pixels.dtype == np.uint8
    assert pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, photo())
    assert read_header(path).format == name


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_keeps_rgb_nearly(tmp_path: Path, progressive: bool) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded(photo(), "JPEG", quality=95, subsampling=0, progressive=progressive))
    np.testing.assert_allclose(read_image(path).astype(int), photo(), atol=12)


@pytest.mark.parametrize("name", ["JPEG", "PNG", "BMP", "TIFF", "GIF", "PPM"])
def test_gray_gets_three_equal_channels(tmp_path: Path, name: str) -> None:
    gray = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    path = tmp_path / "gray"
    path.write_bytes(encoded(gray, name, **({"quality": 100} if name == "JPEG" else {})))
    pixels = read_image(path)
    assert (pixels == pixels[:, :, :1]).all()
    np.testing.assert_allclose(pixels[:, :, 0].astype(int), gray, atol=2 if name == "JPEG" else 0)


@pytest.mark.parametrize("name", ["PNG", "TIFF", "BMP"])
def test_one_bit(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bits"
    Image.fromarray(np.array([[0, 255, 255]], np.uint8)).convert("1").save(path, name)
    np.testing.assert_array_equal(read_image(path)[0, :, 0], [0, 255, 255])


def test_palette(tmp_path: Path) -> None:
    path = tmp_path / "palette.png"
    image = Image.new("P", (2, 1))
    image.putpalette([9, 8, 7, 200, 100, 50])
    image.putdata([1, 0])
    image.save(path)
    np.testing.assert_array_equal(read_image(path), [[[200, 100, 50], [9, 8, 7]]])
    image.save(path, transparency=0)
    np.testing.assert_array_equal(read_image(path), [[[200, 100, 50], [255, 255, 255]]])


@pytest.mark.parametrize("name", ["PNG", "WEBP", "TIFF"])
def test_transparency_is_laid_on_white(tmp_path: Path, name: str) -> None:
    path = tmp_path / "rgba"
    rgba = np.array([[[200, 100, 50, 255], [200, 100, 50, 0], [200, 100, 0, 51]]], np.uint8)
    path.write_bytes(encoded(rgba, name, **({"lossless": True, "exact": True} if name == "WEBP" else {})))
    np.testing.assert_array_equal(read_image(path), [[[200, 100, 50], [255, 255, 255], [244, 224, 204]]])


def test_gray_with_transparency_and_transparent_colours(tmp_path: Path) -> None:
    path = tmp_path / "la.png"
    Image.merge("LA", [Image.new("L", (1, 1), 100), Image.new("L", (1, 1), 51)]).save(path)
    np.testing.assert_array_equal(read_image(path), [[[224, 224, 224]]])

    Image.fromarray(SEEN).save(path, transparency=(10, 20, 30))
    expected = SEEN.copy()
    expected[1, 0] = 255
    np.testing.assert_array_equal(read_image(path), expected)


def test_cmyk(tmp_path: Path) -> None:
    inks = np.zeros((16, 48, 4), np.uint8)
    inks[:, :16] = [0, 255, 255, 0]  # red
    inks[:, 16:32] = [255, 0, 0, 0]  # cyan
    inks[:, 32:] = [0, 0, 0, 255]  # black
    image = Image.frombytes("CMYK", (48, 16), inks.tobytes())
    for name, tolerance in (("JPEG", 3), ("TIFF", 0)):
        path = tmp_path / "cmyk"
        image.save(path, name, **({"quality": 100, "subsampling": 0} if name == "JPEG" else {}))
        found = read_image(path)[8, 8::16].astype(int)
        np.testing.assert_allclose(found, [[255, 0, 0], [0, 255, 255], [0, 0, 0]], atol=tolerance)


@pytest.mark.parametrize("extension", [".png", ".tif", ".pgm"])
def test_16_bit_gray_is_divided_by_257(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"deep{extension}"
    cv2.imwrite(str(path), np.array([[0, 256, 257, 514, 65279, 65535]], np.uint16))
    np.testing.assert_array_equal(read_image(path)[0, :, 1], [0, 0, 1, 2, 254, 255])


@pytest.mark.parametrize("extension", [".png", ".tif"])
def test_16_bit_colour_is_divided_by_257(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"deep{extension}"
    bgr = np.array([[[0, 256, 257], [514, 65279, 65535]]], np.uint16)
    cv2.imwrite(str(path), bgr)
    np.testing.assert_array_equal(read_image(path), [[[1, 0, 0], [255, 254, 2]]])


def test_16_bit_alpha(tmp_path: Path) -> None:
    path = tmp_path / "deep.png"
    cv2.imwrite(str(path), np.array([[[0, 0, 65535, 65535], [0, 0, 65535, 0]]], np.uint16))
    np.testing.assert_array_equal(read_image(path), [[[255, 0, 0], [255, 255, 255]]])


def test_16_bit_white_is_zero(tmp_path: Path) -> None:
    path = tmp_path / "inverted.tif"
    path.write_bytes(tiff(np.array([[0, 65535]], np.uint16), {262: 0}))
    np.testing.assert_array_equal(read_image(path)[0, :, 0], [255, 0])


def test_32_bit_integers_as_16_bits_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "int.tif"
    path.write_bytes(tiff(np.array([[0, 257, 65535]], np.int32), {339: 2}))
    np.testing.assert_array_equal(read_image(path)[0, :, 0], [0, 1, 255])
    path.write_bytes(tiff(np.array([[0, 65536]], np.int32), {339: 2}))
    assert "32-bit pixels from 0 to 65536" in refusal(path)
    path.write_bytes(tiff(np.array([[-1, 5]], np.int32), {339: 2}))
    assert "32-bit pixels from -1 to 5" in refusal(path)


def test_floats_in_a_known_range_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "float.tif"
    path.write_bytes(tiff(np.array([[0, 0.2, 1]], np.float32), {339: 3}))
    np.testing.assert_array_equal(read_image(path)[0, :, 0], [0, 51, 255])
    path.write_bytes(tiff(np.array([[0, 1.4, 254.6]], np.float32), {339: 3}))
    np.testing.assert_array_equal(read_image(path)[0, :, 0], [0, 1, 255])
    for values in ([-0.5, 1], [0, 256], [np.nan, 1], [0, np.inf]):
        path.write_bytes(tiff(np.array([values], np.float32), {339: 3}))
        assert "float pixels" in refusal(path)


@pytest.mark.parametrize("name", ["GIF", "PNG", "WEBP", "TIFF"])
def test_animation_gives_its_first_frame(tmp_path: Path, name: str) -> None:
    path = tmp_path / "frames"
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    options = {"lossless": True} if name == "WEBP" else {}
    frames[0].save(path, name, save_all=True, append_images=frames[1:], **options)
    np.testing.assert_array_equal(read_image(path), np.full((4, 4, 3), [255, 0, 0]))


@pytest.mark.parametrize("shape", [(1, 1), (1, 4000), (4000, 1)])
@pytest.mark.parametrize("name", ["PNG", "JPEG"])
def test_extreme_shapes(tmp_path: Path, shape: tuple[int, int], name: str) -> None:
    path = tmp_path / "thin"
    path.write_bytes(encoded(np.full((*shape, 3), 255, np.uint8), name))
    np.testing.assert_array_equal(read_image(path), np.full((*shape, 3), 255))
