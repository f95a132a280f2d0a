"""The regression head."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

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


def batch_of(make_batch, labels: list[float], size: tuple[int, int] = (64, 96)) -> Batch:
    return make_batch([[]] * len(labels), size=size, labels={"count": torch.tensor(labels)})


def gradients(head: RegressionHead, features, batch: Batch) -> dict[str, Tensor]:
    head.zero_grad()
    head.loss(head(features), features, batch)["value"].backward()
    found = {name: parameter.grad for name, parameter in head.named_parameters()}
    assert all(gradient is not None for gradient in found.values()), found
    return {name: gradient.clone() for name, gradient in found.items() if gradient is not None}


@pytest.mark.parametrize(
    ("loss", "expected"),
    # Targets 12 and 2 are 0.5 and -2 deviations from the mean; the outputs are 0 and 1.
    [("l1", (0.5 + 3) / 2), ("mse", (0.25 + 9) / 2), ("smooth_l1", (0.125 + 2.5) / 2)],
)
def test_loss_is_in_deviations_and_skips_unknown_labels(
    trunk_info, make_batch, loss: str, expected: float
) -> None:
    head = build(trunk_info, loss=loss)
    batch = batch_of(make_batch, [12.0, NAN, 2.0])
    outputs = torch.tensor([0.0, 100.0, 1.0])
    assert float(head.loss(outputs, None, batch)["value"]) == pytest.approx(expected, abs=1e-6)
    assert head.count_labels(batch) == 2


def test_predictions_are_in_the_labels_own_unit(trunk_info, make_features) -> None:
    head = build(trunk_info)
    metas = [ImageMeta(i, "", (64, 96), (1.0, 1.0)) for i in range(3)]
    decoded = head.decode(torch.tensor([0.0, 1.0, -2.5]), make_features(3))
    assert head.predict(decoded, metas) == [Scalar(10.0), Scalar(14.0), Scalar(0.0)]
    assert head.describe(Scalar(3.14159265)) == {"value": 3.141593}


def test_decode_undoes_what_the_loss_asks_for(trunk_info, make_batch, make_features) -> None:
    head = build(trunk_info, loss="l1")
    wanted = torch.tensor([3.0, 10.0, 25.0])
    outputs = (wanted - 10) / 4
    assert float(head.loss(outputs, None, batch_of(make_batch, wanted.tolist()))["value"]) == 0
    torch.testing.assert_close(head.decode(outputs, make_features(3)), wanted)


@pytest.mark.parametrize("pool", ["avg", "gem", "attention"])
@pytest.mark.parametrize("loss", ["l1", "smooth_l1", "mse"])
def test_without_labels_every_gradient_is_exactly_zero(
    trunk_info, make_batch, make_features, pool: str, loss: str
) -> None:
    head, features = build(trunk_info, pool=pool, loss=loss, hidden=8), make_features(2, (128, 32))
    labelled = batch_of(make_batch, [3.0, 7.0], (128, 32))
    assert all(gradient.any() for gradient in gradients(head, features, labelled).values())
    unlabelled = batch_of(make_batch, [NAN, NAN], (128, 32))
    assert head.loss(head(features), features, unlabelled)["value"] == 0
    assert head.count_labels(unlabelled) == 0
    assert not any(gradient.any() for gradient in gradients(head, features, unlabelled).values())


def test_an_image_without_a_label_leaves_no_trace(trunk_info, make_batch, make_features) -> None:
    head, both = build(trunk_info), make_features(2)
    first = replace(both, stages={name: x[:1] for name, x in both.stages.items()}, sizes=both.sizes[:1])
    alone = gradients(head, first, batch_of(make_batch, [3.0]))
    both.stages["c5"].grad = None
    for name, gradient in gradients(head, both, batch_of(make_batch, [3.0, NAN])).items():
        torch.testing.assert_close(gradient, alone[name])
    assert both.stages["c5"].grad is not None
    assert both.stages["c5"].grad[0].any()
    assert not both.stages["c5"].grad[1].any()
