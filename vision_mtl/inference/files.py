"""What a person names on the command line to a list of image files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vision_mtl.data.images import looks_like_image
from vision_mtl.errors import DataError


@dataclass(frozen=True)
class Found:
    """Files to predict.

    Attributes:
        paths: each file once, in the order given; folders in order of name.
        names: where each file's drawing goes, relative to the output; no two are the same.
        ignored: files in folders that are no images, neither by name nor by content.
    """

    paths: list[str]
    names: list[str]
    ignored: int


def find_images(inputs: Sequence[str], recursive: bool, leave_out: Sequence[Path] = ()) -> Found:
    """List the image files among `inputs`: files as they are, folders by what is in them.

    Args:
        inputs: files and folders.
        recursive: look into folders inside folders too.
        leave_out: folders that are not looked into, such as that of the drawings.

    Raises:
        DataError: an input that does not exist, a folder that cannot be read, or no image at all.
    """
    missing = [name for name in inputs if not Path(name).exists()]
    if missing:
        raise DataError(f"no file or folder '{missing[0]}'; expected images or folders of images")
    found: dict[str, tuple[Path, str]] = {}  # by absolute path, so that no spelling counts twice
    ignored = 0
    for name in inputs:
        given = Path(name)
        if not given.is_dir():
            found.setdefault(os.path.abspath(given), (given, given.name))
            continue
        for path in _files_in(given, recursive, leave_out):
            if looks_like_image(path):
                found.setdefault(os.path.abspath(path), (path, path.relative_to(given).as_posix()))
            else:
                ignored += 1
    if not found:
        deeper = "" if recursive else "; --recursive also looks into folders inside"
        raise DataError(f"no image in {', '.join(inputs)} ({ignored} other files ignored){deeper}")
    taken: set[str] = set()
    names = []
    for _, name in found.values():
        path, number = Path(name), 1
        while name in taken:
            number += 1
            name = path.with_name(f"{path.stem}-{number}{path.suffix}").as_posix()
        taken.add(name)
        names.append(name)
    return Found([str(path) for path, _ in found.values()], names, ignored)


def _files_in(folder: Path, recursive: bool, leave_out: Sequence[Path]) -> list[Path]:
    """Return what lies in a folder and is no folder, sorted; links to folders are not followed."""

    def refuse(error: OSError) -> None:
        raise DataError(f"cannot read folder '{error.filename}': {error.strerror}") from error

    left_out = {os.path.abspath(path) for path in leave_out}
    files: list[Path] = []
    for parent, inside, names in os.walk(folder, onerror=refuse):
        inside[:] = [
            name
            for name in inside
            if recursive and os.path.abspath(os.path.join(parent, name)) not in left_out
        ]
        files += [Path(parent, name) for name in names]
    return sorted(files)
