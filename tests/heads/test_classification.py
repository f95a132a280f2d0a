"""The single-label head; what it shares with the others is in test_image_head.py."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vision_mtl.convert import convert
from vision_mtl.errors import ConfigError
from vision_mtl.heads.base import LabelInfo, TrunkInfo
from vision_mtl.heads.classification import ClassificationConfig, ClassificationHead
from vision_mtl.structures import Batch, ClassScores, ImageMeta

LABELS = LabelInfo(("clean", "dirty", "wet"), counts=(6, 3, 1))
LOGITS = torch.tensor([[1.0, 2.0, 3.0], [2.0, 0.0, 0.0], [5.0, 1.0, 1.0], [0.5, -1.0, 0.0]])
TARGETS = torch.tensor([1, 0, -1, 2])
WEIGHTS = {"clean": 0.25, "wet": 3.0}
FACTORS = torch.tensor([0.25, 1.0, 3.0])


def build(trunk: TrunkInfo, **values: Any) -> ClassificationHead:
    torch.manual_seed(0)
    head = ClassificationConfig(source="dominant", **values).build(trunk, LABELS)
    head.name = "state"
    return head


def batch_of(make_batch, labels: Tensor) -> Batch:
    return make_batch([[]] * len(labels), labels={"state": labels})


def loss_of(head: ClassificationHead, logits: Tensor, batch: Batch) -> float:
    return float(head.loss(logits, None, batch)["class"])  # type: ignore[arg-type]


def test_loss_is_the_mean_over_labelled_images(trunk_info, make_batch) -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0], [5.0, 1.0, 1.0]])
    batch = batch_of(make_batch, torch.tensor([1, 2, -1]))
    first = math.log(math.e + math.e**2 + math.e**3) - 2
    found = loss_of(build(trunk_info), logits, batch)
    assert found == pytest.approx((first + math.log(3)) / 2, abs=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(("weights", "factors"), [(None, None), (WEIGHTS, FACTORS)])
def test_cross_entropy_with_smoothing_and_weights_is_torchs(
    trunk_info, make_batch, smoothing: float, weights: Any, factors: Tensor | None
) -> None:
    head = build(trunk_info, label_smoothing=smoothing, class_weights=weights)
    expected = F.cross_entropy(LOGITS, TARGETS, factors, ignore_index=-1, label_smoothing=smoothing)
    assert loss_of(head, LOGITS, batch_of(make_batch, TARGETS)) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("loss", ["cross_entropy", "focal"])
@pytest.mark.parametrize("factor", [0.01, 50.0])
def test_the_factor_of_the_only_class_in_a_batch_cancels_out(
    trunk_info, make_batch, loss: str, factor: float
) -> None:
    batch = batch_of(make_batch, torch.tensor([2, -1, -1, 2]))
    plain = loss_of(build(trunk_info, loss=loss), LOGITS, batch)
    weighted = loss_of(build(trunk_info, loss=loss, class_weights={"wet": factor}), LOGITS, batch)
    assert weighted == pytest.approx(plain, rel=1e-5)


@pytest.mark.parametrize("loss", ["cross_entropy", "focal"])
def test_balanced_weights_come_from_the_counts(trunk_info, make_batch, loss: str) -> None:
    batch = batch_of(make_batch, TARGETS)
    named = {"clean": 10 / (3 * 6), "dirty": 10 / (3 * 3), "wet": 10 / (3 * 1)}
    found, expected, plain = (
        loss_of(build(trunk_info, loss=loss, class_weights=weights), LOGITS, batch)
        for weights in ("balanced", named, None)
    )
    assert found == pytest.approx(expected, abs=1e-6)
    assert found != pytest.approx(plain, abs=1e-2)


def test_focal_loss_is_a_weighted_mean(trunk_info, make_batch) -> None:
    logits = torch.tensor([[0.0, math.log(2), math.log(5)], [7.0, 0.0, 0.0], [0.0, math.log(6), 0.0]])
    batch = batch_of(make_batch, torch.tensor([2, -1, 0]))  # probabilities of the targets: 5/8 and 1/8
    first, second = -((3 / 8) ** 2) * math.log(5 / 8), -((7 / 8) ** 2) * math.log(1 / 8)
    found = loss_of(build(trunk_info, loss="focal"), logits, batch)
    assert found == pytest.approx((first + second) / 2, abs=1e-6)
    found = loss_of(build(trunk_info, loss="focal", class_weights=WEIGHTS), logits, batch)
    assert found == pytest.approx((3 * first + 0.25 * second) / 3.25, abs=1e-6)
    found = loss_of(build(trunk_info, loss="focal", focal_gamma=0.0), logits, batch)
    assert found == pytest.approx(-(math.log(5 / 8) + math.log(1 / 8)) / 2, abs=1e-6)


def test_class_weights_are_not_in_the_state_dict(trunk_info) -> None:
    plain, weighted = build(trunk_info), build(trunk_info, class_weights="balanced")
    assert plain.state_dict().keys() == weighted.state_dict().keys()


def test_a_weight_of_no_class_is_refused(trunk_info) -> None:
    with pytest.raises(ConfigError, match=r"class_weights: found 'drity'.*did you mean 'dirty'"):
        build(trunk_info, class_weights={"drity": 2.0})


def test_scores_are_a_softmax(trunk_info, make_features) -> None:
    head, metas = build(trunk_info), [ImageMeta(i, "", (64, 96), (1.0, 1.0)) for i in range(2)]
    logits = torch.tensor([[0.0, math.log(2), math.log(5)], [0.0, 0.0, 0.0]], dtype=torch.float64)
    first, second = head.predict(head.decode(logits, make_features(2)), metas)
    torch.testing.assert_close(first.scores, torch.tensor([0.125, 0.25, 0.625]))
    torch.testing.assert_close(second.scores, torch.full((3,), 1 / 3))


def test_describe_gives_the_best_label(trunk_info) -> None:
    assert build(trunk_info).describe(ClassScores(torch.tensor([0.25, 0.625, 0.125]))) == {
        "label": "dirty",
        "score": 0.625,
        "scores": {"clean": 0.25, "dirty": 0.625, "wet": 0.125},
    }


def test_the_label_source_carries_the_configs_fields() -> None:
    source = ClassificationConfig(source="csv", file="a.csv", column="state").label_source()
    assert (source.kind, source.source, source.file, source.column) == ("single", "csv", "a.csv", "state")
    assert source.groups is None
    source = ClassificationConfig(source="dominant", categories=["bolt"]).label_source()
    assert (source.source, source.categories) == ("dominant", ["bolt"])


def test_groups_hold_texts_and_numbers_as_yaml_gives_them() -> None:
    groups = {"above": [6, 7.5, "8"], "below": ["few", True]}
    tree = {"type": "classification", "source": "attribute", "field": "quality", "groups": groups}
    assert convert(tree, ClassificationConfig, "heads.quality", "a.yaml").label_source().groups == groups
    with pytest.raises(ConfigError, match=r"a\.yaml: heads\.quality\.groups"):
        convert({**tree, "groups": {"above": 6}}, ClassificationConfig, "heads.quality", "a.yaml")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dropout": 1.0}, r"heads\.state\.dropout: found 1\.0"),
        ({"label_smoothing": 1.5}, r"heads\.state\.label_smoothing: found 1\.5"),
        ({"label_smoothing": 0.1, "loss": "focal"}, r"label_smoothing: found 0\.1 with loss=focal"),
        ({"focal_gamma": -1.0}, r"heads\.state\.focal_gamma: found -1\.0"),
        ({"class_weights": "balance"}, r"heads\.state\.class_weights: found 'balance'"),
        ({"class_weights": {"wet": 0.0}}, r"heads\.state\.class_weights\.wet: found 0\.0"),
    ],
)
def test_impossible_settings_are_named(values: dict[str, Any], message: str) -> None:
    ClassificationConfig(source="dominant", label_smoothing=0.1, class_weights="balanced").check("state")
    ClassificationConfig(source="dominant", loss="focal", focal_gamma=0.0, class_weights=WEIGHTS).check(
        "state"
    )
    with pytest.raises(ConfigError, match=message):
        ClassificationConfig(source="dominant", **values).check("state")
