"""idx files that cannot be used: one error that says where, what was found, what was expected, what to do."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from tests.data.idx_files import idx_bytes, write_idx, write_pair
from vision_mtl.data import idx_files as format_module
from vision_mtl.data.idx import read_idx
from vision_mtl.errors import DataError

GREY = np.arange(3 * 2 * 4, dtype=np.uint8).reshape(3, 2, 4)
LABELS = np.array([7, 0, 7], np.uint8)
FLOATS = np.zeros((3, 2, 4), ">f4")
WHOLE = idx_bytes(GREY)
HUGE = (1 << 32) - 1
BIG = (1 << 26, 2, 4)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder, empty."""
    monkeypatch.setenv("VISION_MTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def refused(pixels: Path, labels: Path) -> str:
    with pytest.raises(DataError) as error:
        read_idx(pixels, labels)
    text = str(error.value)
    assert all(word in text for word in ("found ", ", expected ", "; "))
    assert "\n" not in text
    return text


@pytest.mark.parametrize("end", [".idx", ".idx.gz"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "found the first bytes '', expected '00 00', the type"),
        (b"\0\0\x08", "found the first bytes '00 00 08'"),
        (b"\x89PNG\r\n\x1a\n", "found the first bytes '89 50 4e 47'"),
        (bytes([0, 0, 7, 3]) + WHOLE[4:], "found the type 07, expected one of 08 (uint8), 09 (int8), 0b"),
        (WHOLE[:10], "found a header of 10 bytes, expected 16, for 3 dimensions; it is cut short"),
        (idx_bytes(LABELS), "found the dimensions (3,), expected (images, height, width) or"),
        (idx_bytes(GREY, shape=(3, 2, 2, 2)), "found the dimensions (3, 2, 2, 2), expected (images, height"),
        (idx_bytes(GREY, shape=(3, 2, 2, 2, 1)), "found the dimensions (3, 2, 2, 2, 1)"),
        (idx_bytes(FLOATS, 0x0D), "found pixels of type float32, expected uint8; write them as bytes"),
        (idx_bytes(GREY, 0x09), "found pixels of type int8, expected uint8"),
        (idx_bytes(GREY[:0]), "found the dimensions (0, 2, 4), expected at least one image"),
        (idx_bytes(GREY[:, :0]), "found the dimensions (3, 0, 4), expected at least one image of one pixel"),
        (WHOLE[:-1], "bytes"),
        (WHOLE + b"\0", "bytes"),
    ],
)  # fmt: skip
def test_pixels(tmp_path: Path, folder: Path, content: bytes, message: str, end: str) -> None:
    _, labels = write_pair(tmp_path, GREY, LABELS)
    pixels = write_idx(tmp_path / f"bad{end}", content)
    text = refused(pixels, labels)
    assert text.startswith(f"{pixels}: found ")
    assert message in text
    assert not list(folder.glob("*"))  # no half-made copy is left


@pytest.mark.parametrize("end", [".idx", ".idx.gz"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (WHOLE, "found the dimensions (3, 2, 4), expected one: a label for each image; give"),
        (idx_bytes(np.zeros(3, ">f8"), 0x0E), "found labels of type float64, expected whole numbers; "),
        (idx_bytes(LABELS[:0]), "found no labels, expected at least one"),
        (idx_bytes(LABELS[:2]), "found 2 labels, expected 3, one for each image of '"),
        (idx_bytes(LABELS)[:-1], "bytes"),
        (idx_bytes(LABELS) + b"\0", "bytes"),
        (idx_bytes(LABELS, 0x0B), "bytes"),
    ],
)  # fmt: skip
def test_labels(tmp_path: Path, folder: Path, content: bytes, message: str, end: str) -> None:
    pixels, _ = write_pair(tmp_path, GREY, LABELS)
    labels = write_idx(tmp_path / f"bad{end}", content)
    text = refused(pixels, labels)
    assert text.startswith(f"{labels}: found ")
    assert message in text
    assert not list(folder.glob("*"))


def test_lengths_are_told(tmp_path: Path) -> None:
    _, labels = write_pair(tmp_path, GREY, LABELS)

    def told(name: str, content: bytes) -> str:
        return refused(write_idx(tmp_path / name, content), labels).partition("found ")[2]

    expected = "expected {}, for the dimensions (3, 2, 4)"
    assert told("a.idx", WHOLE[:-1]).startswith("39 bytes, " + expected.format("40"))
    assert told("b.idx", WHOLE + b"\0").startswith("41 bytes, " + expected.format("40"))
    assert told("c.gz", WHOLE[:-1]).startswith("23 bytes behind the header, " + expected.format("24"))
    more = "more than 24 bytes behind the header, "
    assert told("d.gz", WHOLE + b"\0").startswith(more + expected.format("24"))


