"""Image files to predictions, in the order they were given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader

from vision_mtl.data.annotations import Objects
from vision_mtl.data.config import ResizeConfig
from vision_mtl.data.dataset import Sample, collate, padded
from vision_mtl.data.images import DEFAULT_MAX_PIXELS, BadImageError, read_reduced
from vision_mtl.data.loader import default_workers, start_worker
from vision_mtl.data.window import resize_decoded, target_size
from vision_mtl.errors import NumericsError
from vision_mtl.models.multitask import MultiTaskModel
from vision_mtl.models.precision import mixed_precision
from vision_mtl.structures import ImageMeta, Prediction, Scalar

LOOK_AHEAD = 4  # batches among which images of equal size are sought


@dataclass(frozen=True)
class ImageResult:
    """What the network says of one file.

    Attributes:
        path: the file, as it was given.
        size: (height, width) in pixels as a person sees the image; None if it cannot be read.
        predictions: head -> prediction in original pixels; empty if the file cannot be read.
        reason: why the file cannot be read; None if it can.
    """

    path: str
    size: tuple[int, int] | None
    predictions: dict[str, Prediction]
    reason: str | None = None


@dataclass(frozen=True)
class Files(torch.utils.data.Dataset):
    """Files as samples without labels, resized as at evaluation."""

    paths: Sequence[str]
    resize: ResizeConfig
    max_pixels: int
    reduced: bool

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> Sample | BadImageError:
        needs = partial(target_size, resize=self.resize) if self.reduced else None
        try:
            decoded = read_reduced(self.paths[i], needs, self.max_pixels)
        except BadImageError as error:
            return error
        image, scale = resize_decoded(decoded, self.resize)
        nothing = Objects(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))
        meta = ImageMeta(image_id=i, path=self.paths[i], size=decoded.size, scale=scale)
        return Sample(image, nothing, has_boxes=False, labels={}, meta=meta)


@dataclass(frozen=True)
class Predictor:
    """A trained network with all that it takes to run it on files.

    Images of equal padded size are batched, so that an answer does not depend on an image's neighbours;
    memory does not grow with the number of files.

    Attributes:
        model: the network, on `device`.
        resize: network-input size.
        device: where it runs.
        dtype: what the forward pass runs in.
        batch_size: images at once.
        workers: decoding processes; None chooses, 0 decodes in this one.
        max_pixels: larger images are not read.
        reduced: decode at reduced scale what is shrunk to half its size or less.
    """

    model: MultiTaskModel
    resize: ResizeConfig
    device: torch.device
    dtype: torch.dtype
    batch_size: int = 8
    workers: int | None = None
    max_pixels: int = DEFAULT_MAX_PIXELS
    reduced: bool = True

    def predict_files(self, paths: Sequence[str]) -> Iterator[ImageResult]:
        """Yield one result per path, in order.

        Raises (while iterating):
            NumericsError: a head answers with a number that is not finite.
        """
        workers = min(default_workers() if self.workers is None else self.workers, len(paths))
        cv2.setNumThreads(1)  # before any fork, as for the training loader
        samples = iter(
            DataLoader(
                Files(paths, self.resize, self.max_pixels, self.reduced),
                batch_size=None,
                num_workers=workers,
                prefetch_factor=self.batch_size if workers else None,
                worker_init_fn=start_worker,
            )
        )
        done = 0
        while ahead := list(islice(samples, LOOK_AHEAD * self.batch_size)):
            yield from self._predict(ahead, paths[done : done + len(ahead)])
            done += len(ahead)

    def _predict(self, samples: Sequence[Sample | BadImageError], paths: Sequence[str]) -> list[ImageResult]:
        results: dict[int, ImageResult] = {}
        groups: dict[tuple[int, int], list[int]] = {}
        for i, sample in enumerate(samples):
            if isinstance(sample, BadImageError):
                results[i] = ImageResult(paths[i], None, {}, sample.reason)
            else:
                height, width = sample.image.shape[:2]
                groups.setdefault((padded(height), padded(width)), []).append(i)
        for group in groups.values():
            for start in range(0, len(group), self.batch_size):
                rows = group[start : start + self.batch_size]
                answers = self._run([samples[i] for i in rows])
                for i, predictions in zip(rows, answers, strict=True):
                    sample = samples[i]
                    assert isinstance(sample, Sample)
                    results[i] = ImageResult(paths[i], sample.meta.size, predictions)
        return [results[i] for i in range(len(samples))]

    @torch.inference_mode()
    def _run(self, samples: Sequence[Sample | BadImageError]) -> list[dict[str, Prediction]]:
        batch, _ = collate(samples)
        assert batch is not None
        moved = batch.to(self.device)
        with mixed_precision(self.device, self.dtype):
            features, outputs = self.model(moved.images, moved.sizes)
        predictions = self.model.predict(self.model.decode(features, outputs), batch.metas)
        for name, answers in predictions.items():
            for answer, meta in zip(answers, batch.metas, strict=True):
                numbers = torch.tensor(answer.value) if isinstance(answer, Scalar) else answer.scores
                if not numbers.isfinite().all():
                    raise NumericsError(
                        f"head '{name}' answers '{meta.path}' with a number that is not finite; use another "
                        "checkpoint, or try training.precision=fp32"
                    )
        return [{name: answers[i] for name, answers in predictions.items()} for i in range(len(samples))]
