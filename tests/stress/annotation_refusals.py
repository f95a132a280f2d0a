"""Mutations of a good annotation tree that must be refused, with what the error has to name."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.stress.annotation_files import Document, inside, size_of, some
from tests.stress.verdicts import Refused

Tree = Callable[[Document, np.random.Generator], Refused]

BOX = "A box is [x, y, width, height], four finite numbers in pixels."
SIZE = "Image sizes are whole pixels, at least 1."
ID = "Ids are JSON integers"
CROWD = "iscrowd is 0, 1, true or false."
OTHER = "Correct or remove these entries."
ROOT = "A COCO file is an object with the lists `images`, `annotations` and `categories`."
GONE = object()  # in place of a value: the key is removed


def entries_named(section: str, ids: Sequence[Any]) -> str:
    """Return the words for bad entries: how many, and the first ten ids as JSON has them."""
    shown = ", ".join(number if number == "missing" else json.dumps(number) for number in ids[:10])
    return f"({len(ids)} {section}: ids {shown}{', ...' if len(ids) > 10 else ''})"


def sets(section: str, field: str, value: Any, cure: str, inner: str = "") -> Tree:
    """Give some entries a value of a kind that their field cannot have.

    Args:
        section: of the file.
        field: of its entries.
        value: the new value, made from the old one where it is a function.
        cure: what the error has to advise.
        inner: what follows the field in the place that the error names.
    """

    def mutate(document: Document, rng: np.random.Generator) -> Refused:
        changed = some(rng, len(document[section]))
        for i in changed:
            entry = document[section][i]
            if value is GONE:
                del entry[field]
            else:
                entry[field] = value(entry.get(field)) if callable(value) else value
        ids = [document[section][i].get("id", "missing") for i in changed]
        words = entries_named(f"bad {section}", ids)
        end = "" if value is GONE else f".{field}{inner}"
        return Refused((f"$.{section}[{changed[0]}]{end}: ", words, cure))

    return mutate


def replaces(section: str, value: Any) -> Tree:
    """Put something that is no object in the place of some entries."""

    def mutate(document: Document, rng: np.random.Generator) -> Refused:
        changed = some(rng, len(document[section]))
        for i in changed:
            document[section][i] = value
        words = entries_named(f"bad {section}", ["missing"] * len(changed))
        return Refused((f"$.{section}[{changed[0]}]: Expected `object`", words, OTHER))

    return mutate


def root(section: str, value: Any) -> Tree:
    """Replace or remove a whole section."""

    def mutate(document: Document, rng: np.random.Generator) -> Refused:
        if value is GONE:
            del document[section]
            return Refused((f"$: Object missing required field `{section}`", ROOT))
        document[section] = value
        return Refused((f"$.{section}: Expected `array`", ROOT))

    return mutate


def coordinate(value: Any) -> Tree:
    """Put a wrong value in one place of some boxes."""

    def mutate(document: Document, rng: np.random.Generator) -> Refused:
        at = int(rng.integers(4))

        def change(box: list[float]) -> list[Any]:
            return [*box[:at], value, *box[at + 1 :]]

        return sets("annotations", "bbox", change, BOX, f"[{at}]")(document, rng)

    return mutate


def repeated(section: str) -> Tree:
    """Give some entries the id of the first one."""

    def mutate(document: Document, rng: np.random.Generator) -> Refused:
        entries = document[section]
        changed = [i + 1 for i in some(rng, len(entries) - 1)]
        for i in changed:
            entries[i]["id"] = entries[0]["id"]
        words = entries_named(section, [entries[0]["id"]] * len(changed))
        cure = "Give each its own id."
        return Refused((f"$.{section}[{changed[0]}].id: an id that an earlier entry has", words, cure))

    return mutate


def unknown(field: str, section: str, cure: str) -> Tree:
    """Let some annotations name an image or category that is not there."""

    def mutate(document: Document, rng: np.random.Generator) -> Refused:
        free = max(entry["id"] for entry in document[section]) + int(rng.integers(1, 1000))
        changed = some(rng, len(document["annotations"]))
        for i in changed:
            document["annotations"][i][field] = free
        words = entries_named("annotations", [document["annotations"][i]["id"] for i in changed])
        problem = f"$.annotations[{changed[0]}].{field}: "
        return Refused((problem, f"`{section}` does not have", words, cure))

    return mutate


def emptied(section: str, field: str) -> Tree:
    """Leave no image or no category, so that all annotations name unknown ones."""

    def mutate(document: Document, rng: np.random.Generator) -> Refused:
        document[section] = []
        words = entries_named("annotations", [entry["id"] for entry in document["annotations"]])
        return Refused((f"$.annotations[0].{field}: ", f"`{section}` does not have", words))

    return mutate


def leaves(name: str) -> Tree:
    """Let some images' file names lead out of the image folder."""

    def mutate(document: Document, rng: np.random.Generator) -> Refused:
        changed = some(rng, len(document["images"]))
        for i in changed:
            document["images"][i]["file_name"] = name
        words = entries_named("images", [document["images"][i]["id"] for i in changed])
        place = f"$.images[{changed[0]}].file_name: a file name that leaves the image folder"
        return Refused((place, words, "Use paths relative to the image folder"))

    return mutate


