"""Keys that an object of a COCO file has twice: RFC 8259 leaves open what that means; readers keep one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec import Raw

Pairs = list[tuple[str, Any]]  # an object with all of its keys, in order


class Repeated(NamedTuple):
    """A key that is given twice: its `place`, and the `section` and `ids` of all entries with such a key."""

    place: str
    section: str
    ids: list[str]


def find_repeated(content: bytes, given: Mapping[str, Mapping[str, int]]) -> Repeated | None:
    """Return the first key that is given twice, among those that are read.

    Every value that was read has its key in the text. So where the text has a key as often as there are
    values, none is there twice: counting is fast, and only a text that has one more often (in other places,
    as a rule) is gone through entry by entry.

    Args:
        content: valid JSON, an object whose sections are lists of objects.
        given: section -> key of its entries -> in how many of them it has a value. Keys of the entries'
            `attributes` are named like those of the entries themselves.
    """
    if any(content.count(_quoted(section)) > 1 for section in given) or _hides_keys(content):
        keys = json.loads(_text(content), object_pairs_hook=_keys_alone, **_NUMBERS, strict=False)
        for section in given:
            if keys.count(section) > 1:
                return Repeated(f"$.{section}", section, [])
    sections = msgspec.json.decode(content, type=dict[str, Raw])
    for section, counts in given.items():
        text = bytes(sections[section])
        counted = all(text.count(_quoted(key)) == count for key, count in counts.items())
        if (not counted or _hides_keys(text)) and (found := _in_section(section, text, counts)):
            return found
    return None


def _in_section(section: str, text: bytes, known: Mapping[str, int]) -> Repeated | None:
    place, ids = "", []
    for i, raw in enumerate(msgspec.json.decode(text, type=list[Raw])):
        entry = json.loads(_text(bytes(raw)), object_pairs_hook=list, **_NUMBERS, strict=False)
        twice = next((key for key in _twice(entry) if key.split(".")[-1] in known), None)
        if twice is not None:
            place = place or f"$.{section}[{i}].{twice}"
            ids.append(str(dict(entry).get("id", "missing")))
    return Repeated(place, section, ids) if ids else None


def _twice(entry: Pairs) -> Iterator[str]:
    """Yield the keys of an entry, and of its attributes, that an earlier one repeats."""
    for prefix, pairs in (
        ("", entry),
        *(("attributes.", value) for key, value in entry if key == "attributes"),
    ):
        seen = set()
        for key, _ in pairs or ():
            if key in seen:
                yield prefix + key
            seen.add(key)


_NUMBERS: dict[str, Any] = {"parse_int": str, "parse_float": str}  # their size does not matter here


def _keys_alone(pairs: Pairs) -> list[str]:
    return [key for key, _ in pairs]


def _quoted(key: str) -> bytes:
    return msgspec.json.encode(key)


def _hides_keys(text: bytes) -> bool:
    """Tell whether letters are written as escapes, as those of a key may be."""
    return re.search(rb"\\u00[2-7]", text) is not None


def _text(content: bytes) -> str:
    return content.decode(errors="replace")
