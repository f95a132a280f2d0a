"""How often an epoch shows each image: factors by hand, and the images that it draws by them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import sqrt

import numpy as np
import pytest

from vision_mtl.data.annotations import Category, read_annotations
from vision_mtl.data.categories import map_classes
from vision_mtl.data.config import DataConfig, ResizeConfig, SourceConfig
from vision_mtl.data.dataset import Dataset
from vision_mtl.data.loader import TrainingBatches, shown_per_epoch
from vision_mtl.data.sampling import draw_images, epoch_length, repeat_factors, source_factors

from .helpers import index_of, source_of, write_coco

ALL = (10, 10, 10, 10)  # of each class all images are annotated


def of(pairs: list[tuple[int, int]], annotated=ALL, threshold=0.4) -> list[float]:
    """Return the factors of ten images with the given (image, class) objects."""
    rows, classes = np.array(pairs, np.int64).reshape(-1, 2).T
    return repeat_factors(rows, classes, np.array(annotated), 10, threshold).tolist()


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
    assert of([(0, 0), (1, 0)], (4, 4)) == [1] * 10
    assert of([(0, 0), (1, 1)], (10, 2)) == pytest.approx([2] + [1] * 9)  # class by class


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
        replace(source_of(index), positions=np.array([3, 1])),
        source_of(other),
    ]
    rows, classes, annotated = Dataset(sources, ResizeConfig()).object_classes()
    assert sorted(zip(rows.tolist(), classes.tolist(), strict=True)) == [(2, 1), (3, 0), (5, 0)]
    assert annotated.tolist() == [4, 4]
    assert repeat_factors(rows, classes, annotated, 6, 1.0).tolist() == pytest.approx(
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


# Sources with repeats and weights

COUNTS = (10, 90)


def shown(counts: tuple[int, ...], factors: np.ndarray, epochs: int = 40) -> np.ndarray:
    """Return how many images of each source every epoch shows, (epochs, sources)."""
    ends = np.cumsum(counts)[:-1]
    return np.stack([[part.sum() for part in np.split(row, ends)] for row in draws(factors, epochs)])


def test_repeats_are_exact():
    factors = source_factors(COUNTS, (3, 1), None, np.ones(100))
    assert factors.tolist() == [3] * 10 + [1] * 90
    assert (draws(factors, 20) == factors).all()


@pytest.mark.parametrize(
    ("repeats", "weights", "expected"),
    [
        ((1, 1), (1, 1), (50, 50)),  # as many of the small source as of the large one
        ((1, 1), (0.25, 0.75), (25, 75)),
        ((1, 1), (10, 90), (10, 90)),  # the natural share
        ((2, 1), (1, 4), (22, 88)),  # the repeats give the length
    ],
)
def test_weights_are_shares_of_an_epoch_of_the_same_length(repeats, weights, expected):
    factors = source_factors(COUNTS, repeats, weights, np.ones(100))
    assert epoch_length(factors) == sum(expected)
    assert [part.sum() for part in np.split(factors, [10])] == pytest.approx(list(expected))
    counts = shown(COUNTS, factors)
    assert (counts.sum(axis=1) == sum(expected)).all()
    np.testing.assert_allclose(counts.mean(axis=0), expected, atol=1.5)


def test_factors_below_one_draw_a_random_part_of_a_source():
    factors = source_factors(COUNTS, (1, 1), (1, 1), np.ones(100))
    counts = draws(factors, 300)
    assert counts[:, 10:].max() == 1
    assert (counts[:, :10] == 5).all()
    np.testing.assert_allclose(counts[:, 10:].mean(axis=0), 50 / 90, atol=0.12)
    assert len({tuple(row) for row in counts[:, 10:]}) == 300


def test_length_is_whole_whatever_the_rounding():
    for counts in ((3, 7, 11), (1, 1, 1), (13, 29, 31)):
        for weights in ((0.1, 0.2, 0.7), (1 / 3, 1 / 3, 1 / 3), (7, 11, 13)):
            factors = source_factors(counts, (1, 1, 1), weights, np.ones(sum(counts)))
            assert epoch_length(factors) == sum(counts)


def test_rare_categories_within_repeats_and_weights():
    rare = np.array([1.0, 2.0, 1.0, 1.0, 3.0])
    assert source_factors((2, 3), (2, 1), None, rare).tolist() == [2, 4, 1, 1, 3]
    weighed = source_factors((2, 3), (1, 1), (1, 1), rare)
    assert weighed.tolist() == pytest.approx([2.5 / 3, 5 / 3, 0.5, 0.5, 1.5])


def data(*sources: dict, threshold: float = 0.0) -> DataConfig:
    train = [SourceConfig(images="", annotations="", **source) for source in sources]
    return DataConfig(train=train, repeat_threshold=threshold)


def test_what_the_config_says(tmp_path):
    first = source_of(index_of(tmp_path / "a", [(50, 50)] * 2, {1: [(1, [1, 1, 9, 9])]}))
    second = replace(first, positions=np.array([0]))
    dataset = Dataset([first, second], ResizeConfig())
    assert shown_per_epoch(data({}, {}), dataset) is None
    assert shown_per_epoch(data({"repeat": 2}, {}), dataset).tolist() == [2, 2, 1]
    assert shown_per_epoch(data({"weight": 1}, {"weight": 3}), dataset).tolist() == pytest.approx(
        [0.375, 0.375, 2.25]
    )
    # The class is in one of three images: sqrt(1 / (1 / 3)).
    factors = shown_per_epoch(data({"repeat": 2}, {}, threshold=1.0), dataset)
    assert factors.tolist() == pytest.approx([2, 2 * sqrt(3), 1])


def test_classes_are_counted_where_they_are_annotated(tmp_path):
    index = index_of(tmp_path, [(50, 50)] * 2, {1: [(1, [1, 1, 9, 9])]})  # of ant and bee
    trained = [Category(id=number, name=name) for number, name in enumerate(("cat", "bee", "ant"))]
    source = replace(source_of(index), classes=map_classes(index.categories, trained))
    dataset = Dataset([source, replace(source, has_boxes=False)], ResizeConfig())
    rows, classes, annotated = dataset.object_classes()
    assert (rows.tolist(), classes.tolist(), annotated.tolist()) == ([1], [2], [0, 2, 2])


def test_every_epoch_of_weighed_sources_has_the_same_length_and_its_own_images():
    sizes = np.full((100, 2), 64)
    order = TrainingBatches(sizes, 8, 3, source_factors(COUNTS, (1, 1), (1, 1), np.ones(100)))
    assert len(order) == 12
    epochs = []
    for order.epoch in range(5):
        batches = list(order)
        assert [len(batch) for batch in batches] == [8] * 12
        assert batches == list(order)
        epochs.append({i for batch in batches for i, _, _ in batch})
    assert len({frozenset(images) for images in epochs}) == 5
