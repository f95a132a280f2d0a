"""What the network says of one image."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vision_mtl.data.images import DEFAULT_MAX_PIXELS, read_image
from vision_mtl.errors import ConfigError, DataError
from vision_mtl.inference.draw import draw_image
from vision_mtl.structures import Detections, Prediction

Entry = dict[str, Any]  # an image's line of predictions.jsonl


@dataclass(frozen=True)
class Result:
    """What the network says of one image.

    Attributes:
        path: the file, as it was given; None for pixels.
        size: (height, width) in pixels as a person sees the image; None if it cannot be read.
        predictions: head -> prediction in original pixels, of a detection head those that reach the
            threshold; empty if the image cannot be read.
        answers: head -> the prediction with names in place of numbers, as in predictions.json.
        reason: why the file cannot be read; None if it can.
        pixels: (H, W, 3) uint8 RGB, of an image that is no file.
        frame: of a video, its number from 0 on.
        seconds: of a video, when the frame is shown.
        max_pixels: larger files are not read for drawing.
    """

    path: str | None
    size: tuple[int, int] | None
    predictions: dict[str, Prediction] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    reason: str | None = None
    pixels: np.ndarray | None = None
    frame: int | None = None
    seconds: float | None = None
    max_pixels: int = DEFAULT_MAX_PIXELS

    @property
    def detections(self) -> Detections | None:
        """The boxes, best first; None if the network has no detection head or the image cannot be read."""
        found = [answer for answer in self.predictions.values() if isinstance(answer, Detections)]
        return found[0] if found else None

    @property
    def objects(self) -> list[dict[str, Any]]:
        """The detections as `bbox` [x, y, width, height], `category_id`, `category` and `score`."""
        return [found for answer in self.answers.values() if isinstance(answer, list) for found in answer]

    @property
    def labels(self) -> dict[str, Any]:
        """Image-level head -> its answer, with `label` and `score`, or `value`."""
        return {name: answer for name, answer in self.answers.items() if not isinstance(answer, list)}

    def to_dict(self) -> Entry:
        """Return what predictions.json has of the image, or `file` and `reason` if it cannot be read."""
        if self.size is None:
            return {"file": self.path, "reason": self.reason}
        entry: Entry = {"file": self.path, "width": self.size[1], "height": self.size[0]}
        if self.frame is not None:
            entry |= {"frame": self.frame, "seconds": self.seconds}
        return {**entry, "detections": self.objects, "labels": self.labels}

    def image(self) -> np.ndarray:
        """Return the image, (H, W, 3) uint8 RGB, read from the file if need be.

        Raises:
            BadImageError: the file cannot be read.
        """
        if self.pixels is not None:
            return self.pixels
        assert self.path is not None
        return read_image(self.path, self.max_pixels)

    def draw(self, wrap: bool = True) -> np.ndarray:
        """Return the image with boxes and answers, (H', W', 3) uint8 RGB; see `draw_image`.

        Raises:
            DataError: the image cannot be read.
        """
        if self.size is None:
            raise DataError(f"{self.path}: {self.reason}")
        found = self.detections
        numbers = found.classes.tolist() if found else []
        entry = self.to_dict()
        return draw_entry(
            self.image(),
            entry,
            {d["category_id"]: c for d, c in zip(entry["detections"], numbers, strict=True)},
            wrap,
        )

    def to_supervision(self) -> Any:
        """Return the boxes as `supervision.Detections` (https://supervision.roboflow.com), with the names as
        `data["class_name"]`.

        Raises:
            ConfigError: supervision is not installed, or the network has no detection head.
            DataError: the image cannot be read.
        """
        if self.size is None:
            raise DataError(f"{self.path}: {self.reason}")
        found = self.detections
        if found is None:
            raise ConfigError("to_supervision(): the network has no detection head, so there are no boxes")
        try:
            supervision = importlib.import_module("supervision")
        except ImportError as error:
            raise ConfigError(
                "to_supervision() needs the package supervision: run python -m pip install supervision"
            ) from error
        return supervision.Detections(
            xyxy=found.boxes.numpy(),
            confidence=found.scores.numpy(),
            class_id=found.classes.numpy(),
            data={"class_name": np.array([answer["category"] for answer in self.objects], dtype=str)},
        )


def draw_entry(
    image: np.ndarray, entry: Mapping[str, Any], classes: Mapping[int, int], wrap: bool = True
) -> np.ndarray:
    """Return (H, W, 3) uint8 RGB pixels with an entry's detections and answers; see `draw_image`.

    `classes` leads from category ids to classes, which decide the colours; boxes may be in other pixels than
    the image's: they are scaled by its size.
    """
    scale = np.array([image.shape[1] / entry["width"], image.shape[0] / entry["height"]] * 2)
    corners = [(x, y, x + w, y + h) for x, y, w, h in (found["bbox"] for found in entry["detections"])]
    return draw_image(
        image,
        np.array(corners, np.float64).reshape(-1, 4) * scale,
        [f"{found['category']} {found['score']:.0%}" for found in entry["detections"]],
        [classes[found["category_id"]] for found in entry["detections"]],
        caption_lines(entry["labels"]),
        wrap,
    )


def caption_lines(labels: Mapping[str, Any]) -> list[str]:
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


def labels_of(answer: Mapping[str, Any]) -> Sequence[str]:
    """Return the names that an image-level answer gives, none for a number."""
    given = answer.get("label", [])
    return given if isinstance(given, list) else [given]
