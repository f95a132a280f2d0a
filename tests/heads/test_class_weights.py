"""How much each class counts in a head's loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vision_mtl.errors import ConfigError
from vision_mtl.heads.base import LabelInfo
from vision_mtl.heads.class_weights import (
    check_class_weights,
    class_factors,
    sigmoid_factors,
    softmax_factors,
)

NAMES = ("bolt", "nut", "washer")


def test_class_factors_are_1_but_for_the_named() -> None:
    assert class_factors({}, NAMES).tolist() == [1, 1, 1]
    assert class_factors({"washer": 2.5, "bolt": 0}, NAMES).tolist() == [0, 1, 2.5]


def test_a_weight_of_no_class_is_named() -> None:
    message = r"class_weights: found 'wascher'.*bolt, nut, washer; did you mean 'washer'\?"
    with pytest.raises(ConfigError, match=message):
        class_factors({"wascher": 2.0}, NAMES)


def test_factors_by_name_or_none_are_the_same_for_all_heads() -> None:
    labels = LabelInfo(NAMES)
    assert softmax_factors(None, labels).tolist() == [1, 1, 1]
    assert softmax_factors({"nut": 3.0}, labels).tolist() == [1, 3, 1]
    assert sigmoid_factors(None, labels).tolist() == [[1, 1, 1], [1, 1, 1]]
    assert sigmoid_factors({"nut": 3.0}, labels).tolist() == [[1, 3, 1], [1, 3, 1]]


def test_balanced_classes_count_the_same_in_sum_and_1_in_the_mean() -> None:
    counts = torch.tensor([10.0, 30.0, 0.0])
    found = softmax_factors("balanced", LabelInfo(NAMES, counts=(10, 30, 0)))
    torch.testing.assert_close(found, torch.tensor([2.0, 2 / 3, 1.0]))  # the one that never occurs has 1
    torch.testing.assert_close(counts * found, torch.tensor([20.0, 20.0, 0.0]))
    assert float((counts * found).sum() / 40) == pytest.approx(1)


def test_balanced_labels_weigh_the_present_ones_within_limits() -> None:
    names = ("some", "most", "one", "none", "all")
    absent, present = sigmoid_factors(
        "balanced", LabelInfo(names, counts=(100, 300, 1, 0, 400), absent=(300, 100, 399, 400, 0))
    )
    assert absent.tolist() == [1, 1, 1, 1, 1]
    torch.testing.assert_close(present, torch.tensor([3.0, 1.0, 100.0, 100.0, 1.0]))


@pytest.mark.parametrize("factors", [softmax_factors, sigmoid_factors])
def test_balanced_needs_counts(factors: Any) -> None:
    with pytest.raises(ConfigError, match=r"class_weights: found 'balanced'.*give factors by class name"):
        factors("balanced", LabelInfo(NAMES))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("balansed", r"heads\.state\.class_weights: found 'balansed', expected balanced, null, or factors"),
        ({"nut": 0.0}, r"heads\.state\.class_weights\.nut: found 0\.0, expected above 0"),
        ({"bolt": 1.0, "nut": -2.0}, r"heads\.state\.class_weights\.nut: found -2\.0, expected above 0"),
    ],
)
def test_weights_that_cannot_be_are_named(weights: Any, message: str) -> None:
    for usable in (None, "balanced", {}, {"nut": 0.5}):
        check_class_weights("state", usable)
    with pytest.raises(ConfigError, match=message):
        check_class_weights("state", weights)
