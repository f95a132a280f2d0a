"""Predictions to files that people and programs read."""

from __future__ import annotations

import csv
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vision_mtl.data.images import read_image
from vision_mtl.errors import DataError
from vision_mtl.files import whole
from vision_mtl.inference.draw import draw_image

COLUMNS = ("file", "width", "height", "head", "label", "score", "value", "x", "y", "w", "h")


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


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all; raise DataError where that cannot be.

    Bytes of a file name that are no UTF-8 become escapes, which JSON reads back as they were.
    """
    try:
        with whole(path) as file:
            file.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
    except OSError as error:
        raise DataError(f"--output: cannot write '{path}': {error.strerror or error}") from error


def image_entry(
    file: str, size: tuple[int, int], answers: dict[str, Any], threshold: float
) -> dict[str, Any]:
    """Return one image's part of predictions.json.

    Args:
        file: as it was given.
        size: original (height, width).
        answers: head -> description; a list of objects for a detection head, a mapping for the others.
        threshold: detections below this score are left out.
    """
    detections = [
        found
        for answer in answers.values()
        if isinstance(answer, list)
        for found in answer
        if found["score"] >= threshold
    ]
    labels = {name: answer for name, answer in answers.items() if not isinstance(answer, list)}
    return {"file": file, "width": size[1], "height": size[0], "detections": detections, "labels": labels}


def write_csv(path: Path, entries: Sequence[dict[str, Any]], detector: str) -> None:
    """Write one row per detection, under the head name `detector`, and one per image-level answer.

    A name that spreadsheets would take for a formula gets an apostrophe before it; predictions.json has all
    names as they are.
    """
    rows = []
    for entry in entries:
        image = {key: entry[key] for key in ("file", "width", "height")}
        for found in entry["detections"]:
            box = dict(zip("xywh", found["bbox"], strict=True))
            row = {"head": detector, "label": found["category"], "score": found["score"]}
            rows.append({**image, **row, **box})
        for head, answer in entry["labels"].items():
            if "value" in answer:
                rows.append({**image, "head": head, "value": answer["value"]})
                continue
            several = isinstance(answer["label"], list)
            labels = answer["label"] if several else [answer["label"]]
            scores = answer["score"] if several else [answer["score"]]
            for label, score in zip(labels, scores, strict=True):
                rows.append({**image, "head": head, "label": label, "score": score})
    lines: list[str] = []
    writer = csv.DictWriter(_Lines(lines), COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _no_formula(value) for key, value in row.items()} for row in rows)
    write_text(path, "".join(lines))


def _no_formula(value: Any) -> Any:
    """Return a cell that no spreadsheet computes (OWASP, "CSV Injection")."""
    is_formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if is_formula else value


class _Lines:
    """What csv.writer needs of a file."""

    def __init__(self, lines: list[str]) -> None:
        self.write = lines.append


def caption_lines(labels: dict[str, Any]) -> list[str]:
    """Return an image's answers as lines of text."""
    lines = []
    for head, answer in labels.items():
        if "value" in answer:
            lines.append(f"{head}: {answer['value']:.4g}")
        elif isinstance(answer["label"], list):
            lines.append(f"{head}: {', '.join(answer['label']) or 'none'}")
        else:
            lines.append(f"{head}: {answer['label']} {answer['score']:.0%}")
    return lines


def write_drawing(path: Path, entry: dict[str, Any], classes: Mapping[int, int], max_pixels: int) -> None:
    """Draw one image's detections and answers over its pixels.

    Args:
        path: the drawing; `.jpg` is added where the name is that of another format.
        entry: of `image_entry`.
        classes: category id -> class, which decides the colour.
        max_pixels: larger images are not read.
    """
    image = read_image(entry["file"], max_pixels)
    corners = [(x, y, x + w, y + h) for x, y, w, h in (found["bbox"] for found in entry["detections"])]
    drawn = draw_image(
        image,
        np.array(corners, np.float32).reshape(-1, 4),
        [f"{found['category']} {found['score']:.0%}" for found in entry["detections"]],
        [classes[found["category_id"]] for found in entry["detections"]],
        caption_lines(entry["labels"]),
    )
    kind = path.suffix.lower()
    if kind not in (".jpg", ".jpeg", ".png"):
        kind = ".jpg"
        path = path.with_name(f"{path.name}.jpg")
    try:
        with whole(path) as file:
            file.write_bytes(cv2.imencode(kind, drawn[..., ::-1])[1].tobytes())
    except OSError as error:
        raise DataError(f"--output: cannot write '{path}': {error.strerror or error}") from error


def write_predictions(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def summary_lines(entries: Sequence[dict[str, Any]]) -> list[str]:
    """Return counts of what was found: objects by category, answers by head."""
    objects = Counter(found["category"] for entry in entries for found in entry["detections"])
    lines = [f"{sum(objects.values())} objects" + _counts(objects)]
    heads = entries[0]["labels"] if entries else {}
    for head in heads:
        answers = [entry["labels"][head] for entry in entries]
        if "value" in answers[0]:
            values = np.array([answer["value"] for answer in answers])
            lines.append(f"{head}: mean {values.mean():.4g}, from {values.min():.4g} to {values.max():.4g}")
        else:
            given = [answer["label"] for answer in answers]
            flat = [name for label in given for name in (label if isinstance(label, list) else [label])]
            lines.append(head + _counts(Counter(flat)))
    return lines


def _counts(counter: Counter[str]) -> str:
    return ": " + ", ".join(f"{name} {count}" for name, count in counter.most_common()) if counter else ""