def corners_for_sizes(document: Document, rng: np.random.Generator) -> Refused:
    """Write [x1, y1, x2, y2] where [x, y, width, height] belongs."""
    for entry in document["annotations"]:
        x, y, width, height = entry["bbox"]
        entry["bbox"] = [x, y, x + width, y + height]
    wrong = []
    for i, entry in enumerate(document["annotations"]):
        x1, y1, x2, y2 = entry["bbox"]
        width, height = size_of(document, entry)
        if (x1 + x2 > width + 1 or y1 + y2 > height + 1) and x2 <= width and y2 <= height:
            wrong.append((i, entry["id"]))
    words = entries_named("annotations", [number for _, number in wrong])
    place = f"$.annotations[{wrong[0][0]}].bbox: looks like xyxy written as xywh"
    return Refused((place, words, "Write bbox as [x1, y1, x2 - x1, y2 - y1]."))


def identity_of_text(document: Document, rng: np.random.Generator) -> Refused:
    """Write all ids of images as text, so that nothing is left to compare them with."""
    for image in document["images"]:
        image["id"] = str(image["id"])
    for entry in document["annotations"]:
        entry["image_id"] = str(entry["image_id"])
    # The section that comes first in the file is the one that is reported.
    first = next(name for name in document if name in ("images", "annotations"))
    if first == "annotations":
        ids = [entry["id"] for entry in document["annotations"]]
        return Refused(("$.annotations[0].image_id", entries_named("bad annotations", ids), ID))
    ids = [image["id"] for image in document["images"]]
    return Refused(("$.images[0].id", entries_named("bad images", ids), ID))


def a_box_that_ends_early(document: Document, rng: np.random.Generator) -> Refused:
    """Drop the last number of some boxes that are fine otherwise."""
    chosen = inside(document, rng)
    for entry in chosen:
        entry["bbox"] = entry["bbox"][:3]
    first = document["annotations"].index(chosen[0])
    words = entries_named("bad annotations", [entry["id"] for entry in chosen])
    return Refused((f"$.annotations[{first}].bbox: Expected `array` of length 4", words, BOX))


