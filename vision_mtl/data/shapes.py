"""The embedded data set: scenes of shapes, drawn on first use, for training without downloading anything.

Every picture holds 0 to 12 objects (`SHAPES`) before one of the textured backgrounds (`SCENES`). Background,
image size, number of objects, and each object's class, colour and rotation are drawn independently, so that
no label can be told from another one. Objects overlap, but most of each stays in sight; as in COCO,
a box is tight around the pixels that are **visible**.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vision_mtl.data.cache import cache_folder
from vision_mtl.data.shapes_backgrounds import SCENES, background
from vision_mtl.data.shapes_colors import finish
from vision_mtl.data.shapes_drawing import SHAPES, Outline, covered, outline, outline_area, paint
from vision_mtl.errors import DataError

__all__ = ["SCENES", "SHAPES", "ShapeObject", "draw_layout", "draw_scene", "ensure_shapes"]

VERSION = 1  # raise whenever a picture or a label changes
SPLITS = ("train", "val", "test")

MAX_OBJECTS = 12
MIN_SIDE, MAX_SIDE = 16, 200  # limits of a visible box's longer side, in pixels
MIN_VISIBLE = 0.6  # of an object's area, counting what the image's border cuts off
MAX_TURN = np.pi / 6  # of an object to either side, in radians

_IMAGE_SIZES = ((256, 320), (320, 256), (320, 320), (256, 288))  # height, width
_IMAGE_SIZE_ODDS = (0.55, 0.15, 0.15, 0.15)
_COUNT_ODDS = (0.10, *[0.125] * 6, *[0.025] * 6)  # of 0, 1, ..., 12 objects
_JPEG_QUALITY = 90


@dataclass(frozen=True)
class ShapeObject:
    """One object: its class, its whole outline, and the pixels (H, W) bool of it that are visible."""

    shape: str
    contours: Outline
    visible: NDArray[np.bool_]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x, y, width, height in pixels, tight around the visible pixels."""
        x, y, width, height = cv2.boundingRect(self.visible.view(np.uint8))
        return x, y, width, height

    @property
    def area(self) -> int:
        """Number of visible pixels."""
        return int(np.count_nonzero(self.visible))

    def behind(self, cover: NDArray[np.bool_]) -> ShapeObject:
        """The same object with the pixels of `cover` (H, W) hidden."""
        return ShapeObject(self.shape, self.contours, self.visible & ~cover)

    def is_recognisable(self) -> bool:
        """Whether enough of it is visible to be annotated."""
        enough = self.area >= MIN_VISIBLE * outline_area(self.contours)
        return enough and MIN_SIDE <= max(self.box[2:]) <= MAX_SIDE


def draw_layout(rng: np.random.Generator, height: int, width: int) -> list[ShapeObject]:
    """Place 0 to `MAX_OBJECTS` objects in an image of that size, back to front.

    The more objects, the smaller. Some lean on an earlier object. A position that would leave
    an object unrecognisable is drawn again; only position and size are, so the classes stay balanced.
    """
    objects: list[ShapeObject] = []
    count = int(rng.choice(MAX_OBJECTS + 1, p=_COUNT_ODDS))
    largest = min(180, 0.7 * min(height, width), 420 / max(1, count) ** 0.6)
    for _ in range(count):
        shape, angle, squash = str(rng.choice(SHAPES)), rng.uniform(-MAX_TURN, MAX_TURN), rng.uniform(0.75, 1)
        for attempt in range(30):
            size = rng.uniform(32, max(48, largest * 0.95**attempt))
            center = rng.uniform(0.4 * size, np.array([width, height]) - 0.4 * size)
            if objects and rng.uniform() < 0.3:
                x, y, w, h = objects[int(rng.integers(len(objects)))].box
                away = rng.uniform(0, 2 * np.pi)
                reach = 0.4 * (size + max(w, h))
                center = np.array([x + w / 2 + reach * np.cos(away), y + h / 2 + reach * np.sin(away)])
            contours = outline(shape, (center[0], center[1]), size, angle, squash)
            cover = covered(contours, height, width)
            placed = [*(other.behind(cover) for other in objects), ShapeObject(shape, contours, cover)]
            if all(item.is_recognisable() for item in placed):
                objects = placed
                break
    return objects


