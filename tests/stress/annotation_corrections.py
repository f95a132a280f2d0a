"""Mutations of a good annotation tree that must be read, with the corrections that this takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.stress.annotation_files import Document, inside, size_of, some
from tests.stress.annotation_reference import (
    NEGATIVE_AREA,
    OUTSIDE,
    OVERHANGS,
    UNSIZED,
    WITHOUT_AREA,
    WITHOUT_CROWD,
    WITHOUT_ID,
)
from tests.stress.verdicts import Accepted

Tree = Callable[[Document, np.random.Generator], Accepted]


def untouched(document: Document, rng: np.random.Generator) -> Accepted:
    """Change nothing."""
    return Accepted(document)


def drops(field: str, reason: str, null: bool) -> Tree:
    """Remove a field that can be made again, or set it to null."""

    def mutate(document: Document, rng: np.random.Generator) -> Accepted:
        changed = some(rng, len(document["annotations"]))
        for i in changed:
            if null:
                document["annotations"][i][field] = None
            else:
                del document["annotations"][i][field]
        return Accepted(document, {reason: len(changed)})

    return mutate


def without_ids(document: Document, rng: np.random.Generator) -> Accepted:
    """Remove every annotation's id."""
    for entry in document["annotations"]:
        del entry["id"]
    return Accepted(document, {WITHOUT_ID: len(document["annotations"])})


