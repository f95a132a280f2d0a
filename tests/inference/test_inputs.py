"""What is named on the command line, to files."""

import io
import shutil
import sys
from pathlib import Path

import pytest

from tests.inference.networks import picture
from vision_mtl.errors import DataError
from vision_mtl.inference.files import find_images


def test_files_are_found_and_named_apart(tmp_path: Path) -> None:
    for name in ("a/x.png", "b/x.png", "b/deep/y.png"):
        picture(tmp_path / name, 8, 8)
    shutil.copy(tmp_path / "a/x.png", tmp_path / "a/no_extension")
    (tmp_path / "a/notes.txt").write_text("text")
    found = find_images(
        [str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "a/x.png")], recursive=False
    )
    assert [Path(path).relative_to(tmp_path).as_posix() for path in found.paths] == [
        "a/no_extension",
        "a/x.png",
        "b/x.png",
    ]
    assert found.names == ["no_extension", "x.png", "x-2.png"]
    assert found.ignored == 1
    assert "deep/y.png" in find_images([str(tmp_path / "b")], recursive=True).names


def test_a_file_counts_once_however_it_is_spelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture(tmp_path / "in/x.png", 8, 8)
    monkeypatch.chdir(tmp_path)
    assert find_images(["in/x.png", str(image), "in/../in"], recursive=False).paths == ["in/x.png"]


def tree(root: Path) -> Path:
    for name in ("b/2.png", "a/1.png", "a/deep/3.png", "4.png"):
        picture(root / name, 8, 8)
    (root / "a/notes.txt").write_text("text")
    return root


@pytest.mark.parametrize(
    ("pattern", "names", "ignored"),
    [
        ("*.png", ["4.png"], 0),
        ("a/*", ["1.png", "deep/3.png"], 1),  # as if the shell had expanded it: a folder is looked into
        ("*/[12].png", ["a/1.png", "b/2.png"], 0),
        ("**/*.png", ["4.png", "a/1.png", "a/deep/3.png", "b/2.png"], 0),
        ("?", ["a/1.png", "b/2.png"], 1),  # folders that fit
    ],
)
def test_patterns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, names: list[str], ignored: int
) -> None:
    monkeypatch.chdir(tree(tmp_path))
    for name in (pattern, str(tmp_path / pattern)):
        found = find_images([name], recursive=False)
        assert sorted(found.names) == names
        assert found.ignored == ignored
        assert len(found.paths) == len(set(found.paths)) == len(names)


def test_a_pattern_that_fits_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing fits the pattern '.*x\*\.png'"):
        find_images([str(tmp_path / "x*.png")], recursive=False)


def test_a_file_whose_name_is_a_pattern(tmp_path: Path) -> None:
    image = picture(tmp_path / "[1].png", 8, 8)
    picture(tmp_path / "1.png", 8, 8)
    assert find_images([str(image)], recursive=False).paths == [str(image)]


def test_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree(tmp_path))
    (tmp_path / "names.txt").write_bytes(b"\xef\xbb\xbfb/2.png\r\n\na\n./b/2.png\n")
    found = find_images([], recursive=False, lists=["names.txt"])
    assert found.paths == ["b/2.png", "a/1.png"]
    assert found.names == ["2.png", "1.png"]

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"4.png\nb/2.png")))
    assert find_images(["a/1.png", "-"], recursive=False).paths == ["a/1.png", "4.png", "b/2.png"]


def test_wrong_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree(tmp_path))
    (tmp_path / "names.txt").write_text("4.png\n*.png\n")
    with pytest.raises(DataError, match=r"names\.txt, line 2: no file or folder '\*\.png'"):
        find_images([], recursive=False, lists=["names.txt"])
    with pytest.raises(DataError, match=r"--list: cannot read 'none\.txt'"):
        find_images([], recursive=False, lists=["none.txt"])
    (tmp_path / "names.txt").write_bytes(b"\0\n")
    with pytest.raises(DataError, match=r"names\.txt, line 1"):
        find_images([], recursive=False, lists=["names.txt"])


def test_many_files_of_one_name_are_named_apart_in_little_time(tmp_path: Path) -> None:
    folders = [picture(tmp_path / str(i) / "x.png", 1, 1).parent for i in range(300)]
    names = find_images([str(folder) for folder in folders], recursive=False).names
    assert names[:3] == ["x.png", "x-2.png", "x-3.png"]
    assert len(set(names)) == 300