def draw_scene(
    rng: np.random.Generator, scene: str | None = None
) -> tuple[NDArray[np.uint8], list[ShapeObject], str]:
    """Draw one picture of `scene`, or of any: RGB (H, W, 3), its objects from back to front, its scene."""
    height, width = _IMAGE_SIZES[int(rng.choice(len(_IMAGE_SIZES), p=_IMAGE_SIZE_ODDS))]
    objects = draw_layout(rng, height, width)
    scene = scene or str(rng.choice(SCENES))
    image = background(rng, scene, height, width)
    for item in objects:
        paint(rng, image, item.contours)
    return finish(rng, image), objects, scene


def ensure_shapes(
    root: Path | None = None, *, seed: int = 0, train: int = 1100, val: int = 220, test: int = 200
) -> Path:
    """Return the data set's folder, drawing it there first where it is missing.

    The folder holds `{train,val,test}/*.jpg` and `annotations/{train,val,test}.json`. It appears whole or not
    at all: it is drawn beside its place and moved there at the end, and where another process was faster,
    that one's is used. The name says the version, the seed and the numbers of images.

    Args:
        root: where data sets are kept; by default `shapes` in the cache folder.

    Raises:
        DataError: the folder cannot be written.
    """
    root = cache_folder() / "shapes" if root is None else Path(root)
    folder = root / f"v{VERSION}-seed{seed}-{train}-{val}-{test}"
    draft = root / f".{folder.name}-{uuid.uuid4().hex[:8]}"
    try:
        if folder.is_dir():
            return folder
        _write(draft, seed, (train, val, test))
        _publish(draft, folder)
    except OSError as error:
        raise DataError(
            f"{folder}: cannot write the embedded data set ({error.strerror or error}); "
            "set VISION_MTL_CACHE to a folder that can be written and has 100 MB free"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return folder


def _publish(draft: Path, folder: Path) -> None:
    """Move the finished draft to its place, unless a concurrent run has filled that already."""
    try:
        os.rename(draft, folder)
    except OSError:
        if not folder.is_dir():
            raise


def _write(folder: Path, seed: int, counts: tuple[int, int, int]) -> None:
    """Draw all splits into `folder`."""
    (folder / "annotations").mkdir(parents=True)
    done, total = 0, sum(counts)
    for split, (name, count) in enumerate(zip(SPLITS, counts, strict=True)):
        (folder / name).mkdir()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for position in range(count):
            rng = np.random.default_rng(np.random.SeedSequence([seed, split, position]))
            image, objects, scene = draw_scene(rng, SCENES[position % len(SCENES)])
            image_id = 100_000 * (split + 1) + position  # distinct over splits, so that they can be joined
            images.append(_image_record(image_id, image, scene))
            for item in objects:
                annotations.append(_annotation_record(len(annotations) + 1, image_id, item))
            _write_jpeg(folder / name / images[-1]["file_name"], image)
            done += 1
            _show_progress(done, total)
        _write_json(folder / "annotations" / f"{name}.json", images, annotations)


def _image_record(image_id: int, image: NDArray[np.uint8], scene: str) -> dict[str, Any]:
    height, width = image.shape[:2]
    return {
        "id": image_id,
        "file_name": f"{image_id}.jpg",
        "width": width,
        "height": height,
        "attributes": {"scene": scene},
    }


def _annotation_record(annotation_id: int, image_id: int, item: ShapeObject) -> dict[str, Any]:
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": SHAPES.index(item.shape) + 1,
        "bbox": [float(value) for value in item.box],
        "area": float(item.area),
        "iscrowd": 0,
        "segmentation": [],
    }


def _write_json(path: Path, images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> None:
    content = {
        "info": {"description": "vision_mtl embedded shapes", "version": str(VERSION)},
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": i + 1, "name": name, "supercategory": "shape"} for i, name in enumerate(SHAPES)
        ],
    }
    path.write_text(json.dumps(content), encoding="utf-8")


def _write_jpeg(path: Path, image: NDArray[np.uint8]) -> None:
    """Write RGB (H, W, 3); encoded in memory, since `cv2.imwrite` does not say why a write failed."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    path.write_bytes(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])[1].tobytes())


def _show_progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\rdrawing the shapes data set: {done}/{total}", end=end, file=sys.stderr, flush=True)