def boxes(reason: str | None, change: Callable[[list[float], int, int], list[float]]) -> Tree:
    """Change some good boxes, given as [x, y, w, h] with their image's width and height, to ones that need
    the same correction. Fewer than one in twenty: more that overflow can look like corners."""

    def mutate(document: Document, rng: np.random.Generator) -> Accepted:
        chosen = inside(document, rng, most=max(1, len(document["annotations"]) // 25))
        for entry in chosen:
            entry["bbox"] = change(entry["bbox"], *size_of(document, entry))
        return Accepted(document, {reason: len(chosen)} if reason else {})

    return mutate


def few_corners(document: Document, rng: np.random.Generator) -> Accepted:
    """Write few boxes as corners: too few to know it, so that they are clipped where they overhang."""
    chosen = inside(document, rng, most=max(1, len(document["annotations"]) // 25))
    overhanging = 0
    for entry in chosen:
        x, y, w, h = entry["bbox"]
        width, height = size_of(document, entry)
        entry["bbox"] = [x, y, x + w, y + h]
        overhanging += x + x + w > width + 1e-3 or y + y + h > height + 1e-3
    return Accepted(document, {OVERHANGS: overhanging})


def area_of(value: Any, reason: str | None) -> Tree:
    """Give some annotations another area."""

    def mutate(document: Document, rng: np.random.Generator) -> Accepted:
        changed = some(rng, len(document["annotations"]))
        for i in changed:
            document["annotations"][i]["area"] = value
        return Accepted(document, {reason: len(changed)} if reason else {})

    return mutate


def crowds(value: Any, without_area: bool) -> Tree:
    """Make crowds of some annotations."""

    def mutate(document: Document, rng: np.random.Generator) -> Accepted:
        chosen = inside(document, rng)
        for entry in chosen:
            entry["iscrowd"] = value
            if without_area:
                del entry["area"]
        return Accepted(document, {WITHOUT_AREA: len(chosen)} if without_area else {})

    return mutate


def shuffled(section: str) -> Tree:
    """Change the order of a section's entries."""

    def mutate(document: Document, rng: np.random.Generator) -> Accepted:
        document[section] = [document[section][i] for i in rng.permutation(len(document[section]))]
        return Accepted(document)

    return mutate


def relabelled(section: str, field: str, change: Callable[[int, int], int]) -> Tree:
    """Give images or categories other ids, made from their place and their id."""

    def mutate(document: Document, rng: np.random.Generator) -> Accepted:
        ids = [entry["id"] for entry in document[section]]
        new = {number: change(place, number) for place, number in enumerate(ids)}
        for entry in document[section]:
            entry["id"] = new[entry["id"]]
        for entry in document["annotations"]:
            entry[field] = new[entry[field]]
        return Accepted(document)

    return mutate


def annotation_ids(change: Callable[[int, int], int]) -> Tree:
    """Give annotations other ids, made from their place and their id."""

    def mutate(document: Document, rng: np.random.Generator) -> Accepted:
        for place, entry in enumerate(document["annotations"]):
            entry["id"] = change(place, entry["id"])
        return Accepted(document)

    return mutate


def everywhere(change: Callable[[Document], None]) -> Tree:
    """Change every annotation in a way that reading does not see."""

    def mutate(document: Document, rng: np.random.Generator) -> Accepted:
        for entry in document["annotations"]:
            change(entry)
        return Accepted(document)

    return mutate


def more_keys(document: Document, rng: np.random.Generator) -> Accepted:
    """Add keys that COCO does not know, some with the names of those that it knows in deeper places."""
    document["info"] = {"images": [1], "id": "x", "bbox": None}
    document["videos"] = [{"id": 1, "annotations": []}]
    for section in ("images", "annotations", "categories"):
        for entry in document[section]:
            entry["extra"] = {"id": "1", "bbox": [1], "file_name": 3}
            entry["ID"] = "not an id"
    return Accepted(document)


def named(name: str) -> Tree:
    """Give one category another name."""

    def mutate(document: Document, rng: np.random.Generator) -> Accepted:
        entries = document["categories"]
        entries[int(rng.integers(len(entries)))]["name"] = name
        return Accepted(document)

    return mutate


def same_names(document: Document, rng: np.random.Generator) -> Accepted:
    """Give two categories one name: they stay two."""
    first, second = rng.choice(len(document["categories"]), 2, replace=False)
    document["categories"][first]["name"] = document["categories"][second]["name"]
    return Accepted(document)


def no_annotations(document: Document, rng: np.random.Generator) -> Accepted:
    """Leave images and categories without any annotation: all are negatives."""
    gone = _gone(document)
    document["annotations"] = []
    return Accepted(document, gone)


def nothing_at_all(document: Document, rng: np.random.Generator) -> Accepted:
    """Leave three empty lists."""
    gone = _gone(document)
    document.update(images=[], annotations=[], categories=[])
    return Accepted(document, gone, training="categories")


def emptied_images(document: Document, rng: np.random.Generator) -> Accepted:
    """Take all annotations from some images."""
    ids = [image["id"] for image in document["images"]]
    kept = set(ids) - {ids[i] for i in some(rng, len(ids) - 1)}
    entries = [entry for entry in document["annotations"] if entry["image_id"] in kept]
    gone = _gone(document, {id(entry) for entry in entries})
    document["annotations"] = entries
    return Accepted(document, gone)


def _gone(document: Document, kept: set[int] = frozenset()) -> dict[str, int]:  # type: ignore[assignment]
    """Return the corrections that the file no longer needs without the annotations that are not `kept`."""
    overhanging = 0
    for entry in document["annotations"]:
        if id(entry) not in kept:
            x, y, w, h = entry["bbox"]
            width, height = size_of(document, entry)
            overhanging += max(-x, -y, x + w - width, y + h - height) > 1e-3
    return {OVERHANGS: -overhanging}


def repeated_boxes(document: Document, rng: np.random.Generator) -> Accepted:
    """Annotate some objects twice: both count, as they do for pycocotools."""
    following = max(entry["id"] for entry in document["annotations"]) + 1
    for number, entry in enumerate(inside(document, rng), start=following):
        document["annotations"].append({**entry, "id": number})
    return Accepted(document)


def attributes(values: list[Any]) -> Tree:
    """Give the images attributes, in turn; null and none at all are both unknown."""

    def mutate(document: Document, rng: np.random.Generator) -> Accepted:
        for i, image in enumerate(document["images"]):
            if i % (len(values) + 1) < len(values):
                image["attributes"] = {"stress": values[i % (len(values) + 1)]}
        return Accepted(document)

    return mutate


def _set(**values: Any) -> Callable[[Document], None]:
    return lambda entry: entry.update(values)


def _reverse(entry: Document) -> None:
    items = list(entry.items())[::-1]
    entry.clear()
    entry.update(items)


CORRECTIONS: dict[str, Tree] = {
    "untouched": untouched,
    "some ids missing": drops("id", WITHOUT_ID, null=False),
    "some ids null": drops("id", WITHOUT_ID, null=True),
    "all ids missing": without_ids,
    "iscrowd missing": drops("iscrowd", WITHOUT_CROWD, null=False),
    "iscrowd null": drops("iscrowd", WITHOUT_CROWD, null=True),
    "area missing": drops("area", WITHOUT_AREA, null=False),
    "area null": drops("area", WITHOUT_AREA, null=True),
    "area negative": area_of(-5.0, NEGATIVE_AREA),
    "area 0": area_of(0, None),
    "area 1e300": area_of(1e300, None),
    "crowd": crowds(1, without_area=False),
    "crowd true": crowds(True, without_area=False),
    "crowd without area": crowds(1, without_area=True),
    "box of width 0": boxes(UNSIZED, lambda box, width, height: [box[0], box[1], 0, box[3]]),
    "box of negative height": boxes(UNSIZED, lambda box, width, height: [box[0], box[1], box[2], -box[3]]),
    "box too thin for float32": boxes(UNSIZED, lambda box, width, height: [20.0, box[1], 1e-9, box[3]]),
    "box outside to the right": boxes(OUTSIDE, lambda box, width, height: [width, box[1], box[2], box[3]]),
    "box outside above": boxes(OUTSIDE, lambda box, width, height: [box[0], -box[3] - 1, box[2], box[3]]),
    "box far outside": boxes(OUTSIDE, lambda box, width, height: [-1e9, -1e9, 1, 1]),
    "box overhangs left": boxes(OVERHANGS, lambda box, width, height: [-1.5, box[1], box[2] + 2, box[3]]),
    "box overhangs below": boxes(OVERHANGS, lambda box, width, height: [box[0], box[1], box[2], height]),
    "box larger than its image": boxes(
        OVERHANGS, lambda box, width, height: [-9, -9, width + 18, height + 18]
    ),
    "box of the whole image": boxes(None, lambda box, width, height: [0, 0, width, height]),
    "few boxes as corners": few_corners,
    "boxes repeated": repeated_boxes,
    "no annotations": no_annotations,
    "nothing at all": nothing_at_all,
    "images emptied": emptied_images,
    "annotations shuffled": shuffled("annotations"),
    "images shuffled": shuffled("images"),
    "categories shuffled": shuffled("categories"),
    "keys reversed": everywhere(_reverse),
    "annotation id 0": annotation_ids(lambda place, number: place),
    "annotation ids negative": annotation_ids(lambda place, number: -number - 1),
    "annotation ids up to 2**53": annotation_ids(lambda place, number: 2**53 - place),
    "image id 0": relabelled("images", "image_id", lambda place, number: place),
    "image ids negative": relabelled("images", "image_id", lambda place, number: -number - 1),
    "image ids up to 2**53": relabelled("images", "image_id", lambda place, number: 2**53 - place),
    "category ids from 0": relabelled("categories", "category_id", lambda place, number: place),
    "category ids sparse": relabelled("categories", "category_id", lambda place, number: number * 1009 + 5),
    "category ids downwards": relabelled("categories", "category_id", lambda place, number: -7 * number),
    "keys unknown to COCO": more_keys,
    "category named like code": named("<script>alert(1)</script>"),
    "category name empty": named(""),
    "category name of many alphabets": named("кот 猫 🐈 \u202ecat"),
    "category names repeated": same_names,
    "no segmentation": everywhere(lambda entry: entry.pop("segmentation", None) and None),
    "segmentation of a wrong type": everywhere(_set(segmentation="none")),
    "segmentation of giant counts": everywhere(
        _set(segmentation={"size": [10**9, 10**9], "counts": [10**18, 1]})
    ),
    "attributes": attributes(["a", None, "b"]),
    "attributes of several kinds": attributes([1, 2.5, True, ["x", "y"], "text"]),
}
