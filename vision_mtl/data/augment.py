"""The shared augmentation pipeline: one list of transforms drives image, boxes and labels together.

The only module that imports albumentations. Randomness is a pure function of the seed that each call is
given, so it does not depend on the number of workers nor on what was drawn before.
"""

from __future__ import annotations

import inspect
import os
import random
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from vision_mtl.data.annotations import Objects
from vision_mtl.data.config import ResizeConfig
from vision_mtl.errors import ConfigError, nearest

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # its import otherwise asks the network for a newer release
import albumentations as A

TRANSFORMS: dict[str, type[A.BasicTransform]] = {
    transform.__name__: transform
    for transform in (
        A.AdditiveNoise,
        A.Affine,
        A.AutoContrast,
        A.BBoxSafeRandomCrop,
        A.Blur,
        A.CLAHE,
        A.ChannelShuffle,
        A.ColorJitter,
        A.D4,
        A.Defocus,
        A.Downscale,
        A.Equalize,
        A.GaussianBlur,
        A.GaussNoise,
        A.HorizontalFlip,
        A.HueSaturationValue,
        A.ISONoise,
        A.Illumination,
        A.ImageCompression,
        A.MedianBlur,
        A.MotionBlur,
        A.Perspective,
        A.PlanckianJitter,
        A.Posterize,
        A.RGBShift,
        A.RandomBrightnessContrast,
        A.RandomCropNearBBox,
        A.RandomFog,
        A.RandomGamma,
        A.RandomRain,
        A.RandomRotate90,
        A.RandomShadow,
        A.RandomSnow,
        A.RandomToneCurve,
        A.Rotate,
        A.SafeRotate,
        A.Sharpen,
        A.Solarize,
        A.ToGray,
        A.ToSepia,
        A.Transpose,
        A.VerticalFlip,
    )
}


