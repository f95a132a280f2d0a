"""Colour changes: known colours, and how often channels change places."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import numpy as np

from vision_mtl.data.augment import Augmentation
from vision_mtl.data.color import RGB_TO_YIQ, change_colors
from vision_mtl.data.config import ResizeConfig

from .helpers import objects


def test_color_changes() -> None:
    image = np.array([[[200, 60, 40], [128, 128, 128], [30, 90, 200]]], np.uint8)
    luma = image[0] @ RGB_TO_YIQ[0]
    assert (change_colors(image, 1, 1, 1, 0) == image).all()
    assert change_colors(image, 0.5, 1, 1, 0)[0, 0].tolist() == [100, 30, 20]
    assert change_colors(image, 0.5, 1, 1, 0, order=(2, 0, 1))[0, 0].tolist() == [20, 100, 30]
    np.testing.assert_allclose(change_colors(image, 1, 1, 0, 0)[0], luma[:, None].repeat(3, 1), atol=0.6)
    np.testing.assert_allclose(change_colors(image, 1, 0, 1, 0)[0], luma.mean(), atol=0.6)
    turned = change_colors(image, 1, 1, 1, 0.05)[0].astype(int)
    np.testing.assert_allclose(turned @ RGB_TO_YIQ[0], luma, atol=2.0)  # one channel is clipped
    assert turned[1].tolist() == [128, 128, 128]  # gray has no hue
    assert turned[0, 1] > 60  # red turns towards green


def test_the_channels_change_places_as_often_as_asked() -> None:
    image = np.full((32, 32, 3), (200, 100, 0), np.uint8)
    plain = {"name": "ColorJitter", "brightness": 0, "contrast": 0, "saturation": 0, "hue": 0, "p": 1.0}

    def firsts(shuffle: float) -> list[list[int]]:
        augment = Augmentation([{**plain, "shuffle": shuffle}], ResizeConfig(shorter=32, longer=32))
        return [augment(image, objects(), (0, i))[0][0, 0].tolist() for i in range(200)]

    found = Counter(map(tuple, firsts(0.9)))
    assert firsts(0.0) == [[200, 100, 0]] * 200
    assert sorted(found) == sorted(permutations((200, 100, 0)))
    assert 20 <= found[200, 100, 0] <= 80  # a tenth is not asked for, of the rest a sixth changes nothing
