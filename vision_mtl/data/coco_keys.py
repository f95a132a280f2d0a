"""Keys that an object of a COCO file has twice: RFC 8259 leaves open what that means; readers keep one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Raw

CHUNK = 2**20  # bytes of text that are looked at together
QUOTE, COLON = b'":'

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
    escapes = b"\\" in content
    sections = msgspec.json.decode(content, type=dict[str, Raw])
    views = {section: np.frombuffer(sections[section], np.uint8) for section in given}
    outside = _outside(content, list(views.values()))
    if any(outside.count(_quoted(section)) > 1 for section in given) or _hides_keys(outside):
        keys = json.loads(_text(content), object_pairs_hook=_keys_alone, **_NUMBERS, strict=False)
        for section in given:
            if keys.count(section) > 1:
                return Repeated(f"$.{section}", section, [])
    for section, counts in given.items():
        found = None if escapes else count_keys(views[section], counts)
        if found == dict(counts):
            continue
        text = bytes(sections[section])
        counted = all(text.count(_quoted(key)) == count for key, count in counts.items())
        if (not counted or _hides_keys(text)) and (repeated := _in_section(section, text, counts)):
            return repeated
    return None


def count_keys(text: np.ndarray, keys: Iterable[str]) -> dict[str, int]:
    """Return how often each of `keys` is a key in JSON text (N,) uint8 without escapes.

    Strings lie between one quote and the next; keys are those that a colon follows at once. Where there is
    a space before it, fewer are found.
    """
    found = dict.fromkeys(keys, 0)
    wanted = [(key, np.frombuffer(_quoted(key), np.uint8)[1:-1]) for key in found]
    start, size = 0, CHUNK
    while start < len(text):
        chunk = text[start : start + size]
        quotes = np.flatnonzero(chunk == QUOTE)
        whole = len(quotes) // 2 * 2
        opening, closing = quotes[0:whole:2], quotes[1:whole:2]
        # The string that a chunk cuts apart, or the colon after one, belongs to the next.
        last = start + size >= len(text)
        if not last and whole and closing[-1] == len(chunk) - 1:
            opening, closing = opening[:-1], closing[:-1]
        cut = quotes[len(opening) * 2 :]
        if not last and len(cut) and not cut[0]:
            size *= 2  # a string longer than the chunk
            continue
        is_key = chunk[np.minimum(closing + 1, len(chunk) - 1)] == COLON
        first, lengths = opening[is_key] + 1, (closing - opening)[is_key] - 1
        for key, letters in wanted:
            alike = first[lengths == len(letters)]
            found[key] += int((chunk[alike[:, None] + np.arange(len(letters))] == letters).all(1).sum())
        start += int(cut[0]) if len(cut) and not last else len(chunk)
        size = CHUNK
    return found


def _outside(content: bytes, views: list[np.ndarray]) -> bytes:
    """Return what stands around the parts of `content` that the views show."""
    base = np.frombuffer(content, np.uint8).__array_interface__["data"][0]
    places = sorted((view.__array_interface__["data"][0] - base, len(view)) for view in views)
    around, end = [], 0
    for place, length in places:
        assert 0 <= place <= len(content) - length, "msgspec's raw values are views of what it read"
        around.append(content[end:place])
        end = place + length
    return b"".join([*around, content[end:]])


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
