"""Mosaic and mixup: pixels and boxes, by known answers."""

from __future__ import annotations

import numpy as np
import pytest

from vision_mtl.data.annotations import Objects
from vision_mtl.data.config import MixConfig
from vision_mtl.data.mixing import FILL, Mixing, mixup, mosaic, random_crop

from .helpers import objects
from .pictures import COLOURS, area, inside


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def tile(number: int, height: int, width: int) -> tuple[np.ndarray, Objects]:
    """Return an image all of one colour, and one box of that class around all of it."""
    image = np.broadcast_to(COLOURS[number], (height, width, 3)).copy()
    return image, objects([0, 0, width, height], classes=[number])


@pytest.mark.parametrize("size", [(60, 90), (90, 60), (33, 200)])
def test_a_mosaic_of_large_tiles_is_all_tiles(size):
    centres = set()
    for seed in range(30):
        tiles = [tile(k, 200, 210) for k in range(4)]
        image, found = mosaic(tiles, size, 0.0, generator(seed))
        assert image.shape == (*size, 3)
        assert image.dtype == np.uint8
        assert found.classes.tolist() == [0, 1, 2, 3]
        assert area(found.boxes).sum() == size[0] * size[1]
        for k, box in enumerate(found.boxes):
            pixels = inside(image, box)
            assert len(pixels) == area(found.boxes)[k]
            assert (pixels == COLOURS[k]).all()
        x, y = found.boxes[0, 2:]
        assert found.boxes[3, :2].tolist() == [x, y]
        assert 0.19 * size[1] - 1 <= x <= 0.81 * size[1] + 1
        assert 0.19 * size[0] - 1 <= y <= 0.81 * size[0] + 1
        centres.add((x, y))
    assert len(centres) > 20


def test_small_tiles_touch_the_centre():
    image, found = mosaic([tile(k, 4 + k, 5 + k) for k in range(4)], (80, 100), 0.0, generator())
    x, y = found.boxes[0, 2:].tolist()
    assert found.boxes.tolist() == [
        [x - 5, y - 4, x, y],
        [x, y - 5, x + 6, y],
        [x - 7, y, x, y + 6],
        [x, y, x + 8, y + 7],
    ]
    for k, box in enumerate(found.boxes):
        assert (inside(image, box) == COLOURS[k]).all()
    assert (image == FILL).all(axis=2).sum() == 80 * 100 - 4 * 5 - 5 * 6 - 6 * 7 - 7 * 8


@pytest.mark.parametrize("least", [0.0, 0.31, 0.9])
def test_a_crop_keeps_what_is_visible(least):
    image = np.zeros((100, 120, 3), np.uint8)
    given = objects([0, 0, 20, 20], [50, 40, 90, 80], [100, 90, 120, 100], classes=[5, 6, 7])
    for value, (x1, y1, x2, y2) in enumerate(given.boxes.astype(int)):
        image[y1:y2, x1:x2] = value + 1
    shares = []
    for seed in range(40):
        cut, found = random_crop((image, given), (50, 200), least, generator(seed))
        assert cut.shape == (50, 120, 3)
        seen = [(cut[..., 0] == value + 1).sum() for value in range(3)]
        share = seen / area(given.boxes)
        shares += share.tolist()
        expected = [k for k in range(3) if seen[k] and share[k] >= least]
        assert found.classes.tolist() == [5 + k for k in expected]
        assert area(found.boxes).tolist() == [seen[k] for k in expected]
        for k, box in zip(expected, found.boxes, strict=True):
            assert (inside(cut, box) == k + 1).all()
    assert {0.0, 1.0} < set(shares)


def test_what_is_left_thinner_than_a_pixel_is_dropped():
    picture = np.zeros((10, 10, 3), np.uint8), objects([0, 0, 10, 0.9], [0, 0, 10, 1], classes=[1, 2])
    assert random_crop(picture, (10, 10), 0.0, generator())[1].classes.tolist() == [2]


