"""A COCO annotation file of any size, written as it is made up: nothing of it stays in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

import numpy as np

from vision_mtl.files import whole
from vision_mtl.models.published import coco_classes

HEIGHT, WIDTH = 480, 640
CHUNK = 10_000
CROWDS = 0.012  # share of the annotations that are crowds, as in train2017
EMPTY = 0.009  # share of the images without annotations: 1,021 of train2017's 118,287
POINTS = (6, 51)  # of a polygon, from and below; with these train2017's numbers give about 530 MB


def write_annotations(path: Path, images: int, annotations: int, seed: int = 0) -> None:
    """Write a COCO JSON with polygons in COCO's style.

    Args:
        path: the file, which appears whole.
        images: how many, with the fields and id gaps of COCO's.
        annotations: how many, of COCO's 80 categories, in no order.
        seed: decides everything.
    """
    rng = np.random.default_rng(seed)
    ids = np.sort(rng.choice(max(5 * images, 10), images, replace=False)) + 1
    known = coco_classes()
    with whole(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write('{"info": {"description": "made up by tools/benchmark.py", "year": 2017}, "licenses": [')
        file.write('{"id": 1, "name": "Attribution License", "url": ""}],\n"images": [')
        _write_list(file, (_image(number) for number in ids.tolist()))
        file.write('],\n"annotations": [')
        _write_list(file, _annotations(ids, annotations, np.array(known.ids), rng))
        file.write('],\n"categories": [')
        pairs = zip(known.ids, known.names, strict=True)
        _write_list(file, (f'{{"supercategory": "thing", "id": {i}, "name": "{name}"}}' for i, name in pairs))
        file.write("]}\n")


def _write_list(file: TextIO, entries: Iterable[str]) -> None:
    before = ""
    for entry in entries:
        file.write(before + entry)
        before = ",\n"


def _image(number: int) -> str:
    name = f"{number:012d}.jpg"
    return (
        f'{{"license": 1, "file_name": "{name}", "coco_url": "http://images.example.org/train2017/{name}", '
        f'"height": {HEIGHT}, "width": {WIDTH}, "date_captured": "2013-11-14 17:02:52", '
        f'"flickr_url": "http://farm9.example.org/8186/{number * 7919 % 10**10:010d}_{number:08x}_z.jpg", '
        f'"id": {number}}}'
    )


def _annotations(
    images: np.ndarray, count: int, categories: np.ndarray, rng: np.random.Generator
) -> Iterator[str]:
    annotated = rng.permutation(images)[: max(1, round(len(images) * (1 - EMPTY)))]
    weights = rng.gamma(0.9, size=len(annotated))  # a few images have many objects, and each has one
    first = np.arange(min(count, len(annotated)))
    more = rng.choice(len(annotated), count - len(first), p=weights / weights.sum())
    owners = annotated[rng.permutation(np.concatenate([first, more]))]
    for start in range(0, count, CHUNK):
        size = min(CHUNK, count - start)
        sides = np.exp(rng.normal(4.0, 1.0, (size, 2))).clip(3, [WIDTH - 2, HEIGHT - 2])
        corners = rng.random((size, 2)) * ([WIDTH, HEIGHT] - sides)
        boxes = np.column_stack([corners, sides]).round(2).tolist()
        points = rng.integers(*POINTS, size)
        places = rng.random((int(points.sum()), 2))
        ends = np.cumsum(points)
        crowds = rng.random(size) < CROWDS
        chosen = rng.choice(categories, size).tolist()
        for i, (x, y, width, height) in enumerate(boxes):
            if crowds[i]:
                cells = WIDTH * HEIGHT
                counts = f"[{cells // 2}, 900, {cells - cells // 2 - 900}]"
                outline = f'{{"counts": {counts}, "size": [{HEIGHT}, {WIDTH}]}}'
            else:
                polygon = places[ends[i] - points[i] : ends[i]] * [width, height] + [x, y]
                outline = f"[[{', '.join(['%.2f'] * (2 * points[i])) % tuple(polygon.ravel().tolist())}]]"
            yield (
                f'{{"segmentation": {outline}, "area": {0.6 * width * height:.4f}, '
                f'"iscrowd": {int(crowds[i])}, "image_id": {owners[start + i]}, '
                f'"bbox": [{x}, {y}, {width}, {height}], '
                f'"category_id": {chosen[i]}, "id": {start + i + 1}}}'
            )
