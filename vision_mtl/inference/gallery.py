"""Predictions as one page of pictures that needs nothing beside it."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jinja2 import Environment, StrictUndefined

from vision_mtl.data.images import read_image
from vision_mtl.inference.gallery_page import PAGE
from vision_mtl.inference.per_image import encoded
from vision_mtl.inference.results import Entry, caption_lines, draw_entry, labels_of
from vision_mtl.inference.writers import printable, text_file

MOST_IMAGES = 200
MOST_BYTES = 10 * 2**20  # of the page
FOR_TEXT = 2**20  # of that
SIDE = 640  # pixels of a picture's longer side


def write_gallery(
    path: Path,
    entries: Iterable[Entry],
    total: int,
    classes: Mapping[int, int],
    max_pixels: int,
    title: str,
) -> int:
    """Write a page with up to 200 of the images, evenly spread over the run, and at most 10 MB.

    Args:
        path: the page.
        entries: the answered images, of which files are read again.
        total: how many.
        classes: category id -> class, which decides the colour.
        max_pixels: larger images are not read.
        title: of the page.

    Returns:
        how many images it shows.

    Raises:
        DataError: an image cannot be read any more, or the page cannot be written.
    """
    shown = min(total, MOST_IMAGES)
    chosen = set(np.linspace(0, total - 1, shown).round().astype(int).tolist()) if shown else set()
    each = (MOST_BYTES - FOR_TEXT) * 3 // 4 // max(1, len(chosen))  # base64 makes four bytes of three
    cards = [_card(entry, classes, max_pixels, each) for i, entry in enumerate(entries) if i in chosen]
    filters: dict[str, Counter[str]] = {}
    for card in cards:
        for name, value in card["tags"]:
            filters.setdefault(name, Counter())[value] += 1
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string(PAGE).render(title=title, cards=cards, total=total, filters=filters)
    with text_file(path) as file:
        file.write(page)
    return len(cards)


def _card(entry: Entry, classes: Mapping[int, int], max_pixels: int, most_bytes: int) -> dict[str, Any]:
    image = read_image(entry["file"], max_pixels)
    image = _shrunk(image)  # before drawing, so that lines and letters stay readable
    drawn = _shrunk(draw_entry(image, {**entry, "labels": {}}, classes))
    objects = Counter(found["category"] for found in entry["detections"])
    # ("objects", ...) cannot be taken for a head of that name: heads are identifiers.
    tags = [("found", name) for name in objects]
    tags += [
        (head, name) for head, answer in entry["labels"].items() for name in dict.fromkeys(labels_of(answer))
    ]
    return {
        "file": printable(entry["file"]),
        "source": "data:image/jpeg;base64," + base64.b64encode(_fitting(drawn, most_bytes)).decode(),
        "width": drawn.shape[1],
        "height": drawn.shape[0],
        "objects": ", ".join(f"{count} {name}" for name, count in objects.most_common()),
        "lines": caption_lines(entry["labels"]),
        "tags": tags,
    }


def _shrunk(image: np.ndarray) -> np.ndarray:
    factor = SIDE / max(image.shape[:2])
    if factor >= 1:
        return image
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _fitting(image: np.ndarray, most_bytes: int) -> bytes:
    """Return a JPEG of at most `most_bytes`, of lower quality and then smaller if need be."""
    while True:
        for quality in (82, 65, 45):
            content = encoded(image, quality=quality)
            if len(content) <= most_bytes:
                return content
        image = cv2.resize(image, None, fx=0.7, fy=0.7, interpolation=cv2.INTER_AREA)
