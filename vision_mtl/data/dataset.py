"""Annotated images to samples, and samples to batches."""

from __future__ import annotations

import logging
import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vision_mtl.data.annotations import AnnotationIndex, Objects
from vision_mtl.data.augment import Augmentation
from vision_mtl.data.categories import ClassMap
from vision_mtl.data.config import DataConfig, ResizeConfig
from vision_mtl.data.images import BadImageError, Decoded, ImageSource, Needs
from vision_mtl.data.labels import HeadLabels
from vision_mtl.data.mixing import Mixing, Picture
from vision_mtl.data.multi_scale import MultiScale
from vision_mtl.data.window import resize_decoded, target_size
from vision_mtl.structures import Batch, ImageMeta

Key = tuple[int, int, int]  # (image, epoch, position in the epoch)
MIXING = 1  # the stream of mixing's draws, apart from augmentation's, which are made from the same numbers

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """One annotation file with its images and every head's labels.

    Attributes:
        index: the annotations, in the file's own classes.
        images: the pixels, at the index's positions.
        labels: head name -> that head's labels, for heads that read labels.
        has_boxes: False where the file annotates no boxes, or not for the detection head.
        positions: the images to use, as positions in the index.
        classes: where the file's categories are among the trained ones, which all sources share.
    """

    index: AnnotationIndex
    images: ImageSource
    labels: dict[str, HeadLabels]
    has_boxes: bool
    positions: np.ndarray
    classes: ClassMap

    @property
    def annotated(self) -> np.ndarray:
        """(K,) bool, the trained classes that a detection head can learn from this source."""
        return self.classes.annotated & self.has_boxes

    @property
    def truth(self) -> AnnotationIndex:
        """What predictions are judged by: without objects where the file is not about the detection head."""
        return self.index if self.has_boxes else self.index.without_objects()

    def size(self, at: int) -> tuple[int, int]:
        """Return the annotated (height, width) of the image at position `at` of the index."""
        height, width = self.index.sizes[at].tolist()
        return height, width

    def objects(self, at: int) -> Objects:
        """Return the image's objects in its own pixels; of categories that are not trained with class -1."""
        return self.classes.of(self.index.objects(at))

    def read(self, at: int, needs: Needs | None = None) -> Decoded:
        """Return the image at position `at` of the index, at reduced scale if `needs` allows it.

        Raises:
            BadImageError: it cannot be decoded, or its size is not the annotated one.
        """
        decoded, (height, width) = self.images.read(at, needs), self.size(at)
        if decoded.size != (height, width):
            found = f"{decoded.size[1]}x{decoded.size[0]}"
            raise BadImageError(
                self.images.path(at), f"is {found}, but {self.index.path} says {width}x{height}"
            )
        return decoded


@dataclass(frozen=True)
class Sample:
    """One image on its way into a batch; boxes in pixels of `image`.

    `meta.scale` leads back to the original only where the sample is not augmented, as at evaluation.
    `annotated` (K,) bool says which classes the image's source annotates; None where every source annotates
    all.
    """

    image: np.ndarray
    objects: Objects
    has_boxes: bool
    labels: dict[str, Any]
    meta: ImageMeta
    annotated: np.ndarray | None = None


