"""The annotation file that is mutated, with its images, and what the mutations need to know of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from vision_mtl.data.shapes import ensure_shapes

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
Document = dict[str, Any]


@dataclass(frozen=True)
class Original:
    """A good annotation file.

    Attributes:
        path: a copy that may be used, but not changed.
        images: the folder of its images.
        content: its bytes.
    """

    path: Path
    images: Path
    content: bytes

    def document(self) -> Document:
        """Return the file as a tree that may be changed."""
        return msgspec.json.decode(self.content)


def original(folder: Path, images: int | None = None) -> Original:
    """Return a real file where the data sets are there, else one drawn into `folder`.

    Args:
        folder: an empty one.
        images: how many images to keep, the first that have annotations; all if not given.
    """
    found = sorted((DATA / "coco_mini" / "annotations").glob("*val*exact*.json"))
    if found:
        path, pictures = found[0], DATA / "coco_mini" / "val2017"
    else:
        root = ensure_shapes(folder / "shapes", train=1, val=60, test=1)
        path, pictures = root / "annotations" / "val.json", root / "val"
    document: Document = msgspec.json.decode(path.read_bytes())
    if images is not None:
        annotated = {entry["image_id"] for entry in document["annotations"]}
        document["images"] = [image for image in document["images"] if image["id"] in annotated][:images]
        ids = {image["id"] for image in document["images"]}
        document["annotations"] = [e for e in document["annotations"] if e["image_id"] in ids]
    copy = folder / "good.json"
    copy.write_bytes(msgspec.json.encode(document))
    return Original(copy, pictures, copy.read_bytes())


def some(rng: np.random.Generator, count: int, most: int = 15) -> list[int]:
    """Return from 1 to `most` of the positions below `count`, sorted."""
    chosen = rng.choice(count, size=min(count, int(rng.integers(1, most + 1))), replace=False)
    return sorted(chosen.tolist())


def inside(document: Document, rng: np.random.Generator, most: int = 15) -> list[Document]:
    """Return from 1 to `most` annotations, in file order, that need no correction: no crowd, the box whole
    inside its image with room for one pixel more on each side."""
    sizes = {image["id"]: (image["width"], image["height"]) for image in document["images"]}

    def is_plain(entry: Document) -> bool:
        x, y, w, h = entry["bbox"]
        width, height = sizes[entry["image_id"]]
        fits = x > 1 and y > 1 and w > 1 and h > 1 and x + w < width - 1 and y + h < height - 1
        return fits and entry["iscrowd"] == 0

    plain = [entry for entry in document["annotations"] if is_plain(entry)]
    return [plain[i] for i in some(rng, len(plain), most)]


def size_of(document: Document, entry: Document) -> tuple[int, int]:
    """Return (width, height) of an annotation's image."""
    image = next(image for image in document["images"] if image["id"] == entry["image_id"])
    return image["width"], image["height"]
