"""Images to results, in the order they were given."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from vision_mtl.data.config import ResizeConfig
from vision_mtl.data.dataset import Sample, collate, padded
from vision_mtl.data.images import DEFAULT_MAX_PIXELS, BadImageError
from vision_mtl.data.loader import default_workers, start_worker
from vision_mtl.errors import NumericsError
from vision_mtl.inference.results import Result
from vision_mtl.inference.samples import Chunks, Image, Reader, pixels_of
from vision_mtl.inference.thresholds import Thresholds, call_present, keep
from vision_mtl.models.multitask import MultiTaskModel
from vision_mtl.models.precision import mixed_precision
from vision_mtl.structures import Prediction, Scalar

LOOK_AHEAD = 4  # batches among which images of equal size are sought


class _Read(NamedTuple):
    """An image and what was made of it."""

    image: Image
    sample: Sample | BadImageError


@dataclass(frozen=True)
class Pipeline:
    """A trained network with all that it takes to run it on images.

    Images of equal padded size are batched, so that an answer does not depend on an image's neighbours;
    memory does not grow with the number of images.

    Attributes:
        model: the network, on `device`.
        resize: network-input size.
        device: where it runs.
        dtype: what the forward pass runs in.
        thresholds: which detections are kept, and which labels are called present.
        batch_size: images at once.
        workers: decoding processes; None chooses, 0 decodes in this one.
        max_pixels: larger images are not read.
        reduced: decode at reduced scale what is shrunk to half its size or less.
    """

    model: MultiTaskModel
    resize: ResizeConfig
    device: torch.device
    dtype: torch.dtype
    thresholds: Thresholds = field(default_factory=Thresholds)
    batch_size: int = 8
    workers: int | None = None
    max_pixels: int = DEFAULT_MAX_PIXELS
    reduced: bool = True

    def stream(self, images: Iterable[Image]) -> Iterator[Result]:
        """Yield one result per image, in order; that of a file that cannot be read has a `reason`.

        A sequence of files is decoded by loader processes, anything else here, as far ahead as is needed.

        Raises (while iterating):
            DataError: an image that is no file, array or tensor of the documented kind.
            NumericsError: a head answers with a number that is not finite.
        """
        chunks = self._chunks(images)
        while ahead := [read for chunk in islice(chunks, LOOK_AHEAD) for read in chunk]:
            yield from self._answer(ahead)

    def _chunks(self, images: Iterable[Image]) -> Iterator[list[_Read]]:
        """Yield the images in lists as long as a batch, with their samples."""
        cv2.setNumThreads(1)  # before any fork, as for the training loader
        reader = Reader(self.resize, self.max_pixels, self.reduced)
        if isinstance(images, Sequence) and all(isinstance(image, (str, os.PathLike)) for image in images):
            chunks = Chunks(images, reader, self.batch_size)
            wanted = default_workers() if self.workers is None else self.workers
            workers = min(wanted, len(chunks) - 1) if images else 0  # a single chunk is sooner read here
            loader = DataLoader(
                chunks,
                batch_size=None,
                num_workers=workers,
                prefetch_factor=2 if workers else None,
                collate_fn=list,
                worker_init_fn=start_worker,
            )
            for i, samples in enumerate(loader):
                files = images[i * self.batch_size : (i + 1) * self.batch_size]
                yield [_Read(image, sample) for image, sample in zip(files, samples, strict=True)]
            return
        remaining, position = iter(images), 0
        while chunk := list(islice(remaining, self.batch_size)):
            yield [_Read(image, reader.sample(image, position + k)) for k, image in enumerate(chunk)]
            position += len(chunk)

    def _answer(self, reads: Sequence[_Read]) -> list[Result]:
        results: dict[int, Result] = {}
        groups: dict[tuple[int, int], list[int]] = {}
        for i, (image, sample) in enumerate(reads):
            if isinstance(sample, BadImageError):
                results[i] = Result(_path(image), None, reason=sample.reason)
            else:
                height, width = sample.image.shape[:2]
                groups.setdefault((padded(height), padded(width)), []).append(i)
        for group in groups.values():
            for start in range(0, len(group), self.batch_size):
                rows = group[start : start + self.batch_size]
                answers = self._run([reads[i].sample for i in rows])
                for i, predictions in zip(rows, answers, strict=True):
                    results[i] = self._result(reads[i], predictions)
        return [results[i] for i in range(len(reads))]

    def _result(self, read: _Read, predictions: dict[str, Prediction]) -> Result:
        assert isinstance(read.sample, Sample)
        is_pixels = isinstance(read.image, (np.ndarray, Tensor))
        return Result(
            path=_path(read.image),
            size=read.sample.meta.size,
            predictions=predictions,
            answers=call_present(self.model.describe(predictions), self.thresholds),
            pixels=pixels_of(read.image, "image") if is_pixels else None,  # type: ignore[arg-type]
            max_pixels=self.max_pixels,
        )

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
        names = {name: head.labels.names for name, head in self.model.named_heads().items()}
        return [
            keep({name: answers[i] for name, answers in predictions.items()}, self.thresholds, names)
            for i in range(len(samples))
        ]


def _path(image: Image) -> str | None:
    return os.fspath(image) if isinstance(image, (str, os.PathLike)) else None