@dataclass
class Dataset(torch.utils.data.Dataset):
    """Samples by (image, epoch, position) key; augmented if `augmentation` is given.

    A file that cannot be decoded is returned as its `BadImageError`, not raised: an exception that crosses
    a process loses its type, and the loader decides whether to stop or to skip. A mixed sample is the error
    of any of its images.

    Attributes:
        sources: annotation files, concatenated.
        resize: evaluation size.
        augmentation: the training pipeline, or one for each input size; None resizes only.
        seed: run seed; with the key's epoch and position it decides all randomness.
        mixing: mosaic and mixup with images of the same source; None for neither.
        partial: whether a source that annotates boxes does so for some of the trained classes only.
    """

    sources: Sequence[Source]
    resize: ResizeConfig
    augmentation: Augmentation | MultiScale | None = None
    seed: int = 0
    mixing: Mixing | None = None
    ends: list[int] = field(init=False)
    partial: bool = field(init=False)

    def __post_init__(self) -> None:
        self.ends = list(accumulate(len(source.positions) for source in self.sources))
        self.partial = not all(source.annotated.all() for source in self.sources if source.has_boxes)

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

    def object_classes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the image and the class of every object that is no crowd, (N,) int64 each, and in how many
        images each class is annotated, (K,) int64."""
        rows, classes = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for source, end in zip(self.sources, self.ends, strict=True):
            if source.has_boxes:
                numbers = np.full(len(source.index), -1)
                numbers[source.positions] = np.arange(end - len(source.positions), end)
                at, objects = source.index.all_objects()
                used = (numbers[at] >= 0) & ~objects.crowd
                rows.append(numbers[at][used])
                classes.append(source.classes.of(objects).classes[used])
        annotated = [source.annotated * len(source.positions) for source in self.sources]
        return np.concatenate(rows), np.concatenate(classes), np.sum(annotated, axis=0)

    def __getitem__(self, key: Key) -> Sample | BadImageError:
        i, epoch, position = key
        source, at = self.locate(i)
        height, width = source.size(at)
        try:
            if self.augmentation is None:
                (image, objects), scale = self._resized(source, at)
                labels = {name: head.targets[at] for name, head in source.labels.items()}
            else:
                (image, objects), mixed = self._augmented(source, at, epoch, position)
                scale = (width / image.shape[1], height / image.shape[0])
                labels = {
                    name: _label_after(head, at, objects, mixed) for name, head in source.labels.items()
                }
        except BadImageError as error:
            return error
        meta = ImageMeta(
            image_id=int(source.index.image_ids[at]),
            path=source.images.path(at),
            size=(height, width),
            scale=scale,
        )
        annotated = source.annotated if self.partial else None
        return Sample(image, objects, source.has_boxes, labels, meta, annotated)

    def _resized(self, source: Source, at: int) -> tuple[Picture, tuple[float, float]]:
        """Return the image at `at` at the evaluation size, and `ImageMeta.scale`."""
        decoded = source.read(at, partial(target_size, resize=self.resize))
        image, scale = resize_decoded(decoded, self.resize)
        objects = source.objects(at)
        boxes = objects.boxes * np.array([1 / scale[0], 1 / scale[1]] * 2, np.float32)
        return (image, Objects(boxes, objects.classes, objects.crowd)), scale

    def _augmented(self, source: Source, at: int, epoch: int, position: int) -> tuple[Picture, bool]:
        """Return the image at `at` augmented, and whether it was mixed with others."""
        chosen, seed = self.augmentation, (self.seed, epoch, position)
        augmentation = chosen.of_batch(*seed) if isinstance(chosen, MultiScale) else chosen
        assert augmentation is not None

        def read(at: int, seed: tuple[int, ...]) -> Picture:
            reader = partial(source.read, at)
            return augmentation.read(reader, source.size(at), source.objects(at), seed)[:2]

        alone = read(at, seed)
        if self.mixing is None:
            return alone, False
        generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(MIXING,)))

        def partner(number: int) -> Picture:
            return read(int(generator.choice(source.positions)), (*seed, number))

        window = target_size(*source.size(at), augmentation.resize)
        picture = self.mixing(alone, partner, window, epoch, generator)
        return picture, picture is not alone


def _label_after(head: HeadLabels, at: int, objects: Objects, mixed: bool) -> Any:
    """Return a head's label of an augmented image: by its objects, or unknown where mixing made it untrue."""
    if head.from_objects is not None:
        return head.from_objects(objects.classes, objects.boxes, objects.crowd)
    return head.unknown_target if mixed else head.targets[at]


