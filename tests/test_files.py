"""Files that appear whole or not at all."""

from pathlib import Path

import pytest

from vision_mtl.files import file_sha256, whole


def write_half(path: Path) -> None:
    with whole(path) as file:
        file.write_text("half")
        raise RuntimeError("the disk is full")


def test_a_file_appears_whole_in_a_folder_that_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file.txt"
    with whole(path) as file:
        file.write_text("content")
        assert not path.exists()
        assert file.parent == path.parent  # a rename within a folder is atomic
    assert path.read_text() == "content"
    assert list(path.parent.iterdir()) == [path]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="the disk is full"):
        write_half(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_before_anything_is_written_is_the_one_that_is_raised(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), whole(tmp_path / "file.txt"):
        1 / 0  # noqa: B018
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(FileExistsError), whole(tmp_path / "taken" / "file.txt"):
        pass


def test_a_file_s_digest(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert file_sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
