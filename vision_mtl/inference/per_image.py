"""Files of one image's own: its drawing, its crops, its boxes as YOLO text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vision_mtl.errors import DataError
from vision_mtl.inference.results import Entry, Result
from vision_mtl.inference.writers import write_bytes

QUALITY = 90  # of JPEG
Names = Mapping[int, str]  # id -> the name of its file or folder


def write_drawing(folder: Path, name: str, result: Result) -> None:
    """Draw an image's detections and answers over its pixels.

    Args:
        folder: of the drawings.
        name: the image's; `.jpg` is added where it is that of another format.
        result: what to draw.
    """
    write_picture(picture_path(folder, name), result.draw())


def write_crops(folder: Path, name: str, result: Result, names: Names) -> None:
    """Write what is in each detection's box, into a folder per category, numbered from the best one on.

    A box is widened to whole pixels and cut to the image; of one that has no area, one pixel is shown.
    """
    if not result.objects:
        return
    pixels = result.image()
    for number, found in enumerate(result.objects, start=1):
        path = picture_path(folder / names[found["category_id"]], name)
        left, top, right, bottom = crop_area(found["bbox"], pixels.shape[:2])
        write_picture(path.with_name(f"{path.stem}-{number}{path.suffix}"), pixels[top:bottom, left:right])


def crop_area(bbox: Sequence[float], size: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return (left, top, right, bottom), whole pixels within an image of `size` (height, width).

    `bbox` is [x, y, width, height] in the same pixels.
    """
    x, y, width, height = bbox
    left, top = min(max(0, int(np.floor(x))), size[1] - 1), min(max(0, int(np.floor(y))), size[0] - 1)
    right = min(max(left + 1, int(np.ceil(x + width))), size[1])
    bottom = min(max(top + 1, int(np.ceil(y + height))), size[0])
    return left, top, right, bottom


def safe_names(names: Mapping[int, str]) -> Names:
    """Return id -> a name for files and folders, safe on any system, with the id where two are alike."""
    safe = {number: re.sub(r"[^\w .-]", "_", name).strip(" .")[:80] for number, name in names.items()}
    numbered = {number: f"{name or 'category'}-{number}" for number, name in safe.items()}
    taken = Counter(name.casefold() for name in [*safe.values(), *numbered.values()])
    return {
        number: name if name and taken[name.casefold()] == 1 else numbered[number]
        for number, name in safe.items()
    }


def yolo_lines(entry: Entry, classes: Mapping[int, int], confidence: bool) -> str:
    """Return the detections as `class x y w h [confidence]`, a line each: the box's centre and size in
    fractions of the image's width and height (https://docs.ultralytics.com/datasets/detect).

    Args:
        entry: an image's answers.
        classes: category id -> class, from 0.
        confidence: add the score, as a sixth number.
    """
    lines = []
    for found in entry["detections"]:
        x, y, width, height = found["bbox"]
        box = (
            (x + width / 2) / entry["width"],
            (y + height / 2) / entry["height"],
            width / entry["width"],
            height / entry["height"],
        )
        numbers = [f"{min(1.0, max(0.0, number)):.6f}" for number in box]
        score = [f"{found['score']:.6f}"] if confidence else []
        lines.append(" ".join([str(classes[found["category_id"]]), *numbers, *score]) + "\n")
    return "".join(lines)


def yolo_path(folder: Path, name: str) -> Path:
    """Return where an image's text goes: the image's name with `.txt` for its extension."""
    return (folder / name).with_suffix(".txt")


def check_yolo_names(names: Sequence[str]) -> None:
    """Raise DataError if two images would share a text file, before anything is written."""
    taken: dict[str, str] = {}
    for name in names:
        path = yolo_path(Path(), name).as_posix()
        if path in taken:
            raise DataError(
                f"--format yolo: '{taken[path]}' and '{name}' would both write labels/{path}; give them in "
                "two runs, or rename one"
            )
        taken[path] = name


def picture_path(folder: Path, name: str) -> Path:
    """Return `folder / name`, with `.jpg` added where the name is not that of a JPEG or PNG file."""
    path = folder / name
    return path if path.suffix.lower() in (".jpg", ".jpeg", ".png") else path.with_name(f"{path.name}.jpg")


def write_picture(path: Path, pixels: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB in the format of the path's extension."""
    write_bytes(path, encoded(pixels, path.suffix.lower()))


def encoded(pixels: np.ndarray, kind: str = ".jpg", quality: int = QUALITY) -> bytes:
    """Return (H, W, 3) uint8 RGB as the content of a file of `kind`, `.jpg` or `.png`."""
    options: list[Any] = [] if kind == ".png" else [cv2.IMWRITE_JPEG_QUALITY, quality]
    return cv2.imencode(kind, np.ascontiguousarray(pixels[..., ::-1]), options)[1].tobytes()
