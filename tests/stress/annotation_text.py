"""Mutations of the text of a good annotation file: broken JSON, other encodings, keys given twice."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.stress.annotation_files import Document, some
from tests.stress.annotation_refusals import BOX, OTHER, entries_named
from tests.stress.verdicts import Accepted, Refused

Text = Callable[[Document, np.random.Generator], tuple[bytes, Accepted | Refused]]

AGAIN = "Write or download the file again."
DEEP = "nested too deeply to be COCO annotations"
HOLE = "--hole--"  # a value that is replaced in the text


def broken(change: Callable[[bytes, np.random.Generator], bytes]) -> Text:
    """Turn the text into no JSON at all."""

    def mutate(document: Document, rng: np.random.Generator) -> tuple[bytes, Refused]:
        return change(_dumped(document, rng), rng), Refused(("not valid JSON", "line ", "column ", AGAIN))

    return mutate


def written(write: Callable[[Document], bytes]) -> Text:
    """Write the same content in another way."""

    def mutate(document: Document, rng: np.random.Generator) -> tuple[bytes, Accepted]:
        return write(document), Accepted(document)

    return mutate


def literal(section: str, field: str, text: str, says: tuple[str, ...]) -> Text:
    """Put a literal in the place of a value, which `json.dumps` would not write; the error names its line and
    column, or where it is in the tree."""

    def mutate(document: Document, rng: np.random.Generator) -> tuple[bytes, Refused]:
        at = int(rng.integers(len(document[section])))
        entry = document[section][at]
        entry[field] = [HOLE, 1, 2, 3] if field == "bbox" else HOLE
        before, after = _dumped(document, rng).decode().split(f'"{HOLE}"')
        line = before.count("\n") + 1
        column = len(before) - before.rfind("\n")
        place = f"$.{section}[{at}].{field}{'[0]' if field == 'bbox' else ''}: "
        words = entries_named(f"bad {section}", [entry.get("id")])
        known = {"{line}": f"line {line}, column {column}: ", "{place}": place, "{ids}": words}
        return (before + text + after).encode(), Refused(tuple(known.get(word, word) for word in says))

    return mutate


def twice(section: str, field: str, value: Any, escaped: bool = False) -> Text:
    """Give a key of some entries twice, of which JSON readers keep the last without a word."""

    def mutate(document: Document, rng: np.random.Generator) -> tuple[bytes, Refused]:
        changed = some(rng, len(document[section]))
        for i in changed:
            document[section][i] = {HOLE: value, **document[section][i]}
        key = "".join(f"\\u{ord(letter):04x}" for letter in field) if escaped else field
        text = _dumped(document, rng).decode().replace(f'"{HOLE}"', f'"{key}"')
        words = entries_named(section, [document[section][i]["id"] for i in changed])
        place = f"$.{section}[{changed[0]}].{field}: the key is given twice"
        return text.encode(), Refused((place, words, "Keep one of them."))

    return mutate


def section_twice(document: Document, rng: np.random.Generator) -> tuple[bytes, Refused]:
    """Write a whole section twice."""
    section = ("images", "annotations", "categories")[int(rng.integers(3))]
    text = _dumped({HOLE: [], **document}, rng).decode().replace(HOLE, section)
    return text.encode(), Refused((f"$.{section}: the key is given twice", "Keep one of them."))


def attribute_twice(document: Document, rng: np.random.Generator) -> tuple[bytes, Refused]:
    """Give an attribute of some images twice: which is the label?"""
    changed = some(rng, len(document["images"]))
    for image in document["images"]:
        image["attributes"] = {"kind": "clean"}
    for i in changed:
        document["images"][i]["attributes"] = {HOLE: "dirty", "kind": "clean"}
    text = _dumped(document, rng).decode().replace(HOLE, "kind")
    words = entries_named("images", [document["images"][i]["id"] for i in changed])
    place = f"$.images[{changed[0]}].attributes.kind: the key is given twice"
    return text.encode(), Refused((place, words, "Keep one of them."))


def another_root(root: bytes, kind: str) -> Text:
    """Write something else than an object."""

    def mutate(document: Document, rng: np.random.Generator) -> tuple[bytes, Refused]:
        return root, Refused(
            (f"$: Expected `object`, got `{kind}`", "`images`, `annotations` and `categories`")
        )

    return mutate


def truncated(text: bytes, rng: np.random.Generator) -> bytes:
    return text[: int(rng.integers(len(text) - 1))]


def nested(where: str) -> Text:
    """Nest lists so deep that a reader that calls itself runs out of stack."""

    def mutate(document: Document, rng: np.random.Generator) -> tuple[bytes, Refused]:
        entry: dict[str, Any] = document if where == "top" else document["annotations"][0]
        entry["segmentation" if where == "entry" else "info"] = HOLE
        depth = int(rng.integers(20_000, 200_000))
        deep = b"[" * depth + b"]" * depth if where != "objects" else b'{"a":' * depth + b"1" + b"}" * depth
        text = _dumped(document, rng).replace(f'"{HOLE}"'.encode(), deep)
        return text, Refused((DEEP, "Write the file again."))

    return mutate


def no_utf8(document: Document, rng: np.random.Generator) -> tuple[bytes, Refused]:
    """Write a file name in Latin-1."""
    document["images"][int(rng.integers(len(document["images"])))]["file_name"] = "Käfer.jpg"
    text = json.dumps(document, ensure_ascii=False).encode("latin-1", "replace")
    return text, Refused(("text that is not UTF-8", "Save the file as UTF-8."))


def non_ascii(escaped: bool) -> Text:
    """Name an image outside ASCII, escaped or as it is."""

    def mutate(document: Document, rng: np.random.Generator) -> tuple[bytes, Accepted]:
        document["images"][0]["file_name"] = "日本/Käfer 🐞.jpg"
        return json.dumps(document, ensure_ascii=escaped).encode(), Accepted(document, training="日本")

    return mutate


def _dumped(document: Document, rng: np.random.Generator) -> bytes:
    return json.dumps(document, indent=int(rng.integers(3)) or None).encode()


TEXTS: dict[str, Text] = {
    "truncated": broken(truncated),
    "empty file": broken(lambda text, rng: b""),
    "blank file": broken(lambda text, rng: b" \n\t"),
    "zero bytes": broken(lambda text, rng: bytes(len(text) // 2)),
    "comma at the end": broken(lambda text, rng: text.rstrip()[:-1] + b",}"),
    "something behind the end": broken(lambda text, rng: text + b"]"),
    "two documents": broken(lambda text, rng: text + b"\n" + text),
    "a comment": broken(lambda text, rng: b"// COCO\n" + text),
    "single quotes": broken(lambda text, rng: text.replace(b'"', b"'")),
    "an HTML page": broken(lambda text, rng: b"<!DOCTYPE html><title>404</title>"),
    "UTF-16": broken(lambda text, rng: text.decode().encode("utf-16")),
    "a control character in a name": broken(
        lambda text, rng: text.replace(b'"file_name": "', b'"file_name": "\x01', 1)
    ),
    "half a surrogate pair": broken(
        lambda text, rng: text.replace(b'"file_name": "', b'"file_name": "\\ud800 ', 1)
    ),
    "an unknown escape": broken(lambda text, rng: text.replace(b'"file_name": "', b'"file_name": "\\x', 1)),
    "coordinate NaN": literal("annotations", "bbox", "NaN", ("{line}", "not valid JSON", AGAIN)),
    "coordinate Infinity": literal("annotations", "bbox", "Infinity", ("{line}", "not valid JSON", AGAIN)),
    "coordinate -Infinity": literal("annotations", "bbox", "-Infinity", ("not valid JSON", AGAIN)),
    "area NaN": literal("annotations", "area", "NaN", ("{line}", "not valid JSON", AGAIN)),
    "number with a leading zero": literal("annotations", "area", "007", ("not valid JSON", AGAIN)),
    "hexadecimal number": literal("images", "width", "0x280", ("not valid JSON", AGAIN)),
    "coordinate 1e999": literal("annotations", "bbox", "1e999", ("{place}", "out of range", "{ids}", BOX)),
    "coordinate of 5,000 digits": literal("annotations", "bbox", "9" * 5000, ("{place}", "{ids}", BOX)),
    "area 1e999": literal("annotations", "area", "1e999", ("{place}", "out of range", "{ids}", OTHER)),
    "width of 5,000 digits": literal("images", "width", "1" * 5000, ("{place}", "{ids}")),
    "id of 5,000 digits": literal("annotations", "image_id", "1" * 5000, ("{place}", "{ids}")),
    "bbox twice": twice("annotations", "bbox", [0, 0, 5, 5]),
    "category_id twice": twice("annotations", "category_id", 1),
    "image_id twice": twice("annotations", "image_id", 1),
    "iscrowd twice": twice("annotations", "iscrowd", None),
    "annotation id twice in an entry": twice("annotations", "id", 1),
    "file_name twice": twice("images", "file_name", "a.jpg"),
    "width twice": twice("images", "width", 100),
    "category name twice": twice("categories", "name", "b"),
    "bbox twice, escaped": twice("annotations", "bbox", [0, 0, 5, 5], escaped=True),
    "section twice": section_twice,
    "attribute twice": attribute_twice,
    "root a list": another_root(b"[]", "array"),
    "root a string": another_root(b'"coco"', "str"),
    "root a number": another_root(b"1", "int"),
    "root null": another_root(b"null", "null"),
    "nested deep at the top": nested("top"),
    "nested deep in an entry": nested("entry"),
    "nested objects": nested("objects"),
    "not UTF-8": no_utf8,
    "byte order mark": written(lambda document: json.dumps(document).encode("utf-8-sig")),
    "spread over lines": written(
        lambda document: json.dumps(document, separators=("\r\n\t,", "\n : ")).encode()
    ),
    "blanks around": written(lambda document: f"\n\n {json.dumps(document)} \n".encode()),
    "names outside ASCII": non_ascii(escaped=False),
    "names outside ASCII, escaped": non_ascii(escaped=True),
}
