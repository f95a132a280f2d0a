"""What `tools/infer.py` writes beside predictions.jsonl."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from vision_mtl.commands.shared import Trained
from vision_mtl.errors import ConfigError, nearest
from vision_mtl.inference.files import Found
from vision_mtl.inference.gallery import write_gallery
from vision_mtl.inference.ids import CocoIds, read_ids
from vision_mtl.inference.per_image import (
    Names,
    check_yolo_names,
    safe_names,
    write_crops,
    write_drawing,
    yolo_lines,
    yolo_path,
)
from vision_mtl.inference.record import Record
from vision_mtl.inference.results import Entry, Result
from vision_mtl.inference.video import Video, VideoFile
from vision_mtl.inference.writers import (
    text_file,
    write_coco_images,
    write_coco_results,
    write_csv,
    write_predictions,
)

FORMATS = ("json", "jsonl", "csv", "coco", "yolo", "images", "video", "crops", "gallery")
DEFAULT_FORMATS = ("json", "csv")
DRAWINGS, CROPS, EXPLANATIONS = "drawings", "crops", "explain"  # folders
OF_BOXES = ("coco", "yolo", "crops")  # formats that need a detection head


def check_formats(formats: Sequence[str], ids: str | None, video: Video | None) -> None:
    """Raise ConfigError for a format that is not known or does not fit the input."""
    for name in formats:
        if name not in FORMATS:
            raise ConfigError(
                f"--format: found '{name}', expected some of {', '.join(FORMATS)}{nearest(name, FORMATS)}"
            )
    if "video" in formats and video is None:
        raise ConfigError("--format video: expected a video file as the only input; images draws pictures")
    if "gallery" in formats and video is not None:
        raise ConfigError("--format gallery: expected images, found a video; use --format video")
    if ids is not None and ("coco" not in formats or video is not None):
        raise ConfigError("--ids: is for --format coco, of images")


@dataclass(frozen=True)
class Outputs:
    """The formats of a run, apart from predictions.jsonl, which each run writes.

    Attributes:
        folder: the output.
        formats: names among `FORMATS`.
        trained: the network.
        confidence: of yolo texts: with the score.
        known: the ids that a COCO file gives; None for positions.
        video: the input, if it is one.
    """

    folder: Path
    formats: Sequence[str]
    trained: Trained
    confidence: bool = False
    known: CocoIds | None = None
    video: Video | None = None

    @cached_property
    def detector(self) -> str:
        """The detection head's name; empty without one."""
        return "".join(
            name for name, head in self.trained.config.heads.items() if head.label_source() is None
        )

    @cached_property
    def categories(self) -> dict[int, str]:
        """Category id -> name, in class order."""
        if not self.detector:
            return {}
        labels = self.trained.labels[self.detector]
        return dict(zip(labels.ids, labels.names, strict=True))

    @cached_property
    def classes(self) -> dict[int, int]:
        """Category id -> class."""
        return {number: place for place, number in enumerate(self.categories)}

    @cached_property
    def crop_folders(self) -> Names:
        """Category id -> the name of its folder."""
        return safe_names(self.categories)

    def checked(self, found: Found, ids: str | None) -> Outputs:
        """Return the outputs with the ids of a COCO file, if one is given.

        Raises:
            ConfigError: a format needs boxes, and there is no detection head.
            DataError: the file has not exactly one id for each image, or two images would share a text file.
        """
        if needs := [name for name in self.formats if name in OF_BOXES and not self.detector]:
            raise ConfigError(
                f"--format {needs[0]}: the network has no detection head, so there are no boxes"
            )
        if "yolo" in self.formats:
            check_yolo_names(found.names)
        return replace(self, known=None if ids is None else read_ids(ids, found.paths, self.categories))

    def film(self) -> AbstractContextManager[VideoFile | None]:
        """Return the drawn video's file, if it is asked for."""
        if "video" not in self.formats or self.video is None:
            return nullcontext()
        return VideoFile(self.folder / "video.mp4", self.video.rate)

    def add(self, result: Result, name: str, film: VideoFile | None) -> None:
        """Write the files of one answered image; the same ones again if it is answered again.

        Raises:
            DataError: the image cannot be read any more, or a file cannot be written.
        """
        if {"images", "crops"} & set(self.formats):
            result = replace(result, pixels=result.image())  # read once for both
        if "images" in self.formats:
            write_drawing(self.folder / DRAWINGS, name, result)
        if "crops" in self.formats:
            write_crops(self.folder / CROPS, name, result, self.crop_folders)
        if "yolo" in self.formats:
            with text_file(yolo_path(self.folder / "labels", name)) as file:
                file.write(yolo_lines(result.to_dict(), self.classes, self.confidence))
        if film is not None:
            film.add(result.draw(wrap=False))

    def finish(self, record: Record, images: int, head: dict[str, Any]) -> list[str]:
        """Write the files of the whole run from its record; return what there is to say of them.

        Args:
            record: complete.
            images: how many it answers.
            head: the first keys of predictions.json.
        """
        said = []
        if "json" in self.formats:
            write_predictions(self.folder / "predictions.json", head, record.entries)
        if "csv" in self.formats:
            write_csv(self.folder / "predictions.csv", record.answered(), self.detector)
        if "coco" in self.formats:
            said += self._write_coco(record)
        if "yolo" in self.formats:
            with text_file(self.folder / "classes.txt") as file:
                file.writelines(f"{' '.join(name.split())}\n" for name in self.categories.values())
        if "gallery" in self.formats:
            most = self.trained.config.data.max_pixels
            title = f"{images} images answered by {Path(str(head['checkpoint'])).name}"
            page = self.folder / "gallery.html"
            shown = write_gallery(page, record.answered(), images, self.classes, most, title)
            said.append(f"gallery.html shows {shown} of {images} images")
        return said

    def _write_coco(self, record: Record) -> list[str]:
        results, known = self.folder / "detections.json", self.known
        if known is not None:
            entries = ({**entry, "image_id": known.images[entry["file"]]} for entry in record.answered())
            left_out = write_coco_results(results, entries, known.categories)
            return [f"detections.json leaves out {left_out} of other categories"] if left_out else []
        write_coco_results(results, with_positions(record), None)
        categories = [{"id": number, "name": name} for number, name in self.categories.items()]
        write_coco_images(self.folder / "images.json", with_positions(record), categories)
        return ["detections.json numbers the images as images.json says, from 1 on (--ids gives other ids)"]


def with_positions(record: Record) -> Iterator[Entry]:
    """Yield the answered images with their line number in predictions.jsonl, from 1 on, as `image_id`."""
    for number, entry in enumerate(record.entries(), start=1):
        if "reason" not in entry:
            yield {**entry, "image_id": number}
