"""Images by position: where a data set's pixels come from, and the check that all of them are there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from vision_mtl.data.decode import Decoded, Needs, read_image, read_reduced
from vision_mtl.data.headers import (
    DEFAULT_MAX_PIXELS,
    IMAGE_EXTENSIONS,
    BadImageError,
    ImageHeader,
    looks_like_image,
    quiet,
    read_header,
    read_header_aloud,
)
from vision_mtl.errors import DataError
from vision_mtl.files import whole

if TYPE_CHECKING:
    from vision_mtl.data.annotations import AnnotationIndex

__all__ = [
    "DEFAULT_MAX_PIXELS",
    "IMAGE_EXTENSIONS",
    "BadImageError",
    "Decoded",
    "FolderImages",
    "ImageCheck",
    "ImageHeader",
    "ImageSource",
    "Needs",
    "check_images",
    "looks_like_image",
    "read_header",
    "read_image",
    "read_reduced",
]

CHECK_VERSION = 2
CHECK_THREADS = 8
CHECK_CHUNK = 512
SHOWN_FILES = 10


class ImageSource(Protocol):
    """Where a data set's pixels come from."""

    def path(self, position: int) -> str:
        """Return what names image `position` to a person, usually its file."""

    def read(self, position: int, needs: Needs | None = None) -> Decoded:
        """Return image `position`; raise BadImageError where it is damaged.

        `needs` tells what the caller will shrink it to: it may be returned at reduced scale, as long as
        neither side is smaller than that.
        """


@dataclass(frozen=True)
class FolderImages:
    """The image files of one folder.

    Attributes:
        root: the folder.
        file_name: position -> file name relative to `root`, such as `AnnotationIndex.file_name`.
        max_pixels: larger images are refused before they are decoded.
        reduced: decode at reduced scale what will be shrunk to half its size or less.
    """

    root: Path
    file_name: Callable[[int], str]
    max_pixels: int = DEFAULT_MAX_PIXELS
    reduced: bool = False

    def path(self, position: int) -> str:
        """Return the file of image `position`."""
        return os.path.join(self.root, self.file_name(position))

    def read(self, position: int, needs: Needs | None = None) -> Decoded:
        """Return image `position`, at reduced scale where that is allowed and enough."""
        return read_reduced(self.path(position), needs if self.reduced else None, self.max_pixels)


@dataclass(frozen=True)
class ImageCheck:
    """What `check_images` found.

    Attributes:
        annotations: the annotation file.
        root: the folder of images.
        total: how many images the annotations name.
        bad: position -> file, image id, what is wrong and what to do; in order of position.
    """

    annotations: str
    root: str
    total: int
    bad: dict[int, str]

    def raise_if_bad(self) -> None:
        """Raise one DataError that lists the first bad files, their number and the cure."""
        if not self.bad:
            return
        shown = [f"\n  {reason}" for reason in list(self.bad.values())[:SHOWN_FILES]]
        if len(self.bad) > SHOWN_FILES:
            shown.append(f"\n  ... and {len(self.bad) - SHOWN_FILES} more")
        raise DataError(
            f"{self.annotations}: {len(self.bad)} of {self.total} images in {self.root} cannot be used:"
            f"{''.join(shown)}\nRepair the files or the annotations, or leave these images out with "
            f"data.bad_images=skip"
        )


