"""Keys in JSON text, counted by their quotes."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from vision_mtl.data import coco_keys
from vision_mtl.data.coco_keys import Repeated, count_keys, find_repeated

KEYS = ("id", "ab", "x", "longer_key")


@pytest.mark.parametrize("chunk", [1, 2, 3, 5, 7, 13, 64, 2**20])
def test_keys_are_counted_wherever_the_text_is_cut(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coco_keys, "CHUNK", chunk)
    draw = random.Random(0)
    for _ in range(20):
        values = ["id", "x", 1, "a b c: {}", ["ab", {"id": 2}], '":'.replace('"', "")]
        entries = [
            {draw.choice(KEYS): draw.choice(values) for _ in range(3)} for _ in range(draw.randrange(6))
        ]
        text = json.dumps(entries)
        found = count_keys(np.frombuffer(text.encode(), np.uint8), KEYS)
        assert found == {key: text.count(f'"{key}":') for key in KEYS}


GIVEN = {"images": {"id": 2}, "annotations": {"id": 1}}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"images": [{"id": 1}, {"id": 2}], "annotations": [{"id": 3}]}', None),
        ('{"images": [{"id" : 1}, {"id" : 2}], "annotations": [{"id": 3}]}', None),
        ('{"info": {"images": 1}, "images": [{"id": 1}, {"id": 2}], "annotations": [{"id": 3}]}', None),
        (
            '{"images": [{"id": 1}, {"id": 2, "id": 5}], "annotations": [{"id": 3}]}',
            Repeated("$.images[1].id", "images", ["5"]),
        ),
        (
            '{"images": [{"id": 1}, {"id": 2, "\\u0069d": 5}], "annotations": [{"id": 3}]}',
            Repeated("$.images[1].id", "images", ["5"]),
        ),
        (
            '{"images": [], "annotations": [{"id": 3}], "images": [{"id": 1}, {"id": 2}]}',
            Repeated("$.images", "images", []),
        ),
    ],
)
def test_what_is_given_twice_is_found(text: str, expected: Repeated | None) -> None:
    assert find_repeated(text.encode(), GIVEN) == expected
