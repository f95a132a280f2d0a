"""Where a data set's files are: COCO JSON files and the folders of their images, found by what they hold."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Raw

from vision_mtl.data.annotations import AnnotationIndex, read_annotations
from vision_mtl.data.headers import IMAGE_EXTENSIONS
from vision_mtl.data.image_labels import shortened
from vision_mtl.errors import ConfigError, DataError

MAX_DEPTH = 4  # of folders in folders that are looked into
SAMPLE = 100  # file names of a JSON that are looked for in every folder
SHOWN = 6
WORDS = {
    "train": "train", "training": "train", "trainval": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
IMAGE_FOLDERS = {"images", "image", "imgs", "img", "jpegimages"}


@dataclass(frozen=True)
class Part:
    """One annotation file and the folder that its file names are relative to."""

    annotations: Path
    images: Path


@dataclass(frozen=True)
class Layout:
    """The files of a data set.

    Attributes:
        root: its folder.
        parts: split -> its files: `train` always, `val` and `test` where there are any.
        ignored: COCO files that were found and play no part.
    """

    root: Path
    parts: dict[str, Part]
    ignored: tuple[Path, ...] = ()


def find_layout(root: Path, annotations: Sequence[Path] = (), images: Path | None = None) -> Layout:
    """Find the annotation files of a data set and their image folders.

    A split is told by a word in the file's name, or else in the name of its folder: `instances_val2017.json`,
    `valid/_annotations.coco.json`. A single file is `train` whatever it is called. Its images are in the
    folder under `root` that holds most of the names it lists; of several that hold as many, in the one named
    after its split, beside it, or called `images`.

    Args:
        root: the data set's folder.
        annotations: the JSON files; empty to look for them, up to four folders deep.
        images: the image folder of all of them; None to look for it.

    Raises:
        ConfigError: no such folder or file, none found, or several that fit equally well.
        DataError: annotations that cannot be read, or whose images are nowhere.
    """
    if not root.is_dir():
        found = "a file" if root.exists() else "nothing"
        raise ConfigError(f"--data '{root}': found {found}, expected the folder of a data set")
    if images is not None and not images.is_dir():
        raise ConfigError(f"--images '{images}': found no such folder")
    for path in annotations:
        if not path.is_file():
            raise ConfigError(f"--annotations '{path}': found no such file, expected a COCO JSON")
    files = list(annotations) or _coco_files(root)
    chosen = _by_split(root, files, bool(annotations))
    folders = [images] if images is not None else _folders(root)
    parts = {split: Part(path, _image_folder(root, path, split, folders)) for split, path in chosen.items()}
    return Layout(root, parts, tuple(path for path in files if path not in chosen.values()))


def path_in(root: Path, path: Path) -> str:
    """Return a path as a config names it: relative to the data set's folder `root` if it lies in there."""
    root, path = root.resolve(), path.resolve()
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


def split_of(path: Path, root: Path) -> str | None:
    """Return the split that the name of a file or folder, or else of one above it in `root`, speaks of."""
    above = path.parent.relative_to(root).parts if path.is_relative_to(root) and path != root else ()
    for name in (path.stem, *reversed(above)):
        splits = {WORDS[word] for word in re.findall("[a-z]+", name.lower()) if word in WORDS}
        if splits:
            return splits.pop() if len(splits) == 1 else None
    return None


class _CocoLists(msgspec.Struct):
    """What makes a JSON file a COCO file; entries are not looked at."""

    images: list[Raw]
    annotations: list[Raw]
    categories: list[Raw]


def _coco_files(root: Path) -> list[Path]:
    """Return the COCO files under `root`; raise ConfigError where there is none."""
    files = sorted(
        folder / name
        for folder in _folders(root)
        for name in os.listdir(folder)
        if name.lower().endswith(".json") and not name.startswith(".")
    )
    faults = {path: _fault(path, root) for path in files}
    found = [path for path, fault in faults.items() if fault is None]
    if not found:
        seen = "; ".join(f"{_shown(path, root)} {fault}" for path, fault in list(faults.items())[:SHOWN])
        inside = ", ".join(sorted(p.name for p in root.iterdir())[:SHOWN]) or "nothing"
        raise ConfigError(
            f"--data '{root}': found no COCO JSON in it ({seen or f'it holds {inside}'}). Expected a file "
            "with the lists images, annotations and categories; one elsewhere is named by --annotations"
        )
    return found


def _fault(path: Path, root: Path) -> str | None:
    """Return why a JSON file is no COCO file, None where it is one.

    A broken file that is named after a split counts as one: reading it will say what is wrong with it, and
    without it another split would take its place.
    """
    try:
        content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
        msgspec.json.decode(content, type=_CocoLists)
    except msgspec.ValidationError:
        return "has other content"
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return None if split_of(path, root) else f"is not JSON ({error})"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None