def check_images(
    root: Path,
    index: AnnotationIndex,
    cache: Path,
    max_pixels: int = DEFAULT_MAX_PIXELS,
    follow_links: bool = False,
) -> ImageCheck:
    """Check before training that every annotated image is there and has the annotated size.

    Only headers are read. A check without findings is remembered in `cache` until the annotations, the
    options, or the modification time of a folder that holds images change; a file that is overwritten in
    place is not noticed.

    Args:
        root: the folder that the annotations' file names are relative to.
        index: the annotations; `sizes` are (height, width) as a person sees the images.
        cache: folder for the remembered result; made when it is missing.
        max_pixels: larger images are bad.
        follow_links: let symbolic links lead out of `root`.
    """
    real_root = os.path.realpath(root)
    folders = _image_folders(real_root, map(index.file_name, range(len(index))))
    stamp = {folder: _modified(folder) for folder in {real_root, *folders.values()}}
    result = ImageCheck(str(index.path), str(root), len(index), {})

    key = json.dumps([CHECK_VERSION, str(index.fingerprint), real_root, max_pixels, follow_links])
    remembered = Path(cache) / f"images-{hashlib.sha256(key.encode()).hexdigest()[:20]}.json"
    if _recall(remembered) == stamp:
        return result

    def check_chunk(start: int) -> list[tuple[int, str]]:
        positions = range(start, min(start + CHECK_CHUNK, len(index)))
        return [(i, reason) for i in positions if (reason := find_fault(i)) is not None]

    find_fault = partial(_find_fault, index, real_root, folders, max_pixels, follow_links)
    with quiet(), ThreadPoolExecutor(CHECK_THREADS) as pool:
        for chunk in pool.map(check_chunk, range(0, len(index), CHECK_CHUNK)):
            result.bad.update(chunk)

    if not result.bad:
        _remember(remembered, stamp)
    return result


def _image_folders(real_root: str, names: Iterable[str]) -> dict[str, str]:
    """Return every distinct folder part of `names` -> that folder with links and `..` resolved."""
    parts = {os.path.dirname(name) for name in names}
    return {part: os.path.realpath(os.path.join(real_root, part)) for part in parts if "\0" not in part}


def _find_fault(
    index: AnnotationIndex,
    real_root: str,
    folders: dict[str, str],
    max_pixels: int,
    follow_links: bool,
    position: int,
) -> str | None:
    """Return what is wrong with image `position`, or None."""
    name = index.file_name(position)
    label = f"{name} (image id {index.image_ids[position]})"
    if "\0" in name:
        return f"{label}: the file name holds a zero byte; correct the annotations"
    folder, base = os.path.split(name)
    path = os.path.join(folders[folder], base)
    named = path if os.path.isabs(name) else os.path.normpath(os.path.join(real_root, name))
    if os.path.commonpath([real_root, named]) != real_root:
        return (
            f"{label}: leads out of the folder by its name; set the source's images to a folder that holds "
            "all of them, or correct the annotations"
        )
    if not follow_links:
        # Folders are resolved once for all their files; resolving each path took longer than the headers.
        real = os.path.realpath(path) if os.path.islink(path) else path
        if os.path.commonpath([real_root, real]) != real_root:
            return f"{label}: leads out of the folder to {real}; move the file or set data.follow_links=true"
    try:
        header = read_header_aloud(path, max_pixels)
    except BadImageError as error:
        return f"{label}: {error.reason}"
    height, width = (int(side) for side in index.sizes[position])
    return (
        None
        if (header.height, header.width) == (height, width)
        else _wrong_size(label, header, width, height)
    )


def _wrong_size(label: str, header: ImageHeader, width: int, height: int) -> str:
    found = f"{label}: is {header.width} x {header.height} pixels (width x height)"
    said = f"the annotations say {width} x {height}"
    if (header.width, header.height) != (height, width):
        return f"{found}, {said}; restore the annotated file or correct the annotations"
    if header.orientation >= 5:
        return (
            f"{found} once its EXIF orientation {header.orientation} is applied, {said}, the size before it; "
            f"annotate the image as it is seen, or remove the EXIF tag"
        )
    return (
        f"{found} and its EXIF orientation is {header.orientation}, {said}: swapped, perhaps annotated while "
        f"it had another EXIF orientation; annotate the image as it is seen"
    )


def _modified(folder: str) -> int:
    """Return a folder's modification time in ns, -1 where there is none."""
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return -1


def _recall(path: Path) -> dict[str, int] | None:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None  # never written, or torn by hand: check again


def _remember(path: Path, stamp: dict[str, int]) -> None:
    # a cache that cannot be written costs time, not the run
    with contextlib.suppress(OSError), whole(path) as file:
        file.write_text(json.dumps(stamp), encoding="utf-8")
