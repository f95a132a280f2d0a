"""idx files: what a pair of them means, the unpacked copy in the cache, and what other processes get."""

from __future__ import annotations

import gzip
import logging
import multiprocessing
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.data.idx_files import idx_bytes, write_idx, write_pair
from vision_mtl.data import idx as idx_module
from vision_mtl.data.idx import IdxImages, is_idx, read_idx
from vision_mtl.data.labels import LabelSource, read_labels
from vision_mtl.errors import DataError

GREY = np.arange(3 * 2 * 4, dtype=np.uint8).reshape(3, 2, 4)
COLOUR = np.arange(3 * 2 * 4 * 3, dtype=np.uint8).reshape(3, 2, 4, 3)
LABELS = np.array([7, 0, 7], np.uint8)
ENDS = (".idx", ".idx.gz")
MNIST = Path(__file__).parents[3] / "shared/data/mnist"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder, empty."""
    monkeypatch.setenv("VISION_MTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("train-images-idx3-ubyte.gz", True),
        ("train-images.idx3-ubyte", True),
        ("t10k-labels-idx1-ubyte", True),
        ("labels.idx", True),
        ("labels.idx.gz", True),
        ("annotations.json", False),
        ("labels.gz", False),
        ("ubyte.json.gz", False),
    ],
)
def test_names(name: str, expected: bool) -> None:
    assert is_idx(Path("somewhere.idx") / name) == expected


@pytest.mark.parametrize("end", ENDS)
def test_grey_images_and_their_labels(tmp_path: Path, folder: Path, end: str) -> None:
    paths = write_pair(tmp_path, GREY, LABELS, end)
    index, images = read_idx(*paths)
    assert len(index) == 3
    assert index.image_ids.tolist() == [1, 2, 3]
    assert index.sizes.tolist() == [[2, 4]] * 3
    assert index.file_name(1) == f"pixels{end}#00002"
    assert images.path(1) == f"{paths[0]}#00002"
    assert index.path == str(paths[1])
    assert index.attribute_fields == ["label"]
    assert index.attribute("label") == [7, 0, 7]
    for position in range(3):
        image = images.read(position).pixels
        assert image.dtype == np.uint8
        assert image.flags.writeable
        assert np.array_equal(image, np.stack([GREY[position]] * 3, axis=2))


@pytest.mark.parametrize("end", ENDS)
def test_colours_are_in_their_order(tmp_path: Path, folder: Path, end: str) -> None:
    index, images = read_idx(*write_pair(tmp_path, COLOUR, LABELS, end))
    assert index.sizes.tolist() == [[2, 4]] * 3
    assert np.array_equal(images.read(2).pixels, COLOUR[2])
    images.read(2).pixels[:] = 0
    assert np.array_equal(images.read(2).pixels, COLOUR[2])


def test_there_are_no_objects(tmp_path: Path, folder: Path) -> None:
    index, _ = read_idx(*write_pair(tmp_path, GREY, LABELS))
    assert index.categories == ()
    assert index.objects(2).boxes.shape == index.all_objects()[1].boxes.shape == (0, 4)
    assert index.report.lines() == ["3 images (3 without annotations), 0 annotations"]


def test_labels_are_classes_by_their_text(tmp_path: Path, folder: Path) -> None:
    index, _ = read_idx(*write_pair(tmp_path, GREY, LABELS))
    source = LabelSource(kind="single", source="attribute", field="label")
    labels = read_labels("digit", source, index, tmp_path, None)
    assert labels.vocabulary == ("0", "7")
    assert labels.targets.tolist() == [1, 0, 1]


@pytest.mark.parametrize(("kind", "dtype"), [(0x09, "i1"), (0x0B, ">i2"), (0x0C, ">i4")])
def test_labels_of_other_whole_numbers(tmp_path: Path, folder: Path, kind: int, dtype: str) -> None:
    values = {"i1": [-1, 5, -128], ">i2": [300, -2, 5], ">i4": [1 << 20, -(1 << 31), 7]}[dtype]
    pixels, _ = write_pair(tmp_path, GREY, LABELS)
    wide = write_idx(tmp_path / "wide.idx", idx_bytes(np.array(values, dtype), kind))
    assert read_idx(pixels, wide)[0].attribute("label") == values


def test_the_fingerprint_tells_labels_apart(tmp_path: Path, folder: Path) -> None:
    first, again, other = (
        read_idx(*write_pair(tmp_path / name, GREY, labels))[0].fingerprint
        for name, labels in (("a", LABELS), ("b", LABELS), ("c", LABELS + 1))
    )
    assert first == again != other


@pytest.mark.skipif(not MNIST.is_dir(), reason="../shared/data/mnist is not here")
def test_mnist_itself(folder: Path) -> None:
    index, images = read_idx(MNIST / "t10k-images-idx3-ubyte.gz", MNIST / "t10k-labels-idx1-ubyte.gz")
    assert len(index) == 10_000
    assert np.array_equal(np.unique(index.sizes, axis=0), [[28, 28]])
    assert index.attribute("label")[:8] == [7, 2, 1, 0, 4, 1, 4, 9]
    seven = images.read(0).pixels[..., 0]
    rows, columns = np.nonzero(seven > 127)
    assert (rows.min(), rows.max()) == (7, 26)  # the digits' boxes have 20 pixels
    bar, stem = np.ptp(columns[rows < 10]), np.ptp(columns[rows > 20])
    assert bar > 2 * stem


# The unpacked copy


def copies(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.exists() else []


def forbid_unpacking(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        pytest.fail("the pixels were unpacked again")

    monkeypatch.setattr(idx_module, "blocks", refuse)
    monkeypatch.setattr(idx_module, "unpack", refuse)


def test_a_plain_file_is_mapped_as_it_lies(tmp_path: Path, folder: Path) -> None:
    _, images = read_idx(*write_pair(tmp_path, GREY, LABELS, ".idx"))
    assert isinstance(images, IdxImages)
    assert isinstance(images.pixels, np.memmap)
    assert not images.pixels.flags.writeable
    assert copies(folder) == []


def test_a_gzipped_file_is_unpacked_once(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_pair(tmp_path, GREY, LABELS)
    read_idx(*paths)
    (copy,) = copies(folder)
    assert np.array_equal(np.load(copy), GREY)
    forbid_unpacking(monkeypatch)
    _, images = read_idx(*paths)
    assert isinstance(images, IdxImages)
    assert isinstance(images.pixels, np.memmap)
    assert Path(images.pixels.filename) == copy.resolve()
    assert np.array_equal(images.read(2).pixels[..., 1], GREY[2])


@pytest.mark.parametrize("change", ["time", "content", "inode"])
def test_a_changed_file_is_unpacked_again_and_the_old_copy_goes(
    tmp_path: Path, folder: Path, change: str
) -> None:
    pixels, labels = write_pair(tmp_path, GREY, LABELS)
    first, second = (gzip.compress(idx_bytes(content), 0) for content in (GREY, GREY + 1))  # of one length
    pixels.write_bytes(first)
    stat = pixels.stat()
    read_idx(pixels, labels)
    (before,) = copies(folder)
    if change == "time":
        os.utime(pixels, ns=(1, 1))
    elif change == "content":
        pixels.write_bytes(second + gzip.compress(b""))  # a second, empty member: another length
        os.utime(pixels, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
    else:
        other = tmp_path / "other.gz"
        other.write_bytes(second)
        os.utime(other, ns=(stat.st_mtime_ns, stat.st_mtime_ns))
        other.replace(pixels)
        assert pixels.stat().st_size == stat.st_size
    _, images = read_idx(pixels, labels)
    expected = GREY if change == "time" else GREY + 1
    assert np.array_equal(images.read(1).pixels[..., 0], expected[1])
    (after,) = copies(folder)
    assert after != before


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", "cut", "other"])
def test_a_damaged_copy_is_made_again(
    tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture, damage: bytes | str
) -> None:
    paths = write_pair(tmp_path, GREY, LABELS)
    read_idx(*paths)
    (copy,) = copies(folder)
    content = copy.read_bytes()
    copy.unlink()  # a new file, as the old one is still mapped
    if damage == "other":
        np.save(copy, GREY[:2])
    else:
        copy.write_bytes(content[:-1] if isinstance(damage, str) else damage)
    _, images = read_idx(*paths)
    assert "unpacking again" in caplog.text
    assert np.array_equal(images.read(2).pixels[..., 0], GREY[2])
    assert copies(folder) == [copy]
    assert copy.read_bytes() == content


def test_without_a_cache_the_pixels_are_in_memory(
    tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.write_text("a file where the folder should be")
    with caplog.at_level(logging.WARNING):
        _, images = read_idx(*write_pair(tmp_path, GREY, LABELS))
    assert "is unpacked into memory, not cached" in caplog.text
    assert "VISION_MTL_CACHE" in caplog.text
    again = pickle.loads(pickle.dumps(images))
    for source in (images, again):
        assert not isinstance(source.pixels, np.memmap)
        assert np.array_equal(source.read(2).pixels[..., 0], GREY[2])


@pytest.mark.parametrize("end", ENDS)
def test_other_processes_map_the_same_pixels(tmp_path: Path, folder: Path, end: str) -> None:
    many = np.random.default_rng(0).integers(0, 256, (500, 28, 28), np.uint8)
    index, images = read_idx(*write_pair(tmp_path, many, many[:, 0, 0], end))
    text = pickle.dumps(images)
    assert len(text) < 600
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert np.array_equal(pool.apply(images.read, (400,)).pixels[..., 2], many[400])
    again = pickle.loads(pickle.dumps(index))
    assert again.file_name(499) == index.file_name(499)
    assert again.attribute("label") == many[:, 0, 0].tolist()
    for path in (*copies(folder), tmp_path / f"pixels{end}"):
        path.unlink()
    with pytest.raises(DataError, match="the file changed while it was in use"):
        pickle.loads(text)