REFUSALS: dict[str, Tree] = {
    "annotation id as text": sets("annotations", "id", str, ID),
    "annotation id 1.5": sets("annotations", "id", 1.5, ID),
    "annotation id as a whole float": sets("annotations", "id", float, ID),
    "annotation id true": sets("annotations", "id", True, ID),
    "annotation id in a list": sets("annotations", "id", lambda number: [number], ID),
    "annotation id over 2**53": sets("annotations", "id", 2**53 + 1, ID),
    "image id as text": sets("images", "id", str, ID),
    "image id null": sets("images", "id", None, ID),
    "image id missing": sets("images", "id", GONE, ID),
    "image id over 2**53": sets("images", "id", 2**53 + 1, ID),
    "image id of 30 digits": sets("images", "id", 10**30, ID),
    "category id as text": sets("categories", "id", str, ID),
    "category id missing": sets("categories", "id", GONE, ID),
    "image_id as text": sets("annotations", "image_id", str, ID),
    "image_id null": sets("annotations", "image_id", None, ID),
    "image_id missing": sets("annotations", "image_id", GONE, ID),
    "category_id as text": sets("annotations", "category_id", str, ID),
    "category_id missing": sets("annotations", "category_id", GONE, ID),
    "all image ids as text": identity_of_text,
    "bbox missing": sets("annotations", "bbox", GONE, BOX),
    "bbox null": sets("annotations", "bbox", None, BOX),
    "bbox as text": sets("annotations", "bbox", "0 0 5 5", BOX),
    "bbox as an object": sets("annotations", "bbox", {"x": 0, "y": 0, "w": 5, "h": 5}, BOX),
    "bbox in a list": sets("annotations", "bbox", lambda box: [box, box, box, box], BOX, "[0]"),
    "bbox of five": sets("annotations", "bbox", lambda box: [*box, 1], BOX),
    "bbox of three": a_box_that_ends_early,
    "bbox empty": sets("annotations", "bbox", [], BOX),
    "coordinate as text": coordinate("7"),
    "coordinate null": coordinate(None),
    "coordinate true": coordinate(True),
    "coordinate 1e200": coordinate(1e200),
    "coordinate -1e10": coordinate(-1e10),
    "area as text": sets("annotations", "area", str, OTHER),
    "area as a list": sets("annotations", "area", lambda area: [area], OTHER),
    "iscrowd 2": sets("annotations", "iscrowd", 2, CROWD),
    "iscrowd -1": sets("annotations", "iscrowd", -1, CROWD),
    "iscrowd as text": sets("annotations", "iscrowd", "0", CROWD),
    "width 0": sets("images", "width", 0, SIZE),
    "height negative": sets("images", "height", -480, SIZE),
    "width 640.5": sets("images", "width", 640.5, SIZE),
    "height as text": sets("images", "height", str, SIZE),
    "width missing": sets("images", "width", GONE, SIZE),
    "height null": sets("images", "height", None, SIZE),
    "width over 2**31": sets("images", "width", 2**40, SIZE),
    "file_name missing": sets("images", "file_name", GONE, OTHER),
    "file_name null": sets("images", "file_name", None, OTHER),
    "file_name a number": sets("images", "file_name", 7, OTHER),
    "file_name empty": sets("images", "file_name", "", OTHER),
    "file_name absolute": leaves("/etc/passwd"),
    "file_name with ..": leaves("a/../../b.jpg"),
    "file_name with a drive": leaves("C:\\b.jpg"),
    "file_name of a share": leaves("\\\\host\\b.jpg"),
    "file_name with a zero byte": leaves("a\0.jpg"),
    "category name missing": sets("categories", "name", GONE, OTHER),
    "category name null": sets("categories", "name", None, OTHER),
    "category name a number": sets("categories", "name", 3, OTHER),
    "attributes a list": sets("images", "attributes", [1], OTHER),
    "annotation a number": replaces("annotations", 3),
    "annotation null": replaces("annotations", None),
    "image a list": replaces("images", []),
    "category as text": replaces("categories", "person"),
    "images missing": root("images", GONE),
    "annotations missing": root("annotations", GONE),
    "categories missing": root("categories", GONE),
    "annotations null": root("annotations", None),
    "images by id": root("images", {"1": {"id": 1}}),
    "categories a number": root("categories", 80),
    "annotation ids repeated": repeated("annotations"),
    "image ids repeated": repeated("images"),
    "category ids repeated": repeated("categories"),
    "unknown image": unknown("image_id", "images", "Add the images or remove their annotations."),
    "unknown category": unknown("category_id", "categories", "Known ids: "),
    "no images": emptied("images", "image_id"),
    "no categories": emptied("categories", "category_id"),
    "xyxy written as xywh": corners_for_sizes,
}
