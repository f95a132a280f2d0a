"""An annotation file said in other words: same images, objects and classes; and controls, which differ."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

Document = dict[str, Any]
Rewrite = Callable[[Document, random.Random], None]


def annotation_ids(new: Callable[[int], int]) -> Rewrite:
    """Return a rewriting that gives annotations other ids."""

    def rewrite(document: Document, draw: random.Random) -> None:
        for entry in document["annotations"]:
            entry["id"] = new(entry["id"])

    return rewrite


def shuffled_annotation_ids(document: Document, draw: random.Random) -> None:
    ids = [entry["id"] for entry in document["annotations"]]
    draw.shuffle(ids)
    for entry, number in zip(document["annotations"], ids, strict=True):
        entry["id"] = number


def without(key: str) -> Rewrite:
    """Return a rewriting that leaves a key of annotations out where its default says the same."""

    def rewrite(document: Document, draw: random.Random) -> None:
        for entry in document["annotations"]:
            if key != "iscrowd" or not entry[key]:
                del entry[key]

    return rewrite


def image_ids(new: Callable[[int], int]) -> Rewrite:
    """Return a rewriting that gives images other ids."""

    def rewrite(document: Document, draw: random.Random) -> None:
        for image in document["images"]:
            image["id"] = new(image["id"])
        for entry in document["annotations"]:
            entry["image_id"] = new(entry["image_id"])

    return rewrite


def shuffled_image_ids(document: Document, draw: random.Random) -> None:
    ids = [image["id"] for image in document["images"]]
    others = draw.sample(ids, len(ids))
    image_ids(dict(zip(ids, others, strict=True)).__getitem__)(document, draw)


def category_ids(ids: dict[int, int]) -> Rewrite:
    """Return a rewriting that gives categories other ids."""

    def rewrite(document: Document, draw: random.Random) -> None:
        for category in document["categories"]:
            category["id"] = ids[category["id"]]
        for entry in document["annotations"]:
            entry["category_id"] = ids[entry["category_id"]]

    return rewrite


def shuffled(key: str) -> Rewrite:
    """Return a rewriting of the order of a list."""

    def rewrite(document: Document, draw: random.Random) -> None:
        draw.shuffle(document[key])

    return rewrite


def reversed_order(key: str) -> Rewrite:
    """Return a rewriting that turns a list around."""

    def rewrite(document: Document, draw: random.Random) -> None:
        document[key].reverse()

    return rewrite


def by_category(document: Document, draw: random.Random) -> None:
    document["annotations"].sort(key=lambda entry: entry["category_id"])


def further_keys(document: Document, draw: random.Random) -> None:
    document.update(info={"year": 2024}, licenses=[{"id": 1, "name": "none"}], segments_info=[])
    for image in document["images"]:
        image.update(license=1, coco_url="http://example.org", date_captured="2013-11-14")
    for entry in document["annotations"]:
        x, y, w, h = entry["bbox"]
        entry.update(segmentation=[[x, y, x + w, y, x + w, y + h]], keypoints=[0, 0, 0], score=0.5)
    for category in document["categories"]:
        category.update(supercategory="part", colour=[1, 2, 3])


def long_numbers(document: Document, draw: random.Random) -> None:
    for entry in document["annotations"]:
        entry["bbox"] = [value + 0.0 for value in entry["bbox"]]
        entry["area"] = float(entry["area"])


REWRITINGS: dict[str, Rewrite] = {
    "annotation ids shifted": annotation_ids(lambda number: number + 1_000_000),
    "annotation ids from 0": annotation_ids(lambda number: number - 1),
    "annotation ids negative": annotation_ids(lambda number: -number),
    "annotation ids sparse": annotation_ids(lambda number: number**2 * 97),
    "annotation ids shuffled": shuffled_annotation_ids,
    "annotation ids left out": without("id"),
    "areas left out": without("area"),
    "iscrowd left out": without("iscrowd"),
    "annotation order shuffled": shuffled("annotations"),
    "annotation order reversed": reversed_order("annotations"),
    "annotations sorted by category": by_category,
    "image ids shifted": image_ids(lambda number: number + 1_000_000),
    "image ids from 0": image_ids(lambda number: number - 10),
    "image ids of 16 digits": image_ids(lambda number: number + 2**52),
    "image ids turned around": image_ids(lambda number: 1000 - number),
    "image ids shuffled": shuffled_image_ids,
    "category ids from 0": category_ids({3: 0, 7: 1, 21: 2}),
    "category ids sparse": category_ids({3: 90, 7: 1000, 21: 65_000}),
    "category order": reversed_order("categories"),
    "further keys": further_keys,
    "whole numbers as floats": long_numbers,
}

EXCHANGES: dict[str, Rewrite] = {  # the mean over the classes is made in another order
    "category ids exchanged": category_ids({3: 21, 7: 3, 21: 7}),
    "category ids turned around": category_ids({3: 30, 7: 20, 21: 10}),
}

REORDERINGS: dict[str, Rewrite] = {  # batches are made of other images
    "image order shuffled": shuffled("images"),
    "image order reversed": reversed_order("images"),
}


def keys_reversed(document: Any) -> Any:
    """Return a tree with the keys of its mappings in reverse order."""
    if isinstance(document, dict):
        return {key: keys_reversed(value) for key, value in reversed(document.items())}
    return [keys_reversed(value) for value in document] if isinstance(document, list) else document


TEXTS: dict[str, Callable[[Document], bytes]] = {
    "JSON indented": lambda document: json.dumps(document, indent=3).encode(),
    "JSON with CRLF and tabs": lambda document: (
        json.dumps(document, indent="\t").replace("\n", "\r\n").encode()
    ),
    "JSON in UTF-8": lambda document: json.dumps(document, ensure_ascii=False).encode(),
    "JSON with a byte order mark": lambda document: b"\xef\xbb\xbf" + json.dumps(document).encode(),
    "JSON keys in reverse order": lambda document: json.dumps(keys_reversed(document)).encode(),
    "JSON numbers with exponents": lambda document: exponents(document).encode(),
}


def exponents(document: Document) -> str:
    """Return JSON whose boxes are written like 2.5e1."""
    for entry in document["annotations"]:
        entry["bbox"] = [f"<{value:.17e}>" for value in entry["bbox"]]
    return json.dumps(document).replace('"<', "").replace('>"', "")


def drop_one(document: Document, draw: random.Random) -> None:
    del document["annotations"][draw.randrange(len(document["annotations"]))]


def move_one(document: Document, draw: random.Random) -> None:
    plain = [entry for entry in document["annotations"] if not entry["iscrowd"]]
    entry = draw.choice(plain)
    entry["bbox"] = [0, 0, 5, 3]


def exchange_names(document: Document, draw: random.Random) -> None:
    first, second = document["categories"][:2]
    first["name"], second["name"] = second["name"], first["name"]


def another_kind(document: Document, draw: random.Random) -> None:
    attributes = document["images"][0]["attributes"]
    attributes["kind"] = "b" if attributes["kind"] == "a" else "a"


CONTROLS: dict[str, Rewrite] = {  # what must be noticed
    "an object less": drop_one,
    "a box moved": move_one,
    "names of categories exchanged": exchange_names,
    "another attribute": another_kind,
}