@pytest.mark.parametrize("cut", [10, 25, -9, -1])
def test_gzip_that_is_cut_short(tmp_path: Path, folder: Path, cut: int) -> None:
    pixels, labels = write_pair(tmp_path, GREY, LABELS)
    for path in (pixels, labels):
        content = path.read_bytes()
        path.write_bytes(content[:cut])
        text = refused(pixels, labels)
        assert text.startswith(f"{path}: found damaged gzip data (")
        assert "download it again" in text
        path.write_bytes(content)
    assert not list(folder.glob("*"))


def test_gzip_with_a_wrong_checksum(tmp_path: Path, folder: Path) -> None:
    pixels, labels = write_pair(tmp_path, GREY, LABELS)
    content = bytearray(pixels.read_bytes())
    content[-8] ^= 1
    pixels.write_bytes(content)
    assert "damaged gzip data (CRC check failed" in refused(pixels, labels)
    assert not list(folder.glob("*"))


def test_names_that_are_wrong_about_gzip(tmp_path: Path) -> None:
    _, labels = write_pair(tmp_path, GREY, LABELS)
    plain, packed = tmp_path / "plain.idx.gz", tmp_path / "packed.idx"
    plain.write_bytes(WHOLE)
    text = refused(plain, labels)
    assert "damaged gzip data (Not a gzipped file" in text
    assert text.endswith("or take .gz off its name if it is not gzipped")
    packed.write_bytes(gzip.compress(WHOLE))
    text = refused(packed, labels)
    assert "found the first bytes '1f 8b 08 " in text
    assert text.endswith("; it is gzipped: add .gz to its name")


def test_files_that_are_none(tmp_path: Path) -> None:
    _, labels = write_pair(tmp_path, GREY, LABELS)
    for name in ("none.idx", "none.idx.gz"):
        text = refused(tmp_path / name, labels)
        assert text.startswith(f"{tmp_path / name}: found a file that cannot be read (No such file")
    (tmp_path / "folder.idx").mkdir()
    assert "(Is a directory)" in refused(tmp_path / "folder.idx", labels)


@pytest.mark.parametrize("end", [".idx", ".idx.gz"])
@pytest.mark.parametrize("shape", [(HUGE, HUGE, HUGE), BIG])
def test_counts_that_the_file_cannot_hold_take_no_memory(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], end: str
) -> None:
    good = write_pair(tmp_path, GREY, LABELS, end)
    bad = write_idx(tmp_path / f"bad{end}", idx_bytes(GREY, shape=shape))
    long = write_idx(tmp_path / f"long{end}", idx_bytes(LABELS, shape=shape[:1]))

    def refuse(*_: object) -> None:
        pytest.fail("memory was asked for")

    monkeypatch.setattr(format_module.np, "empty", refuse)
    assert f"for the dimensions {shape}" in refused(bad, good[1])
    assert f"for the dimensions {shape[:1]}" in refused(good[0], long)
    assert not list(folder.glob("*"))


def test_of_a_bomb_no_more_is_unpacked_than_was_promised(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels, labels = write_pair(tmp_path, GREY, LABELS)
    asked: dict[str, int] = {}
    read = gzip.GzipFile.read

    def counted(self: gzip.GzipFile, size: int = -1) -> bytes:
        content = read(self, size)
        assert size >= 0
        asked[str(self.name)] = max(asked.get(str(self.name), 0), self.tell())
        return content

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    bomb = write_idx(tmp_path / "bomb.gz", WHOLE + bytes(20_000_000))
    assert "more than 24 bytes behind the header" in refused(bomb, labels)
    long = write_idx(tmp_path / "long.gz", idx_bytes(LABELS) + bytes(20_000_000))
    assert "more than 3 bytes behind the header" in refused(pixels, long)
    assert (asked[str(bomb)], asked[str(long)]) == (16 + 24 + 1, 8 + 3 + 1)
    assert not list(folder.glob("*"))


def test_what_gzip_packs_best_is_accepted(tmp_path: Path) -> None:
    black = np.zeros((2, 1000, 1000), np.uint8)
    index, images = read_idx(*write_pair(tmp_path, black, LABELS[:2]))
    assert index.sizes.tolist() == [[1000, 1000]] * 2
    assert not images.read(1).pixels.any()
