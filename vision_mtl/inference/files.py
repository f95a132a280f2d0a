"""What a person names on the command line to a list of image files."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vision_mtl.data.images import looks_like_image
from vision_mtl.errors import DataError

STDIN = "-"


@dataclass(frozen=True)
class Found:
    """Files to predict.

    Attributes:
        paths: each file once, in the order given; folders and patterns in order of name.
        names: where each file's drawing goes, relative to the output; no two are the same.
        ignored: files in folders, or that a pattern fits, that are no images, neither by name nor by content.
    """

    paths: list[str]
    names: list[str]
    ignored: int


class _Given(NamedTuple):
    """A file or folder that was named; drawings are named as from `base`, or by the file name alone.

    What a pattern fits may be no image, and is then ignored as in a folder.
    """

    path: str
    base: str | None = None


def find_images(
    inputs: Sequence[str], recursive: bool, leave_out: Sequence[Path] = (), lists: Sequence[str] = ()
) -> Found:
    """List the image files among `inputs`: files as they are, folders by what is in them.

    Args:
        inputs: files, folders, patterns with `*`, `?`, `[...]` or `**` for what does not exist by that name,
            and `-` for a list on stdin.
        recursive: look into folders inside folders too.
        leave_out: folders that are not looked into, such as that of the drawings.
        lists: text files, or `-`, with a file or folder on each line.

    Raises:
        DataError: an input that does not exist, a pattern that fits nothing, a list or folder that cannot be
            read, or no image at all.
    """
    given = [*_expanded(inputs), *(entry for name in lists for entry in _read_list(name))]
    left_out = {os.path.abspath(folder) for folder in leave_out}
    found: dict[str, tuple[str, str]] = {}  # by absolute path, so that no spelling counts twice
    ignored = 0
    for path, base in given:
        if not os.path.isdir(path):
            if base is not None and not looks_like_image(path):
                ignored += 1
            else:
                name = os.path.basename(path) if base is None else _relative(path, base)
                found.setdefault(os.path.abspath(path), (path, name))
            continue
        for inside in _files_in(path, recursive, left_out):
            if looks_like_image(inside):
                found.setdefault(
                    os.path.abspath(inside), (inside, _relative(inside, path if base is None else base))
                )
            else:
                ignored += 1
    if not found:
        deeper = "" if recursive else "; --recursive also looks into folders inside"
        named = ", ".join([*inputs, *lists])
        raise DataError(f"no image in {named} ({ignored} other files ignored){deeper}")
    names = _apart([name for _, name in found.values()])
    return Found([path for path, _ in found.values()], names, ignored)


def _expanded(inputs: Sequence[str]) -> Iterator[_Given]:
    """Yield what the arguments name."""
    for name in inputs:
        if name == STDIN:
            yield from _read_list(name)
        elif os.path.exists(name):
            yield _Given(os.path.normpath(name))
        elif glob.has_magic(name):
            matches = sorted(glob.glob(name, recursive=True))
            if not matches:
                raise DataError(f"nothing fits the pattern '{name}'; expected images or folders of images")
            plain = [part for part in Path(name).parts if part]
            fixed = plain[: next(i for i, part in enumerate(plain) if glob.has_magic(part))]
            yield from (_Given(os.path.normpath(match), os.path.join(*fixed, "")) for match in matches)
        else:
            raise DataError(f"no file or folder '{name}'; expected images or folders of images")


def _read_list(name: str) -> Iterator[_Given]:
    """Yield the files and folders of a list, one on each line, as they are: without patterns."""
    place = "stdin" if name == STDIN else name
    try:
        content = sys.stdin.buffer.read() if name == STDIN else Path(name).read_bytes()
    except OSError as error:
        raise DataError(f"--list: cannot read '{place}': {error.strerror or error}") from error
    lines = os.fsdecode(content.removeprefix(b"\xef\xbb\xbf")).split("\n")
    for number, line in enumerate(lines, start=1):
        path = line.removesuffix("\r")
        if not path:
            continue
        if "\0" in path or not os.path.exists(path):
            raise DataError(
                f"{place}, line {number}: no file or folder {path!r}; expected one on each line, as seen "
                f"from '{os.getcwd()}'"
            )
        yield _Given(os.path.normpath(path))


def _relative(path: str, base: str) -> str:
    return Path(os.path.relpath(path, base or ".")).as_posix()


def _apart(names: Sequence[str]) -> list[str]:
    """Return the names, those that came before with a number."""
    taken: set[str] = set()
    numbers: dict[str, int] = {}
    apart = []
    for name in names:
        unique, number = name, numbers.get(name, 1)
        while unique in taken:
            number += 1
            path = Path(name)
            unique = path.with_name(f"{path.stem}-{number}{path.suffix}").as_posix()
        numbers[name] = number
        taken.add(unique)
        apart.append(unique)
    return apart


def _files_in(folder: str, recursive: bool, left_out: set[str]) -> list[str]:
    """Return what lies in a folder and is no folder, sorted; links to folders are not followed."""

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot read folder '{error.filename}': {error.strerror}") from error

    files: list[str] = []
    for parent, inside, names in os.walk(folder, onerror=refuse):
        inside[:] = [
            name
            for name in inside
            if recursive and os.path.abspath(os.path.join(parent, name)) not in left_out
        ]
        files += [os.path.normpath(os.path.join(parent, name)) for name in names]
    return sorted(files, key=lambda path: path.split(os.sep))
