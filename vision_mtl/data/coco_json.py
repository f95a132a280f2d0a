"""COCO JSON text -> typed structs: strict types, and errors that say where and how often."""

from __future__ import annotations

import codecs
import gc
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw

from vision_mtl.data.coco_keys import find_repeated
from vision_mtl.errors import DataError

# Evaluation holds ids in float64 arrays, as pycocotools does: beyond this they are no longer exact.
Id = Annotated[int, Meta(ge=-(2**53), le=2**53)]
Pixels = Annotated[int, Meta(ge=1, le=2**31)]
# The bound keeps x + width and width * height finite.
Coordinate = Annotated[float, Meta(ge=-1e9, le=1e9)]


class Category(msgspec.Struct, frozen=True):
    """A category as the file names it; its contiguous class is its position among the sorted ids."""

    id: Id
    name: str


class Image(msgspec.Struct, gc=False):
    """An image; the values of `attributes` stay JSON text."""

    id: Id
    file_name: Annotated[str, Meta(min_length=1)]
    height: Pixels
    width: Pixels
    attributes: dict[str, Raw] | None = None


class Annotation(msgspec.Struct, gc=False):
    """An object, `bbox` as [x, y, width, height]; what else the file holds is skipped."""

    image_id: Id
    category_id: Id
    bbox: tuple[Coordinate, Coordinate, Coordinate, Coordinate]
    id: Id | None = None
    area: float | None = None
    iscrowd: bool | Literal[0, 1] | None = None


class CocoFile(msgspec.Struct):
    """The three lists of the file; all must be there, and may be empty."""

    images: list[Image]
    annotations: list[Annotation]
    categories: list[Category]


_SECTIONS: dict[str, type] = {"images": Image, "annotations": Annotation, "categories": Category}

_ID_CURE = 'Ids are JSON integers, at most 2**53; text such as "1" is not converted.'
_CURES = {
    "bbox": "A box is [x, y, width, height], four finite numbers in pixels.",
    "width": "Image sizes are whole pixels, at least 1.",
    "height": "Image sizes are whole pixels, at least 1.",
    "id": _ID_CURE,
    "image_id": _ID_CURE,
    "category_id": _ID_CURE,
    "iscrowd": "iscrowd is 0, 1, true or false.",
}


def listed(ids: Sequence[object], total: int) -> str:
    """Return `ids 1, 2, 3` with an ellipsis where `total` is more than are given."""
    return f"ids {', '.join(map(str, ids))}{', ...' if total > len(ids) else ''}"


def decode_coco(path: Path, content: bytes) -> CocoFile:
    """Decode the JSON text of `path`, after its UTF-8 byte order mark if it has one.

    Raises:
        DataError: not JSON, not the types of a COCO file, or a key given twice.
    """
    if content.startswith(codecs.BOM_UTF8):
        content = content[len(codecs.BOM_UTF8) :]
    try:
        with _without_collections():
            file = _decode_typed(path, content)
        _refuse_repeated_keys(path, content, file)
        return file
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # Text in another encoding is the one error or the other, by msgspec's version.
        if isinstance(error, UnicodeDecodeError) or "UTF-8" in str(error):
            raise DataError(f"{path}: text that is not UTF-8 ({error}). Save the file as UTF-8.") from error
        at = re.search(r"\(byte (\d+)\)", str(error))
        position = int(at[1]) if at else len(content)
        line = content.count(b"\n", 0, position) + 1
        column = position - (content.rfind(b"\n", 0, position) + 1) + 1
        raise DataError(
            f"{path}: line {line}, column {column}: not valid JSON ({error}); NaN and Infinity are not JSON "
            "either. Write or download the file again."
        ) from error
    except RecursionError as error:
        raise DataError(
            f"{path}: nested too deeply to be COCO annotations ({len(content)} bytes read). "
            "Write the file again."
        ) from error


@contextmanager
def _without_collections() -> Iterator[None]:
    """Pause the cyclic garbage collector: it would look through a million boxes again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _decode_typed(path: Path, content: bytes) -> CocoFile:
    try:
        return msgspec.json.decode(content, type=CocoFile)
    except msgspec.ValidationError as error:
        # Explaining reads the whole file: broken JSON further on is found, and is then the error to report.
        raise DataError(f"{path}: {_explain(str(error), content)}") from error


def _refuse_repeated_keys(path: Path, content: bytes, file: CocoFile) -> None:
    given: dict[str, Counter[str]] = {}
    for section, kind in _SECTIONS.items():
        entries = getattr(file, section)
        given[section] = Counter(
            {
                field.name: len(entries)  # of each entry, or it would not have been read
                if field.required
                else sum(getattr(entry, field.name) is not None for entry in entries)
                for field in msgspec.structs.fields(kind)
            }
        )
    given["images"].update(chain.from_iterable(image.attributes or () for image in file.images))
    if found := find_repeated(content, given):
        entries = f" ({len(found.ids)} {found.section}: {listed(found.ids[:10], len(found.ids))})"
        raise DataError(
            f"{path}: {found.place}: the key is given twice{entries if found.ids else ''}, and which "
            "of the two is meant cannot be told. Keep one of them."
        )


def _explain(message: str, content: bytes) -> str:
    """Turn msgspec's message about the first bad entry into one that counts all bad entries."""
    problem, _, place = message.partition(" - at ")
    pointer = place.strip("`") or "$"
    entry = re.match(r"\$\.(images|annotations|categories)\[\d+\](?:\.(\w+))?", pointer)
    if entry is None:
        keys = "A COCO file is an object with the lists `images`, `annotations` and `categories`."
        return f"{pointer}: {problem}. {keys}"
    section = entry[1]
    raws = msgspec.json.decode(content, type=dict[str, Raw])[section]
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(_SECTIONS[section])
    bad = [raw for raw in msgspec.json.decode(raws, type=list[Raw]) if not _decodes(decoder, raw)]
    ids = [_loose_id(raw) for raw in bad[:10]]
    missing = re.search(r"required field `(\w+)`", problem)
    field = missing[1] if missing else entry[2]
    cure = _CURES.get(field or "", "Correct or remove these entries.")
    return f"{pointer}: {problem} ({len(bad)} bad {section}: {listed(ids, len(bad))}). {cure}"


def _decodes(decoder: msgspec.json.Decoder[Any], raw: Raw) -> bool:
    try:
        decoder.decode(raw)
    except msgspec.ValidationError:
        return False
    return True


def _loose_id(raw: Raw) -> str:
    value = msgspec.json.decode(raw, type=dict[str, Raw]).get("id") if bytes(raw).startswith(b"{") else None
    if value is None:
        return "missing"
    text = msgspec.json.format(bytes(value), indent=-1).decode(errors="replace")  # on one line
    return text if len(text) <= 40 else f"{text[:37]}..."
