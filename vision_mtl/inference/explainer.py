"""Explanations of one head's answers, as picture files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vision_mtl.data.dataset import collate
from vision_mtl.data.images import BadImageError
from vision_mtl.errors import ConfigError, nearest
from vision_mtl.inference.explain import (
    detection_scores,
    explain,
    explainable_features,
    image_scores,
)
from vision_mtl.inference.heat import heat_picture, scaled
from vision_mtl.inference.per_image import picture_path, safe_names, write_picture
from vision_mtl.inference.pipeline import Pipeline
from vision_mtl.inference.results import Result, caption_lines
from vision_mtl.inference.samples import Reader
from vision_mtl.structures import Batch, Detections, Scalar

NO_BOXES = np.zeros((0, 4), np.float32)


@dataclass(frozen=True)
class Explainer:
    """Writes what speaks for a head's answers: of an image-level head a picture for each label that it gives
    an image, or for its number; of a detection head one for each class that has boxes.

    Attributes:
        pipeline: what gave the answers; its network is not compiled.
        head: whose answers.
        label: the class to explain, whatever the answer; None for the answer's own.
        folder: where the pictures go.

    Raises:
        ConfigError: no such head, no such class, or a class for a head that answers with a number.
    """

    pipeline: Pipeline
    head: str
    label: str | None
    folder: Path

    def __post_init__(self) -> None:
        heads = self.pipeline.model.named_heads()
        if self.head not in heads:
            raise ConfigError(
                f"--explain: found '{self.head}', expected one of the network's heads: {', '.join(heads)}"
                + nearest(self.head, heads)
            )
        names = heads[self.head].labels.names
        if self.label is not None and self.label not in names:
            raise ConfigError(
                f"--explain-class: found '{self.label}', expected one of {', '.join(names)}"
                + nearest(self.label, names)
                if names
                else f"--explain-class: found '{self.label}', but head '{self.head}' answers with a number; "
                "leave it out"
            )

    def write(self, result: Result, name: str) -> int:
        """Write the pictures of one answered image; return how many: 0 where there is nothing to explain.

        Args:
            result: the pipeline's, of an image that could be read.
            name: the picture's name in the folder; the class is added to it.

        Raises:
            DataError: the image cannot be read any more, or the picture not be written.
        """
        prediction = result.predictions[self.head]
        if isinstance(prediction, Detections):
            return self._write_boxes(result, prediction, name)
        head = self.pipeline.model.named_heads()[self.head]
        answer = result.answers[self.head]
        if isinstance(prediction, Scalar):
            (caption,) = caption_lines({self.head: answer})
            self._write_scores(result, {self._path(name, None): (0, caption, "the value")})
            return 1
        given = self.label if self.label is not None else answer["label"]
        labels = [given] if isinstance(given, str) else given
        asked = {}
        for label in labels:
            place = head.labels.names.index(label)
            caption = f"{self.head}: {label} {answer['scores'][label]:.0%}"
            asked[self._path(name, place)] = (place, caption, f"'{label}'")
        if asked:
            self._write_scores(result, asked)
        return len(asked)

    def _write_scores(self, result: Result, asked: dict[Path, tuple[int, str, str]]) -> None:
        """Write a picture to each path for (the score's place among the head's, the caption, its name)."""
        batch = self._batch(result)
        model, dtype = self.pipeline.model, self.pipeline.dtype
        features = explainable_features(model, batch.images, batch.sizes, dtype)
        scores = image_scores(model, self.head, features, dtype)
        image = result.image()
        quantity = "value" if isinstance(result.predictions[self.head], Scalar) else "logit"
        for path, (place, caption, name) in asked.items():
            found = explain(scores[place], features)
            rest = found.score - found.total
            sums = f"{found.score:.2f}: {found.total:+.2f} by the places shown, {rest:+.2f} by none"
            picture = heat_picture(
                image,
                scaled(found.heat(image.shape[:2])),
                (caption, f"{quantity} {sums}"),
                (f"lowers {name}", f"raises {name}"),
                signed=True,
                boxes=NO_BOXES,
                texts=(),
                classes=(),
            )
            write_picture(path, picture)

    def _write_boxes(self, result: Result, found: Detections, name: str) -> int:
        names = self.pipeline.model.named_heads()[self.head].labels.names
        shown = torch.ones_like(found.classes, dtype=torch.bool)
        if self.label is not None:
            shown = found.classes == names.index(self.label)
        boxes, classes, scores = found.boxes[shown], found.classes[shown], found.scores[shown].tolist()
        if not scores:
            return 0
        batch = self._batch(result)
        model, dtype, device = self.pipeline.model, self.pipeline.dtype, self.pipeline.device
        features = explainable_features(model, batch.images, batch.sizes, dtype)
        (meta,) = batch.metas
        seen = (boxes / torch.tensor(meta.scale * 2)).to(device)  # in network-input pixels
        logits = detection_scores(model, self.head, features, seen, classes.to(device), dtype)
        image = result.image()
        present = classes.unique().tolist()
        for label in present:
            rows = (classes == label).nonzero()[:, 0].tolist()
            # Each box on its own scale; where two of them have a part, the larger one.
            strength = np.zeros(image.shape[:2], np.float32)
            for row in rows:
                heat = explain(logits[row], features).heat(image.shape[:2]).clip(min=0)
                strength = np.maximum(strength, scaled(heat))
            count = "1 box" if len(rows) == 1 else f"{len(rows)} boxes"
            picture = heat_picture(
                image,
                strength,
                (f"{self.head}: {names[label]}, {count}",),
                ("no part in it", "supports the box most"),
                signed=False,
                boxes=boxes[rows].numpy(),
                texts=[f"{scores[row]:.0%}" for row in rows],
                classes=[label] * len(rows),
            )
            write_picture(self._path(name, label), picture)
        return len(present)

    def _batch(self, result: Result) -> Batch:
        """Return the image as the network sees it."""
        pipeline = self.pipeline
        image = result.path if result.pixels is None else result.pixels
        assert image is not None
        sample = Reader(pipeline.resize, pipeline.max_pixels, pipeline.reduced).sample(image, 0)
        if isinstance(sample, BadImageError):
            raise sample
        batch, _ = collate([sample])
        assert batch is not None
        return batch.to(pipeline.device)

    def _path(self, name: str, place: int | None) -> Path:
        """Return where the picture of an image goes, for the class at `place` or for a number."""
        path = picture_path(self.folder / self.head, name)
        if place is None:
            return path
        names = safe_names(dict(enumerate(self.pipeline.model.named_heads()[self.head].labels.names)))
        return path.with_name(f"{path.stem}-{names[place]}{path.suffix}")
