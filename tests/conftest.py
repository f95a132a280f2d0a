"""What every room's tests may use: a cache of the session's own and a tiny COCO data set."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import pytest

# Small tensors on shared cores: more threads make the tests several times slower. Torch reads it at import.
os.environ.setdefault("OMP_NUM_THREADS", "1")

LANDSCAPE, PORTRAIT = (64, 96), (96, 64)  # height, width
COLOURS = {3: (220, 40, 40), 7: (40, 200, 60), 21: (50, 70, 230)}  # category id -> RGB
NAMES = {3: "bolt", 7: "nut", 21: "washer"}
# Per image: size, kind, objects (category id, x, y, w, h, is a crowd).
PICTURES: list[tuple[tuple[int, int], str, list[tuple[int, int, int, int, int, bool]]]] = [
    (LANDSCAPE, "clean", [(3, 8, 8, 24, 20, False)]),
    (PORTRAIT, "dirty", [(7, 10, 30, 40, 36, False), (3, 4, 4, 16, 16, False)]),
    (LANDSCAPE, "clean", [(21, 40, 12, 48, 44, False)]),
    (PORTRAIT, "clean", []),
    (LANDSCAPE, "dirty", [(7, 4, 4, 20, 20, False), (7, 36, 10, 50, 30, True)]),
    (PORTRAIT, "dirty", [(3, 8, 50, 30, 30, False), (7, 30, 8, 28, 28, False), (21, 2, 2, 18, 22, False)]),
    (LANDSCAPE, "clean", [(21, 10, 20, 30, 30, False), (3, 60, 20, 24, 36, False)]),
    (PORTRAIT, "dirty", [(7, 16, 16, 32, 64, False)]),
]


class TinyCoco(NamedTuple):
    """Where the tiny data set lies.

    Attributes:
        root: folder of both.
        images: image folder, `000.png` to `007.png`.
        annotations: COCO JSON file.
    """

    root: Path
    images: Path
    annotations: Path


def pytest_configure(config: pytest.Config) -> None:
    """Keep OpenCV to one thread, like the loader's workers."""
    cv2.setNumThreads(1)


@pytest.fixture(scope="module")
def narrow() -> Iterator[None]:
    """Let the module's tests, which are to ask for it first, build a ResNet-18 with few channels."""
    from tests.training.narrow import narrow_trunk  # brings torch, which reads the setting above

    with narrow_trunk():
        yield


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep caches out of the user's: one folder per session, where the shapes set is drawn just once."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISION_MTL_CACHE", str(folder))
        yield folder


def write_tiny_coco(root: Path) -> TinyCoco:
    """Write a data set of 8 images (64x96 and 96x64) with `kind` attributes, category ids 3, 7, 21, coloured
    boxes, one image without objects (id 13) and one crowd region (image id 14)."""
    found = TinyCoco(root, root / "images", root / "annotations.json")
    found.images.mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for i, ((height, width), kind, objects) in enumerate(PICTURES):
        rng = np.random.default_rng(i)
        picture = rng.integers(*((150, 180) if kind == "clean" else (60, 90)), (height, width, 3), np.uint8)
        for category, x, y, w, h, crowd in objects:
            picture[y : y + h, x : x + w] = COLOURS[category]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 10 + i,
                    "category_id": category,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": int(crowd),
                }
            )
        name = f"{i:03d}.png"
        assert cv2.imwrite(str(found.images / name), picture[..., ::-1])
        images.append(
            {"id": 10 + i, "file_name": name, "height": height, "width": width, "attributes": {"kind": kind}}
        )
    categories = [{"id": number, "name": name} for number, name in NAMES.items()]
    found.annotations.write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return found


@pytest.fixture
def tiny_coco(tmp_path: Path) -> TinyCoco:
    """A tiny data set of the test's own, free to be changed."""
    return write_tiny_coco(tmp_path / "tiny")


@pytest.fixture(scope="session")
def tiny_coco_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a tiny data set that all tests share and only read."""
    return write_tiny_coco(tmp_path_factory.mktemp("tiny")).root
