"""Folders of images and the check before training."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from vision_mtl.data.images import (
    BadImageError,
    FolderImages,
    check_images,
)
from vision_mtl.errors import DataError

from .image_files import SEEN, encoded, exif, photo

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
    np.testing.assert_array_equal(source.read(2).pixels, SEEN)
    assert source.read(3).pixels.shape == (64, 48, 3)
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
    assert all("data.follow_links=true" in check.bad[i] for i in (0, 2))
    assert all("by its name" in check.bad[i] for i in (3, 4))
    assert list(check_images(folder, index, tmp_path / "cache", follow_links=True).bad) == [3, 4]
    within = Index([str(folder / "a.png"), "sub/../a.png"], np.tile([2, 3], (2, 1)))
    assert check_images(folder, within, tmp_path / "cache").bad == {}


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
