"""Which ids a COCO file gives to images and categories that are answered."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

import msgspec

from vision_mtl.data.coco_json import Category, Id
from vision_mtl.errors import DataError


class _Image(msgspec.Struct, gc=False):
    id: Id
    file_name: str


class _CocoFile(msgspec.Struct):
    images: list[_Image]
    categories: list[Category] | None = None


@dataclass(frozen=True)
class CocoIds:
    """The ids of a COCO file.

    Attributes:
        images: answered file -> its id.
        categories: trained category id -> the file's, found by name; a category that it lacks is left out.
            None if the file names no categories: the trained ids stay.
    """

    images: dict[str, int]
    categories: dict[int, int] | None


def read_ids(path: str, files: Sequence[str], trained: Mapping[int, str]) -> CocoIds:
    """Find every file among the images of a COCO JSON by `file_name`.

    A `file_name` is the end of a file's path: `val/1.jpg` is that of `data/val/1.jpg`. Of several the longest
    one counts.

    Args:
        path: a COCO file, of which `images` and, if there, `categories` are read.
        files: what is answered.
        trained: category id -> name, of the network.

    Raises:
        DataError: the file is not COCO's, or has no image, or not just one, for one of the files.
    """
    content = _decoded(path)
    ids: dict[str, int] = {}
    for image in content.images:
        name = PurePath(image.file_name).as_posix()
        if ids.setdefault(name, image.id) != image.id:
            raise DataError(
                f"--ids {path}: images {ids[name]} and {image.id} are both named '{image.file_name}', so "
                "that which one is answered cannot be told"
            )
    found: dict[str, int] = {}
    owners: dict[int, str] = {}
    for file in files:
        number = next((ids[name] for name in _endings(file) if name in ids), None)
        if number is None:
            raise DataError(
                f"--ids {path}: none of {len(ids)} images has a file_name that '{file}' ends with; "
                "give the annotation file of these images, or leave out --ids"
            )
        if number in owners:
            raise DataError(f"--ids {path}: '{owners[number]}' and '{file}' are both its image {number}")
        found[file], owners[number] = number, file
    if content.categories is None:
        return CocoIds(found, None)
    named = {category.name: category.id for category in content.categories}
    return CocoIds(found, {number: named[name] for number, name in trained.items() if name in named})


def _endings(file: str) -> list[str]:
    """Return a path and what is left of it without its first folders, the longest first."""
    parts = PurePath(file).parts
    return [PurePath(*parts[i:]).as_posix() for i in range(len(parts))]


def _decoded(path: str) -> _CocoFile:
    try:
        return msgspec.json.decode(Path(path).read_bytes().removeprefix(codecs.BOM_UTF8), type=_CocoFile)
    except OSError as error:
        raise DataError(f"--ids: cannot read '{path}': {error.strerror or error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataError(
            f"--ids {path}: {error}; expected a COCO JSON with `images`, each with `id` and `file_name`"
        ) from error
