"""The regression head; what it shares with the others is in test_image_head.py."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vision_mtl.heads.base import LabelInfo, TrunkInfo
from vision_mtl.heads.regression import RegressionConfig, RegressionHead
from vision_mtl.structures import Batch, ImageMeta, Scalar

LABELS = LabelInfo(mean=10.0, std=4.0)
NAN = float("nan")


def build(trunk: TrunkInfo, **values: Any) -> RegressionHead:
    torch.manual_seed(0)
    head = RegressionConfig(source="count", **values).build(trunk, LABELS)
    head.name = "count"
    return head


def batch_of(make_batch, labels: list[float]) -> Batch:
    return make_batch([[]] * len(labels), labels={"count": torch.tensor(labels)})


@pytest.mark.parametrize(
    ("loss", "normalise", "expected"),
    [
        # Targets 12 and 2 are 0.5 and -2 deviations from the mean; the outputs are 0 and 1.
        ("l1", True, (0.5 + 3) / 2),
        ("mse", True, (0.25 + 9) / 2),
        ("smooth_l1", True, (0.125 + 2.5) / 2),
        ("l1", False, (12 + 1) / 2),
        ("mse", False, (144 + 1) / 2),
        ("smooth_l1", False, (11.5 + 0.5) / 2),
    ],
)
def test_loss_is_in_deviations_or_raw_units_and_skips_unknown_labels(
    trunk_info, make_batch, loss: str, normalise: bool, expected: float
) -> None:
    head = build(trunk_info, loss=loss, normalise=normalise)
    batch = batch_of(make_batch, [12.0, NAN, 2.0])
    outputs = torch.tensor([0.0, 100.0, 1.0])
    assert float(head.loss(outputs, None, batch)["value"]) == pytest.approx(expected, abs=1e-6)
    assert head.count_labels(batch) == 2


@pytest.mark.parametrize(("normalise", "expected"), [(True, [10.0, 14.0, 0.0]), (False, [0.0, 1.0, -2.5])])
def test_predictions_are_in_the_labels_own_unit(
    trunk_info, make_features, normalise: bool, expected: list[float]
) -> None:
    head = build(trunk_info, normalise=normalise)
    metas = [ImageMeta(i, "", (64, 96), (1.0, 1.0)) for i in range(3)]
    decoded = head.decode(torch.tensor([0.0, 1.0, -2.5]), make_features(3))
    assert head.predict(decoded, metas) == [Scalar(value) for value in expected]
    assert head.describe(Scalar(3.14159265)) == {"value": 3.141593}


@pytest.mark.parametrize("normalise", [True, False])
def test_decode_undoes_what_the_loss_asks_for(trunk_info, make_batch, make_features, normalise: bool) -> None:
    head = build(trunk_info, loss="l1", normalise=normalise)
    wanted = torch.tensor([3.0, 10.0, 25.0])
    outputs = (wanted - 10) / 4 if normalise else wanted
    assert float(head.loss(outputs, None, batch_of(make_batch, wanted.tolist()))["value"]) == 0
    torch.testing.assert_close(head.decode(outputs, make_features(3)), wanted)


def test_the_label_source_carries_the_configs_fields() -> None:
    source = RegressionConfig(source="attribute", field="age").label_source()
    assert (source.kind, source.source, source.field) == ("scalar", "attribute", "age")
