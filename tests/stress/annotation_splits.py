"""Mutations of one split of a good data set, judged beside the other or the image files."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.stress.annotation_files import Document, some
from tests.stress.verdicts import Accepted, Refused

Split = Callable[[Document, np.random.Generator], Accepted | Refused]


def renamed_category(document: Document, rng: np.random.Generator) -> Refused:
    """Rename a category in one split."""
    category = document["categories"][int(rng.integers(len(document["categories"])))]
    others = [entry["name"] for entry in document["categories"] if entry is not category]
    category["name"] = f"{category['name']}s"
    says = f"$.categories: training never saw {category['name']}"
    return Refused((says, "Trained on: ", others[0], "rename"))


def added_category(document: Document, rng: np.random.Generator) -> Refused:
    """Add a category to one split."""
    number = max(entry["id"] for entry in document["categories"]) + 1
    document["categories"].append({"id": number, "name": "zeppelin"})
    return Refused(("$.categories: training never saw zeppelin", "Trained on: ", "rename"))


def fewer_categories(document: Document, rng: np.random.Generator) -> Accepted:
    """Leave out categories that no annotation has: the others keep their classes."""
    last = document["categories"][-1]["id"]
    document["annotations"] = [e for e in document["annotations"] if e["category_id"] != last]
    document["categories"].pop()
    return Accepted(document, found=None)


def other_ids(document: Document, rng: np.random.Generator) -> Accepted:
    """Give the categories of one split other ids in another order: names decide."""
    ids = [entry["id"] for entry in document["categories"]]
    new = dict(zip(ids, (rng.permutation(len(ids)) + 1000).tolist(), strict=True))
    for entry in document["categories"]:
        entry["id"] = new[entry["id"]]
    for entry in document["annotations"]:
        entry["category_id"] = new[entry["category_id"]]
    return Accepted(document)


def swapped_sizes(document: Document, rng: np.random.Generator) -> Refused:
    """Swap width and height of some images, as tools do that overlook the EXIF orientation."""
    tall = [image for image in document["images"] if image["width"] != image["height"]]
    chosen = [tall[i] for i in some(rng, len(tall), most=9)]
    for image in chosen:
        image["width"], image["height"] = image["height"], image["width"]
    counted = f"{len(chosen)} of {len(document['images'])} images"
    names = [f"{image['file_name']} (image id {image['id']})" for image in chosen]
    return Refused((counted, *names, "EXIF", "data.bad_images=skip"))


def wrong_size(document: Document, rng: np.random.Generator) -> Refused:
    """State sizes that the files do not have."""
    chosen = [document["images"][i] for i in some(rng, len(document["images"]), most=9)]
    for image in chosen:
        image["width"] += 1000
    names = [f"{image['file_name']} (image id {image['id']})" for image in chosen]
    return Refused((f"{len(chosen)} of {len(document['images'])} images", *names, "correct the annotations"))


def missing_files(document: Document, rng: np.random.Generator) -> Refused:
    """Name files that are not there."""
    chosen = [document["images"][i] for i in some(rng, len(document["images"]), most=9)]
    for image in chosen:
        image["file_name"] = f"missing/{image['file_name']}"
    names = [f"{image['file_name']} (image id {image['id']})" for image in chosen]
    return Refused((f"{len(chosen)} of {len(document['images'])} images", *names, "does not exist"))


SPLITS: dict[str, Split] = {
    "category renamed in one split": renamed_category,
    "category added in one split": added_category,
    "category missing in one split": fewer_categories,
    "category ids differ between splits": other_ids,
    "sizes swapped": swapped_sizes,
    "sizes wrong": wrong_size,
    "image files missing": missing_files,
}
