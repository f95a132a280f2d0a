"""Reading images: known pixels for every mode and format, refused files, and the check before training."""

from __future__ import annotations

import csv
import io
import os
import pickle
import struct
import subprocess
import sys
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from vision_mtl.data.images import (
    BadImageError,
    FolderImages,
    check_images,
    looks_like_image,
    read_header,
    read_image,
)
from vision_mtl.errors import DataError

REPO = Path(__file__).resolve().parents[2]
ODD_IMAGES = REPO.parent / "shared" / "data" / "odd_images"

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


# Refused files


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_truncated(tmp_path: Path, name: str, share: float) -> None:
    data = encoded(photo(), name)
    path = tmp_path / "cut"
    path.write_bytes(data[: int(len(data) * share)])
    assert "replace the file" in refusal(path)


def test_truncated_behind_a_thumbnail_and_filled_with_zeros(tmp_path: Path) -> None:
    thumbnail = encoded(photo(16, 16), "JPEG")  # brings its own end marker
    data = encoded(photo(480, 640), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0" + thumbnail)
    path = tmp_path / "cut.jpg"
    path.write_bytes(data[: len(data) * 2 // 3])
    assert "damaged" in refusal(path)
    path.write_bytes(data[: len(data) * 2 // 3] + bytes(len(data) // 3))
    assert "damaged" in refusal(path)


def test_jpeg_with_something_appended_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "appended.jpg"
    data = encoded(photo(), "JPEG")
    path.write_bytes(data)
    whole = read_image(path)
    for tail in (b"\0" * 100, b"a maker's note", b"\n"):
        path.write_bytes(data + tail)
        np.testing.assert_array_equal(read_image(path), whole)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_flipped_bit_in_png(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "rotten.png"
    Image.fromarray(photo()).convert(mode).save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert "checksum" in refusal(path)


def test_damaged_jpeg_leaves_stderr_alone(tmp_path: Path) -> None:
    data = encoded(photo(), "JPEG")
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    code = (
        "import sys\nfrom vision_mtl.data.images import BadImageError, read_image\n"
        "try: read_image(sys.argv[1])\nexcept BadImageError: print('refused')"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(tmp_path / "cut.jpg")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=REPO, check=True)
    assert (result.stdout, result.stderr) == ("refused\n", "")


def test_no_image_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    assert "does not exist" in refusal(path)
    path.write_bytes(b"")
    assert "is empty" in refusal(path)
    path.write_text("<!DOCTYPE html><html>404</html>")
    assert "HTML" in refusal(path)
    path.write_bytes(b"%PDF-1.7 and so on")
    assert "is none of JPEG" in refusal(path)
    path.write_bytes(b"\xff\xd8\xff")
    assert "JPEG header cannot be read" in refusal(path)
    assert "is a folder" in refusal(tmp_path)
    assert "cannot be opened" in refusal(tmp_path / ("x" * 300))
    assert "cannot be opened" in refusal(Path("a\0.jpg"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="pipes have names on POSIX only")
def test_pipe_does_not_hang(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    assert "pipe" in refusal(tmp_path / "pipe.jpg")


def test_pixel_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(photo(48, 64), "PNG"))
    assert read_image(path, max_pixels=48 * 64).shape == (48, 64, 3)
    reason = refusal(path, max_pixels=48 * 64 - 1)
    assert "64 x 48 = 3,072 pixels" in reason
    assert "data.max_pixels" in reason
    with pytest.raises(BadImageError, match="max_pixels"):
        read_header(path, max_pixels=10)


def test_pixel_bombs(tmp_path: Path) -> None:
    png = bytearray(encoded(SEEN, "PNG"))
    png[16:24] = struct.pack(">II", 60_000, 60_000)
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    gif = (
        b"GIF89a"
        + struct.pack("<HH", 65535, 65535)
        + b"\0\0\0"
        + b",\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0;"
    )
    for data in (bytes(png), gif):
        (tmp_path / "bomb").write_bytes(data)
        assert "data.max_pixels" in refusal(tmp_path / "bomb")


def test_error_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(BadImageError("a.jpg", "is empty")))
    assert isinstance(error, DataError)
    assert (error.path, error.reason, str(error)) == ("a.jpg", "is empty", "a.jpg: is empty")


def test_looks_like_image(tmp_path: Path) -> None:
    (tmp_path / "no_extension").write_bytes(encoded(SEEN, "PNG"))
    (tmp_path / "broken.JPG").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("text")
    (tmp_path / "folder.png").mkdir()
    found = sorted(path.name for path in tmp_path.iterdir() if looks_like_image(path))
    assert found == ["broken.JPG", "no_extension"]
    assert not looks_like_image(tmp_path / "missing.jpg")


# The check before training


@dataclass
class Index:
    """What `check_images` reads of an AnnotationIndex."""

    names: list[str]
    sizes: np.ndarray
    path: str = "train.json"
    fingerprint: str = "f1"
    image_ids: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.image_ids = [100 + i for i in range(len(self.names))]

    def __len__(self) -> int:
        return len(self.names)

    def file_name(self, position: int) -> str:
        return self.names[position]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images a.png, b.png and sub/c.png of 2 x 3, and turned.jpg, stored 64 x 48 and seen 48 x 64."""
    root = tmp_path / "images"
    (root / "sub").mkdir(parents=True)
    for name in ("a.png", "b.png", "sub/c.png"):
        (root / name).write_bytes(encoded(SEEN, "PNG"))
    (root / "turned.jpg").write_bytes(encoded(photo(48, 64), "JPEG", exif=exif(6)))
    return root


def whole_index() -> Index:
    return Index(["a.png", "b.png", "sub/c.png", "turned.jpg"], np.array([[2, 3], [2, 3], [2, 3], [64, 48]]))


def test_folder_images(folder: Path) -> None:
    source = pickle.loads(pickle.dumps(FolderImages(folder, whole_index().file_name)))
    np.testing.assert_array_equal(source.read(2), SEEN)
    assert source.read(3).shape == (64, 48, 3)
    assert source.path(2) == str(folder / "sub" / "c.png")
    with pytest.raises(BadImageError, match="max_pixels"):
        FolderImages(folder, whole_index().file_name, max_pixels=5).read(0)


def test_whole_folder_is_good(folder: Path, tmp_path: Path) -> None:
    check = check_images(folder, whole_index(), tmp_path / "cache")
    assert check.bad == {}
    check.raise_if_bad()


def test_bad_files_are_named(folder: Path, tmp_path: Path) -> None:
    names = ["a.png", "missing.png", "b.png", "turned.jpg", "sub", "a.png", "x\0.png", "none/d.png"]
    sizes = np.array([[2, 3], [2, 3], [3, 2], [48, 64], [2, 3], [7, 7], [2, 3], [2, 3]])
    check = check_images(folder, Index(names, sizes), tmp_path / "cache")
    assert list(check.bad) == [1, 2, 3, 4, 5, 6, 7]
    assert check.bad[1].startswith("missing.png (image id 101): does not exist")
    assert "swapped" in check.bad[2]
    assert "EXIF orientation is 1" in check.bad[2]
    assert "48 x 64 pixels (width x height) once its EXIF orientation 6 is applied" in check.bad[3]
    assert "is a folder" in check.bad[4]
    assert "is 3 x 2 pixels (width x height), the annotations say 7 x 7" in check.bad[5]
    assert "zero byte" in check.bad[6]
    assert "does not exist" in check.bad[7]
    assert not (tmp_path / "cache").exists()


def test_error_lists_ten_files_the_total_and_the_cure(folder: Path, tmp_path: Path) -> None:
    names = [f"missing_{i:02}.png" for i in range(12)] + ["a.png"]
    check = check_images(folder, Index(names, np.tile([2, 3], (13, 1))), tmp_path / "cache")
    with pytest.raises(DataError) as caught:
        check.raise_if_bad()
    message = str(caught.value)
    assert message.startswith("train.json: 12 of 13 images in ")
    assert "missing_09.png" in message
    assert "missing_10.png" not in message
    assert "and 2 more" in message
    assert "data.bad_images=skip" in message


def test_links_and_names_that_leave_the_root(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "d.png").write_bytes(encoded(SEEN, "PNG"))
    (folder / "link.png").symlink_to(outside / "d.png")
    (folder / "inner.png").symlink_to(folder / "a.png")
    (folder / "linked").symlink_to(outside)
    names = ["link.png", "inner.png", "linked/d.png", "../outside/d.png", str(outside / "d.png")]
    index = Index(names, np.tile([2, 3], (5, 1)))
    check = check_images(folder, index, tmp_path / "cache")
    assert list(check.bad) == [0, 2, 3, 4]
    assert all("leads out of the folder" in reason for reason in check.bad.values())
    assert "data.follow_links" in check.bad[0]
    assert check_images(folder, index, tmp_path / "cache", follow_links=True).bad == {}


def test_root_may_itself_be_a_link(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(folder)
    assert check_images(tmp_path / "alias", whole_index(), tmp_path / "cache").bad == {}


def test_good_result_is_remembered(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    check_images(folder, whole_index(), cache)
    assert [path.suffix for path in cache.iterdir()] == [".json"]

    read = []
    monkeypatch.setattr("vision_mtl.data.images._find_fault", lambda *arguments: read.append(arguments[-1]))
    assert check_images(folder, whole_index(), cache).bad == {}
    assert read == []
    check_images(folder, whole_index(), cache, max_pixels=10_000)
    assert sorted(read) == [0, 1, 2, 3]
    other = whole_index()
    other.fingerprint = "f2"
    check_images(folder, other, cache)
    assert len(read) == 8


@pytest.mark.parametrize("name", ["a.png", "sub/c.png"])
def test_removed_file_is_noticed(folder: Path, tmp_path: Path, name: str) -> None:
    check_images(folder, whole_index(), tmp_path / "cache")
    (folder / name).unlink()
    check = check_images(folder, whole_index(), tmp_path / "cache")
    assert list(check.bad) == [whole_index().names.index(name)]


def test_torn_cache_is_checked_again(folder: Path, tmp_path: Path) -> None:
    check_images(folder, whole_index(), tmp_path / "cache")
    (remembered,) = (tmp_path / "cache").iterdir()
    remembered.write_text('{"torn')
    assert check_images(folder, whole_index(), tmp_path / "cache").bad == {}
    assert remembered.read_text() != '{"torn'


def test_cache_that_cannot_be_written_does_not_matter(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    assert check_images(folder, whole_index(), tmp_path / "cache").bad == {}


# Real files

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


@pytest.fixture(scope="module")
def odd_images() -> dict[str, Path]:
    if not ODD_IMAGES.is_dir():
        pytest.skip(f"the odd images are not at {ODD_IMAGES}")
    with open(ODD_IMAGES / "index.csv", newline="") as file:
        names = [row["path"] for row in csv.DictReader(file)]
    return {name: ODD_IMAGES / name for name in names if (ODD_IMAGES / name).exists()}


def test_odd_images(odd_images: dict[str, Path]) -> None:
    refused = {}
    for name, path in odd_images.items():
        try:
            pixels = read_image(path)
        except BadImageError as error:
            refused[name] = error.reason
        else:
            header = read_header(path)
            assert pixels.shape == (header.height, header.width, 3), name
    assert refused.keys() == REFUSED.keys()
    for name, reason in REFUSED.items():
        assert reason in refused[name], (name, refused[name])


@pytest.mark.parametrize("kind", ["landscape", "portrait"])
def test_odd_orientations_are_seen_alike(odd_images: dict[str, Path], kind: str) -> None:
    small = []
    for orientation in range(1, 9):
        pixels = read_image(odd_images[f"exif_samples__jpg__orientation__{kind}_{orientation}.jpg"])
        assert pixels.shape[:2] == ((450, 600) if kind == "landscape" else (600, 450))
        small.append(cv2.resize(pixels, (30, 30), interpolation=cv2.INTER_AREA).astype(float))
    for other in small[1:]:
        # Each shows its own number in the middle, and number 1 was exposed differently.
        assert np.corrcoef(small[1].ravel(), other.ravel())[0, 1] > 0.98
    assert np.corrcoef(small[0].ravel(), small[1].ravel())[0, 1] > 0.9


def test_odd_pixels(odd_images: dict[str, Path]) -> None:
    red = read_image(odd_images["pillow__pil_sample_cmyk.jpg"])[50:55, :50].max(axis=(0, 1))
    assert red[0] > 200
    corner = read_image(odd_images["pillow__pil_sample_cmyk.jpg"])[0, 0].astype(int)
    np.testing.assert_allclose(corner, [255, 13, 25], atol=3)
    fax = read_image(odd_images["pillow__g4_orientation_6.tif"])
    assert fax.shape == (88, 590, 3)
    assert fax.mean() > 200  # black text on white