def _by_split(root: Path, files: Sequence[Path], given: bool) -> dict[str, Path]:
    """Return split -> file."""
    if len(files) == 1:
        return {"train": files[0]}
    by_split: dict[str | None, list[Path]] = {}
    for path in files:
        by_split.setdefault(split_of(path, root), []).append(path)
    if None in by_split and "train" not in by_split:
        by_split["train"] = by_split.pop(None)
    chosen: dict[str, Path] = {}
    for split in ("train", "val", "test"):
        candidates = by_split.get(split, [])
        instances = [path for path in candidates if path.name.startswith("instances")]
        if len(candidates) > 1:  # beside COCO's keypoints and stuff
            candidates = instances if len(instances) == 1 else candidates
        if len(candidates) > 1:
            raise ConfigError(
                f"--{'annotations' if given else 'data'}: {len(candidates)} files could be the {split} split "
                f"of '{root}': {_listed(candidates, root)}. Name those to use by --annotations F, once per "
                "split, or write a config"
            )
        if candidates:
            chosen[split] = candidates[0]
    if "train" not in chosen:
        raise ConfigError(
            f"--data '{root}': found {_listed(list(files), root)}, and none for training; name the file to "
            "train on by --annotations F: a part of it is then kept for validation"
        )
    return chosen


def _folders(root: Path) -> list[Path]:
    """Return `root` and the folders in it, but hidden ones."""
    found = []
    for folder, inner, _ in os.walk(root):
        depth = len(Path(folder).relative_to(root).parts)
        inner[:] = sorted(name for name in inner if depth < MAX_DEPTH and not name.startswith("."))
        found.append(Path(folder))
    return found


def _image_folder(root: Path, annotations: Path, split: str, folders: Sequence[Path]) -> Path:
    """Return the folder that holds the images of an annotation file."""
    index = read_annotations(annotations)
    if not len(index):
        raise DataError(f"{annotations}: lists no image, so there is nothing to train on or judge by")
    names = _sample(index)
    beside = [annotations.parent] if annotations.parent not in folders and len(folders) > 1 else []
    hits = {folder: sum(_exists(folder / name) for name in names) for folder in [*folders, *beside]}
    most = max(hits.values())
    if not most:
        raise DataError(_nowhere(root, annotations, names, folders))
    best = [folder for folder, count in hits.items() if count == most]

    def likely(folder: Path) -> tuple[bool, bool, bool, bool]:
        spoken = split_of(folder, root)
        named = folder.name.lower() in IMAGE_FOLDERS
        return spoken == split, spoken in (None, split), folder == annotations.parent, named

    top = max(map(likely, best))
    best = [folder for folder in best if likely(folder) == top]
    if len(best) > 1:
        raise ConfigError(
            f"--data '{root}': the images of {_shown(annotations, root)} could be those in any of "
            f"{_listed(best, root)}; name the folder by --images DIR"
        )
    return best[0]


def _sample(index: AnnotationIndex) -> list[str]:
    """Return up to `SAMPLE` file names, evenly spaced."""
    places = np.linspace(0, len(index) - 1, min(len(index), SAMPLE)).astype(int)
    return [index.file_name(i) for i in dict.fromkeys(places.tolist())]


def _exists(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long a name, or one with a zero byte
        return False


def _nowhere(root: Path, annotations: Path, names: Sequence[str], folders: Sequence[Path]) -> str:
    """Return the error of a file whose images are in none of the folders."""
    bare = [os.path.basename(name) for name in names]
    for folder in folders:
        if any(_exists(folder / name) for name in bare):
            return (
                f"{annotations}: the images lie in '{folder}', but the annotations call them e.g. "
                f"'{names[0]}'; write file_name relative to a folder in '{root}', here '{bare[0]}'"
            )
    filled = []
    for folder in folders:
        images = sorted(n for n in os.listdir(folder) if Path(n).suffix.lower() in IMAGE_EXTENSIONS)
        if images:
            filled.append(f"{_shown(folder, root)} ({len(images)} images, such as {images[0]})")
    return (
        f"{annotations}: its images, such as {', '.join(names[:3])}, are in no folder of '{root}'. Folders "
        f"with images: {'; '.join(filled[:SHOWN]) or 'none'}. Name the folder by --images DIR, or correct "
        "the file names"
    )


def _shown(path: Path, root: Path) -> str:
    return str(path.relative_to(root) if path.is_relative_to(root) and path != root else path)


def _listed(paths: Sequence[Path], root: Path) -> str:
    return shortened([_shown(path, root) for path in paths], SHOWN)