def training_dataset(data: DataConfig, sources: Sequence[Source], seed: int, epochs: int) -> Dataset:
    """Return augmented, mixed samples of the training sources, as the config has them.

    Args:
        data: the config.
        sources: the opened training data.
        seed: run seed.
        epochs: length of the training, from which mixing's last epochs are counted back.
    """
    whole = any(describes_whole_image(source.labels) for source in sources)
    resizes = [ResizeConfig(shorter=side, longer=data.resize.longer) for side in data.multi_scale]
    augmentations = [
        Augmentation(data.augment, resize, keep_boxes=whole, min_visibility=data.min_visibility)
        for resize in resizes or [data.resize]
    ]
    augmentation = MultiScale(augmentations, data.batch_size) if resizes else augmentations[0]
    mixing = None
    if data.mix.mosaic or data.mix.mixup:
        mixing = Mixing(data.mix, epochs - data.mix.last_epochs_without, data.min_visibility)
        if mixing.stop <= 0:
            logger.warning(
                "data.mix.last_epochs_without: found %d of %d epochs, so there is no mosaic and no mixup",
                data.mix.last_epochs_without,
                epochs,
            )
    lean = [
        replace(source, labels={name: head.of_augmented() for name, head in source.labels.items()})
        for source in sources
    ]
    return Dataset(lean, data.resize, augmentation, seed, mixing)


def padded(side: int) -> int:
    """Return the smallest multiple of 32 that is at least `side`, in pixels."""
    return -(-side // 32) * 32


def collate(samples: Sequence[Sample | BadImageError]) -> tuple[Batch | None, list[BadImageError]]:
    """Pad samples right and bottom to one batch; also return the images that could not be read.

    The batch is None when no sample is left. Objects of categories that are not trained are left out.
    Every pixel is copied once: in a loader process to where the main process reads it.
    """
    bad = [sample for sample in samples if isinstance(sample, BadImageError)]
    good = [sample for sample in samples if isinstance(sample, Sample)]
    if not good:
        return None, bad
    sizes = torch.tensor([sample.image.shape[:2] for sample in good])
    height, width = (padded(int(side)) for side in sizes.max(0).values)
    found = [_of_trained_classes(sample.objects) for sample in good]
    slots = max(len(objects.boxes) for objects in found)
    images = _image_memory((len(good), height, width, 3))
    boxes = torch.zeros((len(good), slots, 4))
    classes = torch.full((len(good), slots), -1)
    ignore = torch.zeros((len(good), slots), dtype=torch.bool)
    for row, (sample, objects) in enumerate(zip(good, found, strict=True)):
        rows, columns = sample.image.shape[:2]
        images[row, :rows, :columns] = torch.from_numpy(sample.image)
        images[row, :rows, columns:] = 0
        images[row, rows:] = 0
        count = len(objects.boxes)
        boxes[row, :count] = torch.from_numpy(objects.boxes)
        classes[row, :count] = torch.from_numpy(objects.classes)
        ignore[row, :count] = torch.from_numpy(objects.crowd)
    labels: dict[str, Tensor] = {
        name: torch.from_numpy(np.stack([np.asarray(sample.labels[name]) for sample in good]))
        for name in good[0].labels
    }
    annotated = [sample.annotated for sample in good if sample.annotated is not None]
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
        annotated=torch.from_numpy(np.stack(annotated)) if annotated else None,
    )
    return batch, bad


def _image_memory(shape: tuple[int, ...]) -> Tensor:
    """Return uint8 memory with anything in it; of a loader process, memory shared with the main one."""
    if torch.utils.data.get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    storage = torch.UntypedStorage._new_shared(math.prod(shape))  # as torch's own collate function has it
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


def _of_trained_classes(objects: Objects) -> Objects:
    kept = objects.classes >= 0
    return Objects(objects.boxes[kept], objects.classes[kept], objects.crowd[kept])


def describes_whole_image(labels: dict[str, HeadLabels]) -> bool:
    """Return whether a head reads a label of the whole image, which a crop could make untrue."""
    return any(head.from_objects is None for head in labels.values())
