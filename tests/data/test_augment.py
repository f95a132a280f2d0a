"""Augmentation: boxes follow the pixels, and randomness is a function of the seed alone."""

from __future__ import annotations

import random
from typing import Any

import albumentations as A
import numpy as np
import pytest

from vision_mtl.data.annotations import Objects
from vision_mtl.data.augment import TRANSFORMS, Augmentation
from vision_mtl.data.config import ResizeConfig, default_augment
from vision_mtl.data.window import target_size
from vision_mtl.errors import ConfigError

from .helpers import objects

RESIZE = ResizeConfig(shorter=96, longer=128)
NONE = objects()
# Transforms that move pixels, at parameters that really do so.
GEOMETRIC: list[dict[str, Any]] = [
    {"name": "ScaleJitter"},
    {"name": "ScaleJitter", "scale": [0.3, 3.0], "aspect": [0.5, 2.0]},
    {"name": "ScaleJitter", "keep_boxes": True},
    {"name": "Affine", "scale": [0.7, 1.4], "translate_percent": [-0.2, 0.2]},
    {"name": "BBoxSafeRandomCrop"},
    {"name": "D4"},
    {"name": "HorizontalFlip"},
    {"name": "RandomRotate90"},
    {"name": "Transpose"},
    {"name": "VerticalFlip"},
]
# The box of a turned box that the frame cuts is larger than what is left of it: whole ones are compared.
TURNING: list[dict[str, Any]] = [
    {"name": "Affine", "rotate": [-20, 20], "shear": [-10, 10]},
    {"name": "Affine", "rotate": [-20, 20], "fit_output": True},
    {"name": "Perspective"},
    {"name": "Perspective", "fit_output": True},
    {"name": "Rotate", "limit": 30},
    {"name": "SafeRotate"},
]


