"""Annotated images to samples, and samples to batches."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vision_mtl.data.annotations import AnnotationIndex, Objects
from vision_mtl.data.augment import Augmentation, resize_image, target_size
from vision_mtl.data.config import ResizeConfig
from vision_mtl.data.images import BadImageError, ImageSource
from vision_mtl.data.labels import HeadLabels
from vision_mtl.structures import Batch, ImageMeta

Key = tuple[int, int, int]  # (image, epoch, position in the epoch)


@dataclass(frozen=True)
class Source:
    """One annotation file with its images and every head's labels.

    Attributes:
        index: the annotations.
        images: the pixels, at the index's positions.
        labels: head name -> that head's labels, for heads that read labels.
        has_boxes: False where the file annotates no boxes.
        positions: the images to use, as positions in the index.
    """

    index: AnnotationIndex
    images: ImageSource
    labels: dict[str, HeadLabels]
    has_boxes: bool
    positions: np.ndarray


@dataclass(frozen=True)
class Sample:
    """One image on its way into a batch; boxes in pixels of `image`."""

    image: np.ndarray
    objects: Objects
    has_boxes: bool
    labels: dict[str, Any]
    meta: ImageMeta


@dataclass
class Dataset(torch.utils.data.Dataset):
    """Samples by (image, epoch, position) key; augmented if `augmentation` is given.

    A file that cannot be decoded is returned as its `BadImageError`, not raised: an exception that crosses
    a process loses its type, and the loader decides whether to stop or to skip.

    Attributes:
        sources: annotation files, concatenated.
        resize: evaluation size.
        augmentation: the training pipeline; None resizes only.
        seed: run seed; with the key's epoch and position it decides all randomness.
    """

    sources: Sequence[Source]
    resize: ResizeConfig
    augmentation: Augmentation | None = None
    seed: int = 0
    ends: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.ends = list(accumulate(len(source.positions) for source in self.sources))

    def __len__(self) -> int:
        return self.ends[-1] if self.ends else 0

    def locate(self, i: int) -> tuple[Source, int]:
        """Return the source of image i and the image's position in that source's index."""
        which = bisect_right(self.ends, i)
        source = self.sources[which]
        start = self.ends[which] - len(source.positions)
        return source, int(source.positions[i - start])

    def sizes(self) -> np.ndarray:
        """Return the original (height, width) of every image, (len, 2) int64."""
        parts = [source.index.sizes[source.positions] for source in self.sources]
        return np.concatenate(parts) if parts else np.zeros((0, 2), np.int64)

    def __getitem__(self, key: Key) -> Sample | BadImageError:
        i, epoch, position = key
        source, at = self.locate(i)
        try:
            image = source.images.read(at)
        except BadImageError as error:
            return error
        height, width = image.shape[:2]
        if (height, width) != tuple(source.index.sizes[at]):
            stated = "x".join(str(side) for side in source.index.sizes[at][::-1])
            return BadImageError(
                source.images.path(at), f"is {width}x{height}, but {source.index.path} says {stated}"
            )
        objects = source.index.objects(at)
        labels = {name: head.targets[at] for name, head in source.labels.items()}
        if self.augmentation is None:
            image = resize_image(image, target_size(height, width, self.resize))
            factors = np.array([image.shape[1] / width, image.shape[0] / height] * 2, np.float32)
            objects = Objects(objects.boxes * factors, objects.classes, objects.crowd)
        else:
            image, objects, _ = self.augmentation(image, objects, (self.seed, epoch, position))
            for name, head in source.labels.items():
                if head.from_objects is not None:
                    labels[name] = head.from_objects(objects.classes, objects.boxes, objects.crowd)
        meta = ImageMeta(
            image_id=int(source.index.image_ids[at]),
            path=source.images.path(at),
            size=(height, width),
            scale=(width / image.shape[1], height / image.shape[0]),
        )
        return Sample(image, objects, source.has_boxes, labels, meta)


def padded(side: int) -> int:
    """Return the smallest multiple of 32 that is at least `side`, in pixels."""
    return -(-side // 32) * 32


def collate(samples: Sequence[Sample | BadImageError]) -> tuple[Batch | None, list[BadImageError]]:
    """Pad samples right and bottom to one batch; also return the images that could not be read.

    The batch is None when no sample is left.
    """
    bad = [sample for sample in samples if isinstance(sample, BadImageError)]
    good = [sample for sample in samples if isinstance(sample, Sample)]
    if not good:
        return None, bad
    sizes = torch.tensor([sample.image.shape[:2] for sample in good])
    height, width = (padded(int(side)) for side in sizes.max(0).values)
    slots = max(len(sample.objects.boxes) for sample in good)
    images = torch.zeros((len(good), height, width, 3), dtype=torch.uint8)
    boxes = torch.zeros((len(good), slots, 4))
    classes = torch.full((len(good), slots), -1)
    ignore = torch.zeros((len(good), slots), dtype=torch.bool)
    for row, sample in enumerate(good):
        images[row, : sizes[row, 0], : sizes[row, 1]] = torch.from_numpy(sample.image)
        count = len(sample.objects.boxes)
        boxes[row, :count] = torch.from_numpy(sample.objects.boxes)
        classes[row, :count] = torch.from_numpy(sample.objects.classes)
        ignore[row, :count] = torch.from_numpy(sample.objects.crowd)
    labels: dict[str, Tensor] = {
        name: torch.from_numpy(np.stack([np.asarray(sample.labels[name]) for sample in good]))
        for name in good[0].labels
    }
    batch = Batch(
        # The memory stays (H, W, channel): what a channels-last network wants, and half a copy saved.
        images=images.permute(0, 3, 1, 2),
        sizes=sizes,
        boxes=boxes,
        classes=classes,
        ignore=ignore,
        has_boxes=torch.tensor([sample.has_boxes for sample in good]),
        labels=labels,
        metas=[sample.meta for sample in good],
    )
    return batch, bad


def describes_whole_image(labels: dict[str, HeadLabels]) -> bool:
    """Return whether a head reads a label of the whole image, which a crop could make untrue."""
    return any(head.from_objects is None for head in labels.values())
