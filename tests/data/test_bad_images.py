"""Files that cannot be read: refused with a reason; and real odd files."""

from __future__ import annotations

import csv
import os
import pickle
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from vision_mtl.data.images import (
    BadImageError,
    looks_like_image,
    read_header,
    read_image,
)
from vision_mtl.errors import DataError

from .image_files import ODD_IMAGES, REFUSED, REPO, SEEN, encoded, photo, refusal

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
    webp = b"RIFF\x64\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\xff\xff\xff\xff\0\0" + bytes(80)
    for data in (bytes(png), gif, webp):
        (tmp_path / "bomb").write_bytes(data)
        assert "data.max_pixels" in refusal(tmp_path / "bomb")


def test_far_too_large_a_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "heavy.png"
    path.write_bytes(encoded(SEEN, "PNG"))
    os.truncate(path, 64 * 2**20 + 16 * 6)
    assert read_header(path).width == 3
    os.truncate(path, 64 * 2**20 + 16 * 6 + 1)
    assert "67,108,961 bytes, far more than an image of 3 x 2 pixels" in refusal(path)
    with pytest.raises(BadImageError, match="far more"):
        read_header(path)


def test_pixels_can_be_written_to(tmp_path: Path) -> None:
    for name in ("PNG", "BMP", "GIF", "TIFF"):
        (tmp_path / name).write_bytes(encoded(SEEN, name))
        assert read_image(tmp_path / name).flags.writeable


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


# Real files


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