def rectangle(seed: int) -> tuple[np.ndarray, Objects]:
    """Return a black image with one bright rectangle, and its box."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(100, 400, 2)
    x1, y1 = rng.integers(0, [width - 40, height - 40])
    x2, y2 = rng.integers([x1 + 25, y1 + 25], [width + 1, height + 1])
    image = np.zeros((height, width, 3), np.uint8)
    image[y1:y2, x1:x2] = 255
    return image, objects([x1, y1, x2, y2], classes=[3], crowd=[True])


def bright_box(image: np.ndarray) -> np.ndarray | None:
    """Return xyxy of the bright pixels."""
    rows, columns = np.nonzero(image[..., 0] > 127)
    if not len(rows):
        return None
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def name_of(entry: dict[str, Any]) -> str:
    return "-".join([entry["name"], *(key for key in entry if key != "name")])


@pytest.mark.parametrize("entry", GEOMETRIC + TURNING, ids=name_of)
def test_boxes_follow_the_pixels(entry):
    augmentation = Augmentation([{**entry, "p": 1.0}], RESIZE, min_visibility=0.0)
    compared = 0
    for seed in range(50):
        image, given = rectangle(seed)
        result, kept, rows = augmentation(image, given, [seed])
        seen = bright_box(result)
        if seen is None or min(seen[2:] - seen[:2]) < 3:
            continue
        height, width = result.shape[:2]
        whole = seen.min() > 0 and seen[2] < width and seen[3] < height
        if entry in TURNING and not whole:
            continue
        assert rows.tolist() == [0], seed
        np.testing.assert_allclose(
            kept.boxes[0], seen, atol=2.0 if entry in TURNING else 1.2, err_msg=str(seed)
        )
        compared += 1
    assert compared >= 15


def test_randomness_is_a_function_of_the_seed():
    image = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    given = objects([10, 10, 60, 60], [50, 40, 150, 110])
    entries = [
        *default_augment(),
        {"name": "Affine", "rotate": [-9, 9], "p": 1.0},
        {"name": "GaussNoise", "p": 1.0},
    ]
    one, two = Augmentation(entries, RESIZE), Augmentation(entries, RESIZE)
    first = one(image, given, (0, 1, 2))
    for seed in range(5):
        one(image, given, (seed,))  # what was drawn before does not matter
    for augmentation in (one, two):
        again = augmentation(image, given, (0, 1, 2))
        assert (again[0] == first[0]).all()
        assert (again[1].boxes == first[1].boxes).all()
    for other in ((0, 2, 2), (0, 1, 3), (1, 1, 2)):
        different = one(image, given, other)[0]
        assert different.shape != first[0].shape or (different != first[0]).any()


def test_transforms_are_drawn_independently():
    augmentation = Augmentation(
        [
            {"name": "ScaleJitter", "p": 0.0},
            {"name": "HorizontalFlip", "p": 0.5},
            {"name": "VerticalFlip", "p": 0.5},
        ],
        RESIZE,
    )
    image = np.zeros((96, 128, 3), np.uint8)
    image[:20, :20] = 255
    corners = {
        tuple((bright_box(augmentation(image, NONE, [seed])[0])[:2] > 0).tolist()) for seed in range(40)
    }
    assert len(corners) == 4


def test_classes_and_crowds_follow_their_rows():
    image = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    corners = np.random.default_rng(1).uniform([0, 0], [250, 150], (30, 2))
    given = Objects(
        np.concatenate([corners, corners + 40], axis=1).astype(np.float32),
        np.arange(30, dtype=np.int64) * 7,
        np.arange(30) % 3 == 0,
    )
    augmentation = Augmentation(
        [{"name": "ScaleJitter", "scale": [2.0, 3.0]}, {"name": "HorizontalFlip"}], RESIZE
    )
    dropped = 0
    for seed in range(10):
        result, kept, rows = augmentation(image, given, [seed])
        dropped += 30 - len(rows)
        assert kept.classes.tolist() == given.classes[rows].tolist()
        assert kept.crowd.tolist() == given.crowd[rows].tolist()
        dtypes = (kept.boxes.dtype, kept.classes.dtype, kept.crowd.dtype, rows.dtype)
        assert dtypes == (np.float32, np.int64, bool, np.int64)
        height, width = result.shape[:2]
        assert kept.boxes.min(initial=0) >= 0
        assert (kept.boxes <= [width, height, width, height]).all()
    assert dropped


@pytest.mark.parametrize("name", [None, *sorted(TRANSFORMS)])
def test_samples_are_those_of_albumentations_own_compose(name):
    entries = default_augment() if name is None else [{"name": "HorizontalFlip"}, {"name": name, "p": 0.7}]
    augmentation = Augmentation(entries, RESIZE)
    bounds = A.BboxParams(
        "albumentations", ["rows"], min_visibility=0.2, min_width=1, min_height=1, clip=True
    )
    reference = A.Compose(Augmentation(entries, RESIZE).transforms, bounds)
    rng = np.random.default_rng(4)
    for seed in range(4):
        size = rng.integers(40, 200, 2)
        corners = rng.uniform(0, size[::-1] - 21, (6, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(2, 20, (6, 2))], axis=1)
        given = objects(*boxes.tolist())
        image = rng.integers(0, 256, (*size, 3), np.uint8)
        result, kept, rows = augmentation(image, given, [7, seed])

        generator = np.random.default_rng(np.random.SeedSequence([7, seed]))
        reference.set_random_state(generator, random.Random(int(generator.integers(2**63))))
        scale = np.array([*size[::-1], *size[::-1]])
        expected = reference(image=image, bboxes=given.boxes / scale, rows=np.arange(6.0))
        np.testing.assert_array_equal(result, expected["image"])
        assert rows.tolist() == [int(row) for row in expected["rows"]]
        seen = np.array(expected["bboxes"]).reshape(-1, 4) * [*result.shape[1::-1], *result.shape[1::-1]]
        np.testing.assert_allclose(kept.boxes, seen, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("least", [0.0, 0.2, 0.6])
def test_boxes_hardly_visible_are_dropped(least):
    entry = {"name": "ScaleJitter", "scale": [1.5, 2.5], "aspect": [1.0, 1.0]}
    all_boxes = Augmentation([entry], RESIZE, min_visibility=0.0)
    some = Augmentation([entry], RESIZE, min_visibility=least)
    drawn, draw = [], all_boxes.transforms[0].draw
    all_boxes.transforms[0].draw = lambda *a: drawn.append(draw(*a)) or drawn[-1]
    dropped = 0
    for seed in range(60):
        image, given = rectangle(seed)
        _, kept, _ = some(image, given, [seed])
        _, known, _ = all_boxes(image, given, [seed])
        crop = drawn[-1].crop
        x1, y1, x2, y2 = given.boxes[0].clip([crop[0], crop[1]] * 2, [crop[2], crop[3]] * 2)
        sides = given.boxes[0, 2:] - given.boxes[0, :2]
        share = (x2 - x1) * (y2 - y1) / sides.prod()
        if len(known.boxes) and abs(share - least) > 0.01:
            assert len(kept.boxes) == (share > least)
        dropped += share < least
    assert dropped or not least


def test_keep_boxes_keeps_them_and_their_shape():
    entry = {"name": "ScaleJitter", "scale": [1.0, 3.0], "aspect": [0.85, 1.18]}
    augmentation = Augmentation([entry], RESIZE, keep_boxes=True, min_visibility=0.99)
    for seed in range(80):
        rng = np.random.default_rng(seed)
        corners = rng.uniform([0, 0], [250, 150], (4, 2))
        given = objects(*np.concatenate([corners, corners + rng.uniform(12, 49, (4, 2))], axis=1).tolist())
        image = np.zeros((200, 300, 3), np.uint8)
        _, kept, rows = augmentation(image, given, [seed])
        assert rows.tolist() == [0, 1, 2, 3]
        before, after = given.boxes[:, 2:] - given.boxes[:, :2], kept.boxes[:, 2:] - kept.boxes[:, :2]
        stretch = (after[:, 0] / before[:, 0]) / (after[:, 1] / before[:, 1])
        assert ((stretch > 0.8) & (stretch < 1.25)).all(), seed


def test_large_scale_jitter():
    """Ghiasi et al.: from a tenth to twice the size; boxes below a pixel go, the others follow the pixels."""
    resize = ResizeConfig(shorter=256, longer=512)
    entry = {"name": "ScaleJitter", "scale": [0.1, 2.0], "aspect": [1.0, 1.0]}
    augmentation = Augmentation([entry], resize, min_visibility=0.0)
    image = np.zeros((256, 320, 3), np.uint8)
    image[100:180, 60:200] = 255
    given = objects([60, 100, 200, 180], [20, 30, 23, 60], [300, 10, 316, 18], classes=[0, 1, 2])
    heights, dropped = [], 0
    for seed in range(150):
        result, kept, _ = augmentation(image, given, [seed])
        height, width = result.shape[:2]
        heights.append(height)
        assert (kept.boxes >= 0).all()
        assert (kept.boxes <= [width, height] * 2).all()
        assert (kept.boxes[:, 2:] - kept.boxes[:, :2] > 1 - 1e-3).all()
        if height == 256:
            continue
        # Shrunk, so all is in view: a box is gone exactly where it became thinner than a pixel.
        scale = np.array([width / 320, height / 256] * 2)
        thinnest = (given.boxes * scale)[:, 2:] - (given.boxes * scale)[:, :2]
        assert kept.classes.tolist() == np.flatnonzero(thinnest.min(axis=1) >= 1).tolist()
        np.testing.assert_allclose(kept.boxes, (given.boxes * scale)[kept.classes], atol=1e-3)
        np.testing.assert_allclose(kept.boxes[0], bright_box(result), atol=1.0)
        dropped += 1 not in kept.classes
    assert min(heights) < 30
    assert 256 in heights
    assert dropped > 10


@pytest.mark.parametrize("name", sorted(set(TRANSFORMS) - {"ScaleJitter"}))
def test_every_transform_runs_on_what_scale_jitter_shrank(name):
    shrink = {"name": "ScaleJitter", "scale": [0.02, 0.1], "aspect": [0.5, 2.0]}
    augmentation = Augmentation([shrink, {"name": name, "p": 1.0}], ResizeConfig(shorter=32, longer=64))
    image = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    for seed in range(5):
        result, kept, _ = augmentation(image, objects([0, 0, 120, 90], [5, 5, 9, 9]), [seed])
        assert result.dtype == np.uint8
        assert min(result.shape[:2]) >= 8
        assert (kept.boxes[:, 2:] - kept.boxes[:, :2] > 1 - 1e-3).all()


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (10, 4000), (33, 35), (1000, 1000)])
def test_scale_jitter_never_exceeds_the_evaluation_size(size):
    augmentation = Augmentation([{"name": "ScaleJitter", "scale": [0.3, 3.0], "aspect": [0.5, 2.0]}], RESIZE)
    limit = target_size(*size, RESIZE)
    shapes = [augmentation(np.zeros((*size, 3), np.uint8), NONE, [seed])[0].shape for seed in range(50)]
    assert all(height <= limit[0] and width <= limit[1] for height, width, _ in shapes)


def test_without_scale_jitter_the_size_is_that_of_evaluation():
    image, given = rectangle(3)
    for entries in ([], [{"name": "HorizontalFlip", "p": 0.0}], [{"name": "ScaleJitter", "p": 0.0}]):
        result, kept, _ = Augmentation(entries, RESIZE)(image, given, [0])
        assert result.shape[:2] == target_size(*image.shape[:2], RESIZE)
        np.testing.assert_allclose(kept.boxes[0], bright_box(result), atol=1.0)


@pytest.mark.parametrize("name", sorted(TRANSFORMS))
def test_every_transform_runs_with_its_defaults(name):
    augmentation = Augmentation([{"name": name, "p": 1.0}], RESIZE)
    rng = np.random.default_rng(0)
    pictures = [
        rng.integers(0, 256, (*size, 3), np.uint8) for size in ((120, 160), (1, 1), (1, 4000), (4000, 1))
    ]
    for image in pictures:
        height, width = image.shape[:2]
        for given in (NONE, objects([0, 0, width, height], [0, 0, max(1, width // 2), max(1, height // 2)])):
            for seed in range(3):
                result, kept, rows = augmentation(image, given, [seed])
                assert result.dtype == np.uint8
                assert result.ndim == 3
                assert result.shape[2] == 3
                assert result.flags["C_CONTIGUOUS"]
                assert kept.boxes.shape == (len(rows), 4)


ERRORS = {
    "unknown name": ({"name": "HorizontalFlop"}, r"data.augment\[0\].name: .*did you mean 'HorizontalFlip'"),
    "no name": ({"p": 1.0}, r"data.augment\[0\].name: found None"),
    "unknown parameter": (
        {"name": "Rotate", "limits": 3},
        r"\[0\].limits: Rotate .*mean 'limit'",
    ),
    "refused value": (
        {"name": "HorizontalFlip", "p": 2},
        "HorizontalFlip refuses 'p': Input should",
    ),
    "refused text": ({"name": "ColorJitter", "hue": "a"}, "ColorJitter refuses hue 'a'"),
    "scale of zero": ({"name": "ScaleJitter", "scale": [0, 1]}, "ScaleJitter refuses scale"),
    "scale falling": ({"name": "ScaleJitter", "scale": [2, 1]}, "the smaller first"),
    "one number": ({"name": "ScaleJitter", "aspect": 0.5}, "ScaleJitter refuses aspect 0.5"),
    "probability": ({"name": "ScaleJitter", "p": 3}, "ScaleJitter refuses p 3"),
    "another probability": ({"name": "ColorJitter", "shuffle": -1}, "ColorJitter refuses shuffle -1"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors(case):
    entry, message = ERRORS[case]
    with pytest.raises(ConfigError, match=message) as raised:
        Augmentation([entry], RESIZE)
    assert "\n" not in str(raised.value)