def test_crowds_and_pictures_without_objects():
    tiles = [(np.zeros((80, 80, 3), np.uint8), objects()) for _ in range(4)]
    image, found = mosaic(tiles, (60, 60), 0.2, generator())
    assert not image.any()
    assert found.boxes.shape == (0, 4)
    tiles[2] = (tiles[2][0], objects([0, 0, 80, 80], [0, 0, 80, 80], classes=[3, 4], crowd=[True, False]))
    for seed in range(5):
        found = mosaic(tiles, (60, 60), 0.0, generator(seed))[1]
        assert found.classes.tolist() == [3, 4]
        assert found.crowd.tolist() == [True, False]
        dtypes = (found.boxes.dtype, found.classes.dtype, found.crowd.dtype)
        assert dtypes == (np.float32, np.int64, bool)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (40, 1), (2, 96)])
def test_thin_pictures(size):
    for seed in range(20):
        tiles = [tile(0, *size), tile(1, 40, 1), tile(2, 1, 40), tile(3, 64, 64)]
        image, found = mosaic(tiles, size, 0.0, generator(seed))
        for box, number in zip(found.boxes, found.classes, strict=True):
            assert (inside(image, box) == COLOURS[number]).all()
        covered = area(found.boxes).sum() + (image == FILL).all(axis=2).sum()
        assert covered == size[0] * size[1]
        for other in tiles:
            blend, both = mixup((image, found), other, 0.5, 0.0, generator(seed))
            assert blend.shape == image.shape
            assert len(both.boxes) == len(found.boxes) + 1
            assert (both.boxes <= [size[1], size[0]] * 2).all()


def test_mixup_blends_pixels_and_keeps_both_boxes():
    first, second = tile(0, 50, 70), tile(2, 20, 30)
    places = set()
    for seed in range(20):
        image, found = mixup(first, second, 0.25, 0.2, generator(seed))
        assert image.dtype == np.uint8
        assert found.classes.tolist() == [0, 2]
        assert found.boxes[0].tolist() == [0, 0, 70, 50]
        assert area(found.boxes)[1] == 600
        blend = (0.25 * COLOURS[0] + 0.75 * COLOURS[2]).round()
        assert np.abs(inside(image, found.boxes[1]) - blend).max() <= 0.5
        assert (image == COLOURS[0]).all(axis=2).sum() == 50 * 70 - 600
        places.add(tuple(found.boxes[1]))
    assert len(places) > 10
    assert (first[0] == COLOURS[0]).all()  # the pictures given are left as they are
    assert (second[0] == COLOURS[2]).all()


def test_mixup_crops_a_larger_second_picture():
    image, found = mixup(tile(0, 50, 70), tile(2, 200, 300), 0.0, 0.0, generator())
    assert (image == COLOURS[2]).all()
    assert found.boxes.tolist() == [[0, 0, 70, 50]] * 2
    assert mixup(tile(0, 50, 70), tile(2, 200, 300), 0.0, 0.2, generator())[1].classes.tolist() == [0]


def drawn(config: MixConfig, epoch: int = 0, samples: int = 2000) -> list[tuple[int, bool]]:
    """Return for each sample how many partners were asked for, and whether the picture stayed as it was."""
    mixing, first, results = Mixing(config, 3, 0.0), tile(0, 20, 30), []
    for seed in range(samples):
        asked: list[int] = []

        def partner(number: int, asked: list[int] = asked) -> tuple[np.ndarray, Objects]:
            asked.append(number)
            return tile(number % 4, 20, 30)

        picture = mixing(first, partner, (20, 30), epoch, generator(seed))
        assert len(set(asked)) == len(asked)
        results.append((len(asked), picture is first))
    return results


def test_probabilities():
    assert set(drawn(MixConfig())) == {(0, True)}
    assert set(drawn(MixConfig(mosaic=1.0))) == {(3, False)}
    assert set(drawn(MixConfig(mixup=1.0))) == {(1, False)}
    results = drawn(MixConfig(mosaic=0.5, mixup=0.25))
    assert set(results) == {(0, True), (1, False), (3, False), (4, False)}
    shares = {partners: sum(r[0] == partners for r in results) / 2000 for partners in (0, 1, 3, 4)}
    for partners, expected in {0: 0.375, 1: 0.125, 3: 0.375, 4: 0.125}.items():
        assert abs(shares[partners] - expected) < 0.04


def test_the_last_epochs_are_without():
    both = MixConfig(mosaic=1.0, mixup=1.0)
    assert [drawn(both, epoch, 1) for epoch in range(5)] == [[(4, False)]] * 3 + [[(0, True)]] * 2