def target_size(height: int, width: int, resize: ResizeConfig) -> tuple[int, int]:
    """Return the (height, width) that an image of `height` x `width` pixels gets, at least 1 x 1."""
    factor = min(resize.shorter / min(height, width), resize.longer / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (H, W, 3) uint8 to `size` (height, width): area average when shrinking, else bilinear."""
    if image.shape[:2] == size:
        return image
    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


class ScaleJitter(A.DualTransform):
    """Resize by the evaluation factor times a random scale and aspect, then crop to the evaluation size.

    One resampling in place of three (resize, scale, crop): the crop is cut from the original pixels.
    Enlarged images show a random window of the evaluation size; shrunk ones stay small and are padded by
    the collate function. Large-scale jitter after Ghiasi et al., "Simple Copy-Paste" (arXiv 2012.07177).

    Args:
        resize: the evaluation size.
        scale: range of the random scale, drawn log-uniformly.
        aspect: range of the random width/height stretch, drawn log-uniformly.
        keep_boxes: every window contains all boxes, so that labels of the whole image stay true.
        p: probability; without it the image is resized as at evaluation.
    """

    _targets = (A.core.type_definitions.Targets.IMAGE, A.core.type_definitions.Targets.BBOXES)

    def __init__(
        self,
        resize: ResizeConfig,
        scale: tuple[float, float] = (0.6, 1.6),
        aspect: tuple[float, float] = (0.85, 1.18),
        keep_boxes: bool = False,
        p: float = 1.0,
    ) -> None:
        super().__init__(p=1.0)
        self.resize, self.scale, self.aspect, self.keep_boxes, self.chance = (
            resize,
            scale,
            aspect,
            keep_boxes,
            p,
        )

    @property
    def targets_as_params(self) -> list[str]:
        return ["image", "bboxes"]

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        height, width = params["shape"][:2]
        window = target_size(height, width, self.resize)
        if self.py_random.random() >= self.chance:
            return {"crop": (0, 0, width, height), "size": window}
        scale = np.exp(self.py_random.uniform(*np.log(self.scale)))
        stretch = np.exp(self.py_random.uniform(*np.log(self.aspect))) ** 0.5
        scaled = np.array([window[1] * scale * stretch, window[0] * scale / stretch])  # (width, height)
        full = np.array([width, height], dtype=np.float64)
        extent = (
            np.minimum(np.array(window[::-1]) / scaled, 1.0) * full
        )  # original pixels that the window shows
        low, high = np.zeros(2), full - extent
        if self.keep_boxes and len(data["bboxes"]):
            boxes = np.asarray(data["bboxes"], dtype=np.float64)[:, :4] * np.tile(full, 2)
            first, last = boxes[:, :2].min(0), boxes[:, 2:].max(0)
            extent = np.maximum(extent, last - first)
            low, high = np.maximum(0.0, last - extent), np.minimum(full - extent, first)
        start = [int(self.py_random.uniform(a, max(a, b))) for a, b in zip(low, high, strict=True)]
        stop = np.minimum(np.ceil(start + extent), full).astype(int)
        size = np.minimum(np.round((stop - start) * scaled / full), window[::-1]).clip(1).astype(int)
        return {"crop": (*start, int(stop[0]), int(stop[1])), "size": (int(size[1]), int(size[0]))}

    def apply(self, img: np.ndarray, crop: tuple[int, ...], size: tuple[int, int], **_: Any) -> np.ndarray:
        return resize_image(img[crop[1] : crop[3], crop[0] : crop[2]], size)

    def apply_to_bboxes(
        self, bboxes: np.ndarray, crop: tuple[int, ...], shape: tuple[int, ...], **_: Any
    ) -> np.ndarray:
        full = np.array([shape[1], shape[0]] * 2)
        start, extent = np.array(crop[:2] * 2), np.array([crop[2] - crop[0], crop[3] - crop[1]] * 2)
        return np.concatenate([(bboxes[:, :4] * full - start) / extent, bboxes[:, 4:]], axis=1)


def build_transforms(entries: Sequence[dict[str, Any]], resize: ResizeConfig, keep_boxes: bool) -> list[Any]:
    """Turn the config's list into transforms; without a `ScaleJitter`, images are resized as at evaluation.

    Raises:
        ConfigError: for an unknown name or parameter, or a value that the transform refuses.
    """
    transforms: list[Any] = []
    if not any(entry.get("name") == "ScaleJitter" for entry in entries):
        transforms.append(ScaleJitter(resize, p=0.0))
    for position, entry in enumerate(entries):
        place = f"data.augment[{position}]"
        parameters = dict(entry)
        name = parameters.pop("name", None)
        known = [*TRANSFORMS, "ScaleJitter"]
        if name not in known:
            hint = nearest(str(name), known)
            raise ConfigError(
                f"{place}.name: found {name!r}, expected one of {', '.join(sorted(known))}{hint}"
            )
        build = ScaleJitter if name == "ScaleJitter" else TRANSFORMS[name]
        allowed = set(inspect.signature(build.__init__).parameters) - {"self", "resize"}
        for key in parameters:
            if key not in allowed:
                raise ConfigError(
                    f"{place}.{key}: {name} has no such parameter; it has {', '.join(sorted(allowed))}"
                    f"{nearest(key, allowed)}"
                )
        try:
            if name == "ScaleJitter":
                parameters.setdefault("keep_boxes", keep_boxes)
                transforms.append(ScaleJitter(resize, **parameters))
            else:
                transforms.append(build(**parameters))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{place}: {name} refuses {parameters}: {error}") from error
    return transforms


class Augmentation:
    """Image and objects to augmented image and surviving objects, reproducibly.

    Args:
        entries: the transforms, as in the config.
        resize: evaluation size.
        keep_boxes: default of `ScaleJitter.keep_boxes`.
        min_visibility: boxes of which less than this share of area survives are dropped.
    """

    def __init__(
        self,
        entries: Sequence[dict[str, Any]],
        resize: ResizeConfig,
        keep_boxes: bool = False,
        min_visibility: float = 0.2,
    ) -> None:
        self.pipeline = A.Compose(
            build_transforms(entries, resize, keep_boxes),
            bbox_params=A.BboxParams(
                format="albumentations",
                label_fields=["rows"],
                min_visibility=min_visibility,
                min_width=1,
                min_height=1,
                clip=True,
                filter_invalid_bboxes=True,
            ),
        )

    def __call__(
        self, image: np.ndarray, objects: Objects, seed: Sequence[int]
    ) -> tuple[np.ndarray, Objects, np.ndarray]:
        """Augment one sample.

        Args:
            image: (H, W, 3) uint8.
            objects: boxes xyxy in the image's pixels.
            seed: integers that alone decide the randomness.

        Returns:
            image (H', W', 3) uint8, surviving objects in its pixels, and their (N',) rows in the input.
        """
        generator = np.random.default_rng(np.random.SeedSequence(seed))
        self.pipeline.set_random_state(generator, random.Random(int(generator.integers(2**63))))
        height, width = image.shape[:2]
        boxes = objects.boxes.astype(np.float64) / [width, height, width, height]
        # Rows travel as the label, and classes and crowd flags are looked up: labels come back as floats.
        result = self.pipeline(image=image, bboxes=boxes, rows=np.arange(len(boxes), dtype=np.float64))
        rows = np.asarray(result["rows"], dtype=np.float64).round().astype(np.int64).reshape(-1)
        height, width = result["image"].shape[:2]
        boxes = np.asarray(result["bboxes"], dtype=np.float64).reshape(-1, 4)
        survivors = Objects(
            boxes=(boxes * [width, height, width, height]).astype(np.float32),
            classes=objects.classes[rows],
            crowd=objects.crowd[rows],
        )
        return np.ascontiguousarray(result["image"]), survivors, rows
