"""What the data room is told: where the files are, how large images become, how batches are made."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

import msgspec

from vision_mtl.errors import ConfigError, nearest

MIN_INPUT = 32  # pixels of the shorter side: the trunk's largest stride


class SourceConfig(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One annotation file and its images.

    The categories of several training sources are merged by name. What a source does not annotate stays
    unknown for its images: they are no negatives for it.

    Attributes:
        images: image folder, relative to `data.root`; for an idx file of labels, the idx file of images.
        annotations: COCO JSON file, or idx file of labels (`*-ubyte`, `*.idx`, also `.gz`), relative to
            `data.root`.
        boxes: False where this file annotates no boxes, so that its images are not taken for negatives.
        heads: names of the heads that it supervises; null for all that it has labels for.
        repeat: how many times every epoch shows each image; for training.
        weight: share of an epoch's images that are of this source, relative to the other sources' weights;
            for training, and for all sources or none. The length of the epoch stays that of the repeats.
            null for the share that the repeats give.
        rename: category name in this file -> the name that it is merged under, e.g. {pedestrian: person};
            two that end up under one name become one class.
    """

    images: str
    annotations: str
    boxes: bool = True
    heads: list[str] | None = None
    repeat: int = 1
    weight: float | None = None
    rename: dict[str, str] = {}

    def check(self, place: str, heads: Collection[str], training: bool) -> None:
        """Raise ConfigError for what no source can have.

        Args:
            place: the source's key, e.g. `data.train[0]`.
            heads: the names of all heads.
            training: whether it is a training source.
        """
        if self.heads == []:
            raise ConfigError(f"{place}.heads: empty; name the heads that it supervises, or leave it out")
        for name in self.heads or ():
            if name not in heads:
                hint = nearest(name, heads) or "."
                raise ConfigError(f"{place}.heads: unknown head '{name}'{hint} Known: {', '.join(heads)}")
        for key, default in (("repeat", 1), ("weight", None)):
            if not training and getattr(self, key) != default:
                raise ConfigError(f"{place}.{key}: has a meaning for data.train only; remove it")
        if self.repeat < 1:
            raise ConfigError(f"{place}.repeat: found {self.repeat}, expected at least 1")
        if self.weight is not None and not self.weight > 0:
            raise ConfigError(f"{place}.weight: found {self.weight}, expected more than 0")


