"""Predictions to files that people and programs read, whole or not at all."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from vision_mtl.errors import DataError
from vision_mtl.files import whole

COLUMNS = ("file", "width", "height", "head", "label", "score", "value", "x", "y", "w", "h")
OF_FRAMES = ("frame", "seconds")  # columns of a video


def make_folder(path: Path) -> None:
    """Make the output folder; raise DataError where that cannot be, before any work is done."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--output '{path}': cannot make the folder: {error.strerror or error}") from error
    if not os.access(path, os.W_OK):
        raise DataError(f"--output '{path}': the folder cannot be written to; choose another")


def printable(text: str) -> str:
    """Return text that any UTF-8 terminal takes: bytes of a file name that are no UTF-8 become escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@contextmanager
def text_file(path: Path) -> Iterator[TextIO]:
    """Yield a text file that appears at the end; raise DataError where it cannot be written.

    Bytes of a file name that are no UTF-8 become escapes, which JSON reads back as they were.
    """
    try:
        with (
            whole(path) as temporary,
            temporary.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file,
        ):
            yield file
    except OSError as error:
        raise DataError(f"--output: cannot write '{path}': {error.strerror or error}") from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file; raise DataError where that cannot be."""
    try:
        with whole(path) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise DataError(f"--output: cannot write '{path}': {error.strerror or error}") from error


def write_json(path: Path, content: Any) -> None:
    """Write JSON that people may read too."""
    with text_file(path) as file:
        file.write(_json(content, indent=1) + "\n")


def write_predictions(
    path: Path, head: Mapping[str, Any], entries: Callable[[], Iterable[dict[str, Any]]]
) -> None:
    """Write one JSON object: `head`, then `images`, then `skipped`, an entry on each line.

    Args:
        path: the file.
        head: first keys.
        entries: gives all entries, once for the images and once for the files that could not be read.
    """
    with text_file(path) as file:
        start = "".join(f"{_json(key)}: {_json(value)},\n" for key, value in head.items())
        file.write("{" + start + '"images": ')
        _write_list(file, (entry for entry in entries() if "reason" not in entry))
        file.write(',\n"skipped": ')
        _write_list(file, (entry for entry in entries() if "reason" in entry))
        file.write("}\n")


def write_csv(path: Path, entries: Iterable[dict[str, Any]], detector: str) -> None:
    """Write one row per detection, under the head name `detector`, and one per image-level answer.

    A name that spreadsheets would take for a formula gets an apostrophe before it; predictions.json has all
    names as they are. Rows of a video have the frame and its time too.
    """
    remaining = iter(entries)
    first = next(remaining, None)
    image_columns = ["file", "width", "height", *(OF_FRAMES if first and "frame" in first else ())]
    with text_file(path) as file:
        columns = [*COLUMNS, *(name for name in OF_FRAMES if name in image_columns)]
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        for entry in chain([] if first is None else [first], remaining):
            writer.writerows(_rows(entry, detector, image_columns))


def _rows(entry: dict[str, Any], detector: str, image_columns: Iterable[str]) -> Iterator[dict[str, Any]]:
    image = {key: entry[key] for key in image_columns}
    rows: list[dict[str, Any]] = []
    for found in entry["detections"]:
        box = dict(zip("xywh", found["bbox"], strict=True))
        rows.append({"head": detector, "label": found["category"], "score": found["score"], **box})
    for head, answer in entry["labels"].items():
        if "value" in answer:
            rows.append({"head": head, "value": answer["value"]})
            continue
        several = isinstance(answer["label"], list)
        labels = answer["label"] if several else [answer["label"]]
        scores = answer["score"] if several else [answer["score"]]
        rows += [
            {"head": head, "label": label, "score": score}
            for label, score in zip(labels, scores, strict=True)
        ]
    for row in rows:
        yield {key: _no_formula(value) for key, value in {**image, **row}.items()}


def write_coco_results(
    path: Path, entries: Iterable[dict[str, Any]], categories: Mapping[int, int] | None
) -> int:
    """Write the detections in COCO's results format (https://cocodataset.org/#format-results).

    Args:
        path: the file.
        entries: with their `image_id`.
        categories: trained category id -> id to write; a detection of another category is left out. None
            keeps all ids.

    Returns:
        how many detections were left out.
    """
    left_out = 0

    def results() -> Iterator[dict[str, Any]]:
        nonlocal left_out
        for entry in entries:
            for found in entry["detections"]:
                trained = found["category_id"]
                category = trained if categories is None else categories.get(trained)
                if category is None:
                    left_out += 1
                    continue
                yield {
                    "image_id": entry["image_id"],
                    "category_id": category,
                    "bbox": found["bbox"],
                    "score": found["score"],
                }

    with text_file(path) as file:
        _write_list(file, results())
        file.write("\n")
    return left_out


def write_coco_images(
    path: Path, entries: Iterable[dict[str, Any]], categories: Iterable[dict[str, Any]]
) -> None:
    """Write which image each `image_id` is, as the `images` and `categories` of a COCO file."""
    with text_file(path) as file:
        file.write('{"categories": ' + _json(list(categories)) + ',\n"images": ')
        _write_list(
            file,
            (
                {
                    "id": entry["image_id"],
                    "file_name": entry["file"],
                    **{key: entry[key] for key in ("width", "height", *OF_FRAMES) if key in entry},
                }
                for entry in entries
            ),
        )
        file.write("}\n")


def _write_list(file: TextIO, items: Iterable[Any]) -> None:
    """Write a JSON list, an item on each line."""
    file.write("[")
    for i, item in enumerate(items):
        file.write((",\n" if i else "\n") + _json(item))
    file.write("]")


def _json(content: Any, indent: int | None = None) -> str:
    return json.dumps(content, indent=indent, allow_nan=False, ensure_ascii=False)


def _no_formula(value: Any) -> Any:
    """Return a cell that no spreadsheet computes (OWASP, "CSV Injection")."""
    is_formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if is_formula else value
