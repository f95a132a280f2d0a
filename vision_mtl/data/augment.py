"""The shared augmentation pipeline: one list of transforms drives image, boxes and labels together.

The only module that imports albumentations. Randomness is a pure function of the seed that each call is
given, so it does not depend on the number of workers nor on what was drawn before.
"""

from __future__ import annotations

import inspect
import os
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vision_mtl.data.annotations import Objects
from vision_mtl.data.color import change_colors
from vision_mtl.data.config import ResizeConfig
from vision_mtl.data.decode import Decoded, Needs
from vision_mtl.data.window import Window, target_size
from vision_mtl.errors import ConfigError, nearest

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # its import otherwise asks the network for a newer release
import albumentations as A

_ALBUMENTATIONS = """
    AdditiveNoise Affine AutoContrast BBoxSafeRandomCrop Blur CLAHE ChannelShuffle D4 Defocus Downscale
    Equalize GaussNoise GaussianBlur HorizontalFlip HueSaturationValue ISONoise Illumination ImageCompression
    MedianBlur MotionBlur Perspective PlanckianJitter Posterize RGBShift RandomBrightnessContrast RandomFog
    RandomGamma RandomRain RandomRotate90 RandomShadow RandomSnow RandomToneCurve Rotate SafeRotate Sharpen
    Solarize ToGray ToSepia Transpose VerticalFlip
"""

MIN_SIDE = 16  # thinner inputs are only resized: several transforms fail on single rows and columns


def _checked_range(name: str, value: Any, least: float) -> tuple[float, float]:
    """Return two finite numbers above `least` and in order, or raise ValueError."""
    if isinstance(value, list | tuple) and len(value) == 2 and all(isinstance(v, int | float) for v in value):
        low, high = value
        if least < low <= high < float("inf"):
            return low, high
    raise ValueError(f"{name} {value!r}, expected two numbers above {least:g}, the smaller first")


def _checked_probability(name: str, value: Any) -> float:
    if isinstance(value, int | float) and 0 <= value <= 1:
        return value
    raise ValueError(f"{name} {value!r}, expected a number from 0 to 1")