class ResizeConfig(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The network-input size: the aspect ratio is kept.

    Attributes:
        shorter: the shorter side becomes this many pixels,
        longer: unless the longer side would exceed this many.
    """

    shorter: int = 800
    longer: int = 1333


def default_augment() -> list[dict[str, Any]]:
    return [
        {"name": "ScaleJitter"},
        {"name": "HorizontalFlip", "p": 0.5},
        {"name": "ColorJitter", "p": 0.5, "brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.02},
    ]


class MixConfig(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Training samples composed of several images of one source.

    Every image goes through the augmentation by itself. Labels made from boxes follow the boxes that are
    left; labels of the whole image become unknown.

    Attributes:
        mosaic: probability that a sample is composed of four images (YOLOv4, arXiv 2004.10934).
        mixup: probability that a sample, mosaics included, is blended with another image; the boxes of both
            are kept (arXiv 1710.09412; for detection arXiv 1902.04103).
        mixup_beta: both parameters of the Beta distribution of mixup's weight. 1.5 is the detection paper's,
            which also weighs the losses; here they are not weighed, and larger values (YOLOv5: 32) leave
            fewer objects that can hardly be seen.
        last_epochs_without: epochs at the end, counted back from `training.epochs`, without either.
    """

    mosaic: float = 0.0
    mixup: float = 0.0
    mixup_beta: float = 1.5
    last_epochs_without: int = 2

    def check(self) -> None:
        """Raise ConfigError for values outside their range."""
        for name in ("mosaic", "mixup"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"data.mix.{name}: found {getattr(self, name)}, expected 0 to 1")
        if not self.mixup_beta > 0:
            raise ConfigError(f"data.mix.mixup_beta: found {self.mixup_beta}, expected more than 0")
        if self.last_epochs_without < 0:
            raise ConfigError(
                f"data.mix.last_epochs_without: found {self.last_epochs_without}, expected 0 or more"
            )


class DataConfig(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Data sets, image size, augmentation and loading.

    Attributes:
        root: folder that the sources' paths are relative to.
        embedded: draw the project's own data set (on first use) and use its folder as the root.
        train: training sources; see `SourceConfig` for how several go together.
        val: validation source.
        test: test source.
        resize: network-input size at evaluation and inference, and the base of training's scale jitter.
        augment: training transforms, in order; each `{name: ..., parameter: value, ...}`. Names are
            `ScaleJitter` and the albumentations transforms listed in `data/augment.py`.
            Large-scale jitter (arXiv 2012.07177) is `{name: ScaleJitter, scale: [0.1, 2.0]}`.
        min_visibility: a box of which one transform leaves less than this share of its area is dropped.
        mix: mosaic and mixup.
        multi_scale: shorter sides, of which every training batch draws one in place of `resize.shorter`;
            `resize.longer` stays the limit, as is usual in detection. Empty for `resize.shorter` always.
        repeat_threshold: images with categories in less than this share of the images are repeated
            (repeat-factor sampling, LVIS, arXiv 1908.03195, which takes 0.001); 0 shows every image once.
        batch_size: images per optimiser step and accumulation part.
        eval_batch_size: images per batch at evaluation and inference.
        workers: loader processes; null chooses from the number of processors.
        prefetch: batches that each worker prepares ahead.
        bad_images: `error` stops at an image that cannot be read; `skip` leaves it out and counts it.
        follow_links: allow symbolic links inside the image folder that lead out of it.
        max_pixels: images with more pixels than this are bad, found from the header before decoding.
        reduced_decoding: decode a JPEG at 1/2, 1/4 or 1/8 of its size where it is shrunk to half or less
            anyway, which is faster; pixels differ by 1 to 2 levels of 255 on average. For training and
            evaluation alike.
    """

    root: str = "."
    embedded: bool = False
    train: list[SourceConfig] = []
    val: list[SourceConfig] = []
    test: list[SourceConfig] = []
    resize: ResizeConfig = msgspec.field(default_factory=ResizeConfig)
    augment: list[dict[str, Any]] = msgspec.field(default_factory=default_augment)
    min_visibility: float = 0.2
    mix: MixConfig = msgspec.field(default_factory=MixConfig)
    multi_scale: list[int] = []
    repeat_threshold: float = 0.0
    batch_size: int = 8
    eval_batch_size: int = 8
    workers: int | None = None
    prefetch: int = 3
    bad_images: Literal["error", "skip"] = "error"
    follow_links: bool = False
    max_pixels: int = 100_000_000
    reduced_decoding: bool = True

    def check(self, heads: Collection[str]) -> None:
        """Raise ConfigError for sources, and ways to draw and mix samples, that cannot be; `heads` are the
        names of all heads."""
        for split in ("train", "val", "test"):
            for i, source in enumerate(getattr(self, split)):
                source.check(f"data.{split}[{i}]", heads, split == "train")
        weighted = [source.weight is not None for source in self.train]
        if any(weighted) and not all(weighted):
            raise ConfigError(
                f"data.train[{weighted.index(False)}].weight: found null, but other sources have a weight; "
                "give every source one, or none"
            )
        self.mix.check()
        for i, side in enumerate(self.multi_scale):
            if not MIN_INPUT <= side <= self.resize.longer:
                raise ConfigError(
                    f"data.multi_scale[{i}]: found {side}, expected {MIN_INPUT} to data.resize.longer, "
                    f"which is {self.resize.longer}"
                )
        if not 0 <= self.repeat_threshold <= 1:
            raise ConfigError(f"data.repeat_threshold: found {self.repeat_threshold}, expected 0 to 1")
