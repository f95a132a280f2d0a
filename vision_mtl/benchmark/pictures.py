"""A data set of pictures that cost as much to decode as photographs, drawn by the benchmark itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

from vision_mtl.models.published import coco_classes

SCENES = ("indoor", "street", "field", "water", "sky")
QUALITY = 90  # of the JPEGs: with the texture below, 60 to 100 KB at 640x480


def draw_picture(height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Return (height, width, 3) uint8 with the spectrum of a photograph: noise at every scale, the coarser
    the stronger (Field, 1987: amplitudes fall as one over the frequency)."""
    picture = np.full((height, width, 3), 128, np.float32)
    side = 2
    while side <= 2 * max(height, width):
        rows, columns = min(side, height), min(side, width)
        noise = rng.normal(0, 1, (rows, columns, 3)).astype(np.float32)
        noise = 0.6 * noise.mean(2, keepdims=True) * np.sqrt(3) + 0.4 * noise  # colours vary less than light
        smooth = cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
        picture += 55 * (2 / side) ** 0.45 * smooth
        side *= 2
    return picture.clip(0, 255).astype(np.uint8)


def draw_objects(picture: np.ndarray, boxes: np.ndarray, rng: np.random.Generator) -> None:
    """Paint an ellipse over each box (N, 4) xywh, so that edges are as frequent as in a photograph."""
    for x, y, width, height in boxes.round().astype(int).tolist():
        colour = [int(value) for value in rng.integers(0, 256, 3)]
        patch = picture[y : y + height, x : x + width]
        painted = patch.copy()
        centre, axes = (width // 2, height // 2), (max(1, width // 2), max(1, height // 2))
        cv2.ellipse(painted, centre, axes, 0, 0, 360, colour, -1, cv2.LINE_AA)
        cv2.addWeighted(painted, 0.6, patch, 0.4, 0, patch)


def draw_boxes(count: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Return (count, 4) xywh inside the picture: sides from a 12th to 0.8 of its own, small ones likelier."""
    sides = np.exp(rng.uniform(np.log(1 / 12), np.log(0.8), (count, 2))) * [width, height]
    sides = np.maximum(sides, 4)
    corners = rng.uniform(0, 1, (count, 2)) * ([width, height] - sides)
    return np.column_stack([corners, sides]).round(2)


def write_pictures(folder: Path, count: int, height: int, width: int, objects: int, seed: int) -> None:
    """Write `images/*.jpg` and `annotations.json`, a COCO data set whose images have a `scene` attribute.

    Args:
        folder: where to; made if need be.
        count: of images.
        height: of each, in pixels.
        width: of each, in pixels.
        objects: in each, of COCO's 80 categories.
        seed: decides everything.
    """
    rng = np.random.default_rng(seed)
    known = coco_classes()
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i in range(count):
        picture = draw_picture(height, width, rng)
        boxes = draw_boxes(objects, height, width, rng)
        draw_objects(picture, boxes, rng)
        name = f"{i:06d}.jpg"
        _, encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        (folder / "images" / name).write_bytes(encoded.tobytes())
        scene = {"scene": SCENES[i % len(SCENES)]}
        images.append({"id": i + 1, "file_name": name, "height": height, "width": width, "attributes": scene})
        for box, category in zip(boxes.tolist(), rng.choice(known.ids, objects).tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": i + 1,
                    "category_id": category,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i, "name": name} for i, name in zip(known.ids, known.names, strict=True)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_bytes(msgspec.json.encode(content))