class ScaleJitter(A.DualTransform):
    """Resize by the evaluation factor times a random scale and aspect, then crop to the evaluation size.

    One resampling in place of three (resize, scale, crop): the crop is cut from the original pixels.
    Enlarged images show a random window of the evaluation size; shrunk ones stay small and are padded by
    the collate function. Large-scale jitter after Ghiasi et al., "Simple Copy-Paste" (arXiv 2012.07177).

    Args:
        resize: the evaluation size.
        scale: range of the random scale, drawn log-uniformly; raised where an image would have sides below
            about `MIN_SIDE` pixels.
        aspect: range of the random width/height stretch, drawn log-uniformly.
        keep_boxes: every window contains all boxes, so that labels of the whole image stay true.
        p: probability; without it the image is resized as at evaluation.

    Raises:
        ValueError: a range that is not two positive numbers, the smaller first, or `p` outside [0, 1].
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
        self.resize, self.keep_boxes, self.chance = resize, keep_boxes, _checked_probability("p", p)
        self.log_scale = np.log(_checked_range("scale", scale, 0))
        self.log_aspect = np.log(_checked_range("aspect", aspect, 0))

    @property
    def targets_as_params(self) -> list[str]:
        return ["image", "bboxes"]

    def draw(self, size: tuple[int, int], bboxes: np.ndarray) -> Window:
        """Draw the window on an image of `size` (height, width) with normalised boxes (N, 4 or more)."""
        height, width = size
        window = target_size(height, width, self.resize)
        if self.py_random.random() >= self.chance:
            return Window((0, 0, width, height), window)
        scale = max(np.exp(self.py_random.uniform(*self.log_scale)), MIN_SIDE / min(window))
        stretch = np.exp(self.py_random.uniform(*self.log_aspect)) ** 0.5
        # From here on (width, height): of the window, of the whole image scaled, and of it as it is.
        shown = np.array(window[::-1], dtype=np.float64)
        scaled = shown * scale * [stretch, 1 / stretch]
        full = np.array([width, height], dtype=np.float64)
        first, last = full, np.zeros(2)
        if self.keep_boxes and len(bboxes):
            boxes = bboxes[:, :4] * np.tile(full, 2)
            first, last = boxes[:, :2].min(0), boxes[:, 2:].max(0)
            # One factor for both sides: shrinking only the side that does not fit would distort.
            scaled *= min(1.0, (shown * full / (np.maximum(last - first, 1e-6) * scaled)).min())
        extent = np.minimum(shown / scaled, 1.0) * full  # original pixels that the window shows
        low = np.maximum(0.0, last - extent)
        high = np.maximum(low, np.minimum(full - extent, first))
        corner = np.array([self.py_random.uniform(a, b) for a, b in zip(low, high, strict=True)])
        # Whole pixels outwards, so that no kept box is cut; the margin is for rounding in the sums above.
        start = np.floor(corner + 1e-6).astype(int)
        stop = np.maximum(np.minimum(np.ceil(corner + extent - 1e-6), full).astype(int), start + 1)
        wide, high = np.minimum(np.round((stop - start) * scaled / full), shown).clip(1).astype(int).tolist()
        return Window((*start.tolist(), *stop.tolist()), (high, wide))

    def get_params_dependent_on_data(self, params: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
        return {"window": self.draw(params["shape"][:2], data["bboxes"])}

    def apply(self, img: np.ndarray, window: Window, **_: Any) -> np.ndarray:
        return window.cut(img)

    def apply_to_bboxes(
        self, bboxes: np.ndarray, window: Window, shape: tuple[int, ...], **_: Any
    ) -> np.ndarray:
        return window.move(bboxes, np.array(shape[1::-1]))


class ColorJitter(A.ImageOnlyTransform):
    """Random brightness, contrast, saturation, hue and order of channels in one pass over the pixels.

    Albumentations' transform of this name makes a pass for each and takes ten times as long.

    Args: ranges; a number x stands for [1 - x, 1 + x], of hue for [-x, x].
        brightness: factor on all channels.
        contrast: factor on the distance to the image's mean gray.
        saturation: factor on the distance to the pixel's own gray.
        hue: turns.
        shuffle: probability that the channels also change places.
        p: probability.

    Raises:
        ValueError: a range that is not in order, a negative factor, or a number outside [0, 1].
    """

    def __init__(
        self,
        brightness: float | tuple[float, float] = 0.2,
        contrast: float | tuple[float, float] = 0.2,
        saturation: float | tuple[float, float] = 0.2,
        hue: float | tuple[float, float] = 0.02,
        shuffle: float = 0.0,
        p: float = 0.5,
    ) -> None:
        super().__init__(p=_checked_probability("p", p))
        self.shuffle = _checked_probability("shuffle", shuffle)
        factors = {"brightness": brightness, "contrast": contrast, "saturation": saturation}
        self.factors = [_jitter_range(name, value, 1.0) for name, value in factors.items()]
        self.hue = _jitter_range("hue", hue, 0.0)

    def get_params(self) -> dict[str, Any]:
        factors = [self.py_random.uniform(*limits) for limits in self.factors]
        factors.append(self.py_random.uniform(*self.hue))
        order = [0, 1, 2]
        if self.shuffle and self.py_random.random() < self.shuffle:  # without it seeds keep their meaning
            self.py_random.shuffle(order)
        return {"factors": factors, "order": order}

    def apply(self, img: np.ndarray, factors: list[float], order: list[int], **_: Any) -> np.ndarray:
        brightness, contrast, saturation, hue = factors
        return change_colors(img, brightness, contrast, saturation, hue, order)


def _jitter_range(name: str, value: Any, centre: float) -> tuple[float, float]:
    if isinstance(value, int | float) and 0 <= value <= 1:
        return centre - value, centre + value
    if isinstance(value, int | float):
        raise ValueError(f"{name} {value!r}, expected a number from 0 to 1, or two numbers")
    return _checked_range(name, value, centre - 1 - 1e-9)


TRANSFORMS: dict[str, type[A.BasicTransform]] = {
    **{name: getattr(A, name) for name in _ALBUMENTATIONS.split()},
    "ColorJitter": ColorJitter,
    "ScaleJitter": ScaleJitter,
}


def build_transforms(entries: Sequence[dict[str, Any]], resize: ResizeConfig, keep_boxes: bool) -> list[Any]:
    """Turn the config's list into transforms; without a `ScaleJitter`, images are resized as at evaluation.

    Raises:
        ConfigError: for an unknown name or parameter, or a value that the transform refuses.
    """
    transforms: list[Any] = []
    # Before the others: they then work on the fewer pixels that the network sees.
    if not any(entry.get("name") == "ScaleJitter" for entry in entries):
        transforms.append(ScaleJitter(resize, p=0.0))
    for position, entry in enumerate(entries):
        place = f"data.augment[{position}]"
        parameters = dict(entry)
        name = parameters.pop("name", None)
        known = sorted(TRANSFORMS)
        if name not in known:
            hint = nearest(str(name), known) or "."
            raise ConfigError(f"{place}.name: found {name!r}{hint} Known: {', '.join(known)}")
        build = TRANSFORMS[name]
        allowed = set(inspect.signature(build.__init__).parameters) - {"self", "resize"}
        for key in parameters:
            if key not in allowed:
                raise ConfigError(
                    f"{place}.{key}: {name} has no such parameter; it has {', '.join(sorted(allowed))}"
                    f"{nearest(key, allowed)}"
                )
        if name == "ScaleJitter":
            parameters = {"resize": resize, "keep_boxes": keep_boxes, **parameters}
        try:
            transforms.append(build(**parameters))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{place}: {name} refuses {_reason(error)}") from error
    return transforms


def _reason(error: Exception) -> str:
    """Return on one line what a transform refuses; albumentations passes on pydantic's paragraphs."""
    lines = str(error).splitlines()
    if len(lines) < 3 or "validation error" not in lines[0]:
        return " ".join(lines)
    return f"'{lines[1]}': {lines[2].strip().partition(' [type=')[0].removeprefix('Value error, ')}"


