"""What the data room is told: where the files are, how large images become, how batches are made."""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class SourceConfig(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One COCO-format annotation file and the folder of its images.

    Attributes:
        images: image folder, relative to `data.root`.
        annotations: COCO JSON file, relative to `data.root`.
        boxes: False where this file annotates no boxes, so that its images are not taken for negatives.
    """

    images: str
    annotations: str
    boxes: bool = True


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


class DataConfig(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Data sets, image size, augmentation and loading.

    Attributes:
        root: folder that the sources' paths are relative to.
        embedded: draw the project's own data set (on first use) and use its folder as the root.
        train: training sources.
        val: validation source.
        test: test source.
        resize: network-input size at evaluation and inference, and the base of training's scale jitter.
        augment: training transforms, in order; each `{name: ..., parameter: value, ...}`. Names are
            `ScaleJitter` and the albumentations transforms listed in `data/augment.py`.
        min_visibility: a box of which one transform leaves less than this share of its area is dropped.
        batch_size: images per optimiser step and accumulation part.
        eval_batch_size: images per batch at evaluation and inference.
        workers: loader processes; null chooses from the number of processors.
        prefetch: batches that each worker prepares ahead.
        bad_images: `error` stops at an image that cannot be read; `skip` leaves it out and counts it.
        follow_links: allow symbolic links inside the image folder that lead out of it.
        max_pixels: images with more pixels than this are bad, found from the header before decoding.
    """

    root: str = "."
    embedded: bool = False
    train: list[SourceConfig] = []
    val: list[SourceConfig] = []
    test: list[SourceConfig] = []
    resize: ResizeConfig = msgspec.field(default_factory=ResizeConfig)
    augment: list[dict[str, Any]] = msgspec.field(default_factory=default_augment)
    min_visibility: float = 0.2
    batch_size: int = 8
    eval_batch_size: int = 8
    workers: int | None = None
    prefetch: int = 3
    bad_images: Literal["error", "skip"] = "error"
    follow_links: bool = False
    max_pixels: int = 100_000_000
