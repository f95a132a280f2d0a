"""What a person names on the command line to a list of image files."""

from __future__ import annotations

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
        ignored: files in folders that are no images by name or content.
    """

    paths: list[str]
    names: list[str]
    ignored: int


def find_images(inputs: Sequence[str], recursive: bool) -> Found:
    """List the image files among `inputs`: files as they are, folders by what is in them.

    Raises:
        DataError: an input that does not exist, or no image at all.
    """
    missing = [name for name in inputs if not Path(name).exists()]
    if missing:
        raise DataError(f"no file or folder '{missing[0]}'; expected images or folders of images")
    found: dict[Path, str] = {}
    ignored = 0
    for name in inputs:
        given = Path(name)
        if given.is_file():
            found.setdefault(given, given.name)
            continue
        for path in sorted(given.rglob("*") if recursive else given.iterdir()):
            if not path.is_file():
                continue
            if looks_like_image(path):
                found.setdefault(path, path.relative_to(given).as_posix())
            else:
                ignored += 1
    if not found:
        deeper = "" if recursive else "; --recursive also looks into folders inside"
        raise DataError(f"no image in {', '.join(inputs)} ({ignored} other files ignored){deeper}")
    taken: set[str] = set()
    names = []
    for name in found.values():
        path, number = Path(name), 1
        while name in taken:
            number += 1
            name = path.with_name(f"{path.stem}-{number}{path.suffix}").as_posix()
        taken.add(name)
        names.append(name)
    return Found([str(path) for path in found], names, ignored)
