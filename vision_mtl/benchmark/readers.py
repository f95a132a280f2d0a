"""What the part `index` does in processes of its own: one annotation file read, by either side."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

from vision_mtl.benchmark.process import Usage, dirtied_by_fork, measured
from vision_mtl.data.annotations import AnnotationIndex, read_annotations


def _open_peer(path: str) -> Any:
    from pycocotools.coco import COCO

    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(path)


def read_peer(path: str) -> Usage:
    """Return what `pycocotools.coco.COCO` takes to read and index the file."""
    import pycocotools.coco  # noqa: F401  the import's own memory is not the reading's

    return measured(lambda: _open_peer(path))


def read_ours(path: str, cache: str) -> Usage:
    """Return what our reader takes, with whatever the cache folder holds."""
    return measured(lambda: read_annotations(path, Path(cache)))


def worker_of_peer(path: str) -> float:
    """Return the megabytes of its own of a worker that has seen all annotations, as CocoDetection does."""
    coco = _open_peer(path)

    def touch() -> None:
        for number in sorted(coco.imgs):
            coco.loadImgs(number)
            coco.loadAnns(coco.getAnnIds(number))

    return dirtied_by_fork(touch)


def worker_of_ours(path: str, cache: str) -> float:
    """Return the megabytes of its own of a worker that has seen every image's objects, as our data set."""
    index = read_annotations(path, Path(cache))
    return dirtied_by_fork(lambda: touch_all(index))


def touch_all(index: AnnotationIndex) -> None:
    """Read all that a data set reads of every image, and every number of every array."""
    for i in range(len(index)):
        index.file_name(i)
        index.objects(i)
    for array in (index.xywh, index.areas, index.classes, index.annotation_ids, index.image_ids):
        array.max(initial=0)