class Augmentation:
    """Image and objects to augmented image and surviving objects, reproducibly.

    Args:
        entries: the transforms, as in the config.
        resize: evaluation size.
        keep_boxes: default of `ScaleJitter.keep_boxes`.
        min_visibility: boxes of which one transform leaves less than this share of area are dropped.
    """

    def __init__(
        self,
        entries: Sequence[dict[str, Any]],
        resize: ResizeConfig,
        keep_boxes: bool = False,
        min_visibility: float = 0.2,
    ) -> None:
        self.resize, self.min_visibility = resize, min_visibility
        self.transforms = build_transforms(entries, resize, keep_boxes)
        self.resize_only = build_transforms([], resize, keep_boxes)

    def __call__(
        self, image: np.ndarray, objects: Objects, seed: Sequence[int]
    ) -> tuple[np.ndarray, Objects, np.ndarray]:
        """Augment an image, (H, W, 3) uint8, that is there; see `read` for the rest."""
        decoded = Decoded.whole(image)
        return self.read(lambda _: decoded, decoded.size, objects, seed)

    def read(
        self,
        read: Callable[[Needs | None], Decoded],
        size: tuple[int, int],
        objects: Objects,
        seed: Sequence[int],
    ) -> tuple[np.ndarray, Objects, np.ndarray]:
        """Draw what the sample will show, read the image at the scale that this needs, and augment it.

        Args:
            read: gives the image; told what it will be shrunk to where `ScaleJitter` is the first transform.
            size: the image's own (height, width).
            objects: boxes xyxy in the image's own pixels.
            seed: integers that alone decide the randomness.

        Returns:
            image (H', W', 3) uint8, surviving objects in its pixels, and their (N',) rows in the input.
        """
        height, width = size
        thin = min(target_size(height, width, self.resize)) < MIN_SIDE
        first, *others = self.resize_only if thin else self.transforms
        _seed([first, *others], seed)
        # Albumentations' `Compose`, written out: its checks took longer than the small transforms. The rows
        # travel as a fifth column.
        boxes = np.empty((len(objects.boxes), 5))
        boxes[:, :4] = objects.boxes / np.array([width, height, width, height], np.float64)
        boxes[:, 4] = np.arange(len(boxes))
        if isinstance(first, ScaleJitter):
            window = first.draw(size, boxes)
            decoded = read(window.needs)
            window = window.reduced(decoded.factor)
            image = window.cut(decoded.pixels)
            boxes = window.move(boxes, np.array([width, height]) / decoded.factor)
            boxes = _visible(boxes, image, self.min_visibility)
        else:
            image, others = read(None).pixels, [first, *others]
        for transform in others:
            result = transform(image=image, bboxes=boxes)
            image = result["image"]
            if result["bboxes"] is not boxes:
                boxes = _visible(result["bboxes"], image, self.min_visibility)
        height, width = image.shape[:2]
        rows = boxes[:, 4].round().astype(np.int64)
        survivors = Objects(
            boxes=(boxes[:, :4] * [width, height, width, height]).astype(np.float32),
            classes=objects.classes[rows],
            crowd=objects.crowd[rows],
        )
        return np.ascontiguousarray(image), survivors, rows


def _seed(transforms: Sequence[A.BasicTransform], seed: Sequence[int]) -> None:
    generator = np.random.default_rng(np.random.SeedSequence(seed))
    python = random.Random(int(generator.integers(2**63)))
    python.random()  # what `Compose` drew first: seeds keep their meaning
    for transform in transforms:
        transform.set_random_state(generator, python)


def _visible(boxes: np.ndarray, image: np.ndarray, min_visibility: float) -> np.ndarray:
    """Return the normalised boxes (N, 5) clipped to the image, without those of which too little is left.

    As albumentations has it: at least `min_visibility` of the area, and a pixel of width and of height.
    """
    scale = np.array([image.shape[1], image.shape[0]] * 2, np.float64)
    pixels = boxes[:, :4] * scale
    clipped = pixels.clip(0, scale)
    areas = (pixels[:, 2:] - pixels[:, :2]).prod(axis=1)
    sides = clipped[:, 2:] - clipped[:, :2]
    small = 1e-7
    kept = (areas >= small) & (sides >= 1 - small).all(axis=1)
    kept &= sides.prod(axis=1) >= min_visibility * (areas + small)
    return np.concatenate([clipped / scale, boxes[:, 4:]], axis=1)[kept]
