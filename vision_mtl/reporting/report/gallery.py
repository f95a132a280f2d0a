"""The images that a report shows: the worst of every head and some at random, as small JPEGs."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from vision_mtl.data.dataset import Source
from vision_mtl.reporting.report.views import View

IMAGES, RANDOM = 96, 24  # in all, and of them drawn at random
WORST = 24  # of each head at most
SIDE = 512  # pixels of the longer side of a thumbnail
MOST_BYTES = 48_000  # of its JPEG: 96 of them are 6 MB of text, in a page of 10 MB at most


def gallery(source: Source, views: Sequence[View], evaluated: np.ndarray) -> dict[str, Any]:
    """Return the gallery, ready for JSON.

    Args:
        source: the images.
        views: every head's answers.
        evaluated: positions of the images that were judged.

    Returns:
        `heads`: name and what its loss means; `images`: `file`, `size`, `src`, `random`, `worst` (names of
        the heads it is among the worst of) and head name -> `View.describe`.

    Raises:
        BadImageError: an image can no longer be read.
    """
    drawn, worst = choose(views, evaluated)
    images = []
    for at in dict.fromkeys([*(at for own in worst.values() for at in own), *drawn]):
        height, width = source.size(at)
        images.append(
            {
                "file": source.index.file_name(at),
                "size": [width, height],
                "src": thumbnail(source, at),
                "random": at in drawn,
                "worst": [name for name, own in worst.items() if at in own],
                "heads": {view.name: view.describe(at) for view in views},
            }
        )
    heads = [{"name": view.name, "meaning": view.meaning} for view in views]
    return {"heads": heads, "images": images, "evaluated": len(evaluated)}


def choose(views: Sequence[View], evaluated: np.ndarray) -> tuple[set[int], dict[str, list[int]]]:
    """Return positions of images: some drawn at random, the same each time, and each head's worst."""
    rng = np.random.default_rng(0)
    drawn = set(rng.permutation(evaluated)[:RANDOM].tolist())
    each = min(WORST, (IMAGES - RANDOM) // max(1, len(views)))
    worst = {}
    for view in views:
        losses = view.loss[evaluated]
        order = np.argsort(-np.nan_to_num(losses, nan=-1.0), kind="stable")[:each]
        worst[view.name] = [int(evaluated[i]) for i in order if losses[i] > 0]
    return drawn, worst


def thumbnail(source: Source, at: int) -> str:
    """Return an image as a JPEG data URI of at most `MOST_BYTES`, its longer side at most `SIDE` pixels."""

    def shrunk(height: int, width: int) -> tuple[int, int]:
        factor = min(1.0, SIDE / max(height, width))
        return max(1, round(height * factor)), max(1, round(width * factor))

    pixels = source.read(at, shrunk).pixels
    height, width = shrunk(*source.size(at))
    if pixels.shape[:2] != (height, width):
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    bgr = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    content = b""
    for quality in (84, 65, 45, 25, 10):
        done, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
        assert done
        content = encoded.tobytes()
        if len(content) <= MOST_BYTES:
            break
    return "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")
