"""Repeat-factor sampling: factors by hand, and the images that an epoch draws by them."""

from __future__ import annotations

from collections import Counter
from math import sqrt

import numpy as np
import pytest

from vision_mtl.data.annotations import read_annotations
from vision_mtl.data.config import ResizeConfig
from vision_mtl.data.dataset import Dataset, Source
from vision_mtl.data.loader import TrainingBatches
from vision_mtl.data.sampling import draw_images, epoch_length, repeat_factors

from .helpers import index_of, source_of, write_coco

ALL = np.ones(10, bool)


def of(pairs: list[tuple[int, int]], annotated=ALL, threshold=0.4) -> list[float]:
    """Return the factors of images with the given (image, class) objects."""
    rows, classes = np.array(pairs, np.int64).reshape(-1, 2).T
    return repeat_factors(rows, classes, annotated, threshold).tolist()


def test_factors_by_hand():
    # Class 0 is in 5 of 10 images, class 1 in one, class 2 in two.
    pairs = [*((i, 0) for i in range(5)), (0, 1), (0, 1), (4, 2), (5, 2)]
    expected = [sqrt(0.4 / 0.1), 1, 1, 1, sqrt(0.4 / 0.2), sqrt(0.4 / 0.2), 1, 1, 1, 1]
    assert of(pairs) == pytest.approx(expected)
    assert of(pairs, threshold=0.05) == [1] * 10
    assert of(pairs, threshold=1.0) == pytest.approx(
        [sqrt(1 / 0.1), *[sqrt(1 / 0.5)] * 3, *[sqrt(1 / 0.2)] * 2, 1, 1, 1, 1]
    )


def test_images_without_objects():
    assert of([]) == [1] * 10
    assert of([(9, 3)]) == pytest.approx([1] * 9 + [2])


def test_images_of_unknown_categories_do_not_count_for_the_shares():
    assert of([(0, 0), (1, 0)]) == pytest.approx([sqrt(2)] * 2 + [1] * 8)
    assert of([(0, 0), (1, 0)], np.arange(10) < 4) == [1] * 10


def test_object_classes_are_those_of_the_images_in_use(tmp_path):
    images = [{"id": i, "file_name": f"{i}.png", "height": 50, "width": 50} for i in range(4)]
    annotations = [
        {"image_id": 0, "category_id": 1, "bbox": [1, 1, 9, 9]},
        {"image_id": 1, "category_id": 2, "bbox": [1, 1, 9, 9], "iscrowd": 1},
        {"image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]},
        {"image_id": 2, "category_id": 2, "bbox": [1, 1, 9, 9]},
        {"image_id": 3, "category_id": 2, "bbox": [1, 1, 9, 9]},
    ]
    path = write_coco(tmp_path / "set.json", images, annotations)
    index = read_annotations(path, None)
    other = index_of(tmp_path / "other", [(50, 50)] * 2, {1: [(1, [1, 1, 9, 9])]})
    sources = [
        source_of(other, has_boxes=False),
        Source(index, source_of(index).images, {}, True, np.array([3, 1])),
        source_of(other),
    ]
    rows, classes, annotated = Dataset(sources, ResizeConfig()).object_classes()
    assert sorted(zip(rows.tolist(), classes.tolist(), strict=True)) == [(2, 1), (3, 0), (5, 0)]
    assert annotated.tolist() == [False, False, True, True, True, True]
    assert repeat_factors(rows, classes, annotated, 1.0).tolist() == pytest.approx(
        [1, 1, 2, sqrt(2), 1, sqrt(2)]
    )


FACTORS = np.array([1.0, 2.5, 1.0, 1.2, 3.0, 1.0, 1.55])  # their sum is 11.25


def draws(factors: np.ndarray, epochs: int) -> np.ndarray:
    """Return how often each epoch shows each image, (epochs, I)."""
    drawn = (draw_images(factors, np.random.default_rng([7, epoch])) for epoch in range(epochs))
    return np.stack([np.bincount(images, minlength=len(factors)) for images in drawn])


def test_every_epoch_has_the_same_length_and_every_image():
    assert epoch_length(FACTORS) == 12
    counts = draws(FACTORS, 200)
    assert set(counts.sum(axis=1)) == {12}
    stretched = FACTORS * 12 / 11.25
    assert (counts >= np.floor(stretched)).all()
    assert (counts <= np.ceil(stretched)).all()


def test_images_are_shown_as_often_as_their_factors_say():
    many = np.concatenate([FACTORS] * 30)
    counts = draws(many, 600)
    np.testing.assert_allclose(counts.mean(axis=0), many, atol=0.1)
    by_factor = counts.reshape(600, 30, 7).mean(axis=(0, 1))
    np.testing.assert_allclose(by_factor, FACTORS, atol=0.015)


def test_neighbours_are_rounded_independently():
    counts = draws(np.full(40, 1.5), 400)
    assert (counts.sum(axis=1) == 60).all()
    assert 0.15 < ((counts[:, 0] == 2) & (counts[:, 1] == 2)).mean() < 0.35


def test_factors_of_one_draw_every_image_once():
    assert sorted(draw_images(np.ones(13), np.random.default_rng(0)).tolist()) == list(range(13))


def test_whole_factors_are_exact():
    assert (draws(np.array([1.0, 2.0, 3.0]), 50) == [1, 2, 3]).all()


@pytest.mark.parametrize("size", [1, 3, 4, 100])
def test_training_batches_by_factors(size):
    rng = np.random.default_rng(0)
    sizes, factors = rng.integers(50, 100, (40, 2)), rng.uniform(1, 3, 40)
    order = TrainingBatches(sizes, size, 5, factors)
    assert len(order) == max(1, epoch_length(factors) // size)
    shown: Counter[int] = Counter()
    for order.epoch in range(20):
        batches = list(order)
        assert len(batches) == len(order)
        keys = [key for batch in batches for key in batch]
        assert len({position for _, _, position in keys}) == len(keys)
        assert {epoch for _, epoch, _ in keys} == {order.epoch}
        for batch in batches:
            assert len({position // size for _, _, position in batch}) == 1
        shown.update(i for i, _, _ in keys)
        assert batches == list(order)
    counts = np.array([shown[i] for i in range(40)])
    assert np.corrcoef(counts, factors)[0, 1] > 0.9
    portrait = sizes[:, 0] > sizes[:, 1]
    mixed = [batch for batch in batches if len({bool(portrait[i]) for i, _, _ in batch}) > 1]
    assert len(mixed) <= 1


def test_start_continues_within_an_epoch():
    sizes = np.full((9, 2), 64)
    order = TrainingBatches(sizes, 2, 0, np.linspace(1, 3, 9))
    whole = list(order)
    order.start = 4
    assert list(order) == whole[4:]
