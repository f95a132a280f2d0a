"""The multi-label head; what it shares with the others is in test_image_head.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vision_mtl.errors import ConfigError
from vision_mtl.heads.base import LabelInfo, TrunkInfo
from vision_mtl.heads.image_losses import asymmetric_loss, sigmoid_focal_loss
from vision_mtl.heads.multilabel import MultilabelConfig, MultilabelHead
from vision_mtl.structures import Batch, ClassScores, ImageMeta

LABELS = LabelInfo(("bolt", "nut", "washer"), counts=(50, 20, 0), absent=(50, 80, 100))
NAN = float("nan")
LOGITS = torch.tensor([[0.0, 2.0, 7.0], [-7.0, 7.0, 7.0], [0.5, -1.0, 1.5]])
TARGETS = torch.tensor([[1.0, 0.0, NAN], [NAN, NAN, NAN], [0.0, 1.0, 1.0]])
KNOWN = ~TARGETS.isnan()
LOSSES: list[dict[str, Any]] = [
    {"loss": "bce"},
    {"loss": "focal", "focal_gamma": 1.5, "focal_alpha": 0.3},
    {"loss": "asymmetric", "gamma_neg": 2.0, "gamma_pos": 1.0, "margin": 0.1},
]


def build(trunk: TrunkInfo, **values: Any) -> MultilabelHead:
    torch.manual_seed(0)
    head = MultilabelConfig(**values).build(trunk, LABELS)
    head.name = "presence"
    return head


def batch_of(make_batch, labels: Tensor) -> Batch:
    return make_batch([[]] * len(labels), labels={"presence": labels})


def loss_of(head: MultilabelHead, logits: Tensor, batch: Batch) -> Tensor:
    return head.loss(logits, None, batch)["labels"]  # type: ignore[arg-type]


def test_loss_sums_known_classes_and_means_over_images(trunk_info, make_batch) -> None:
    logits = torch.tensor([[0.0, math.log(3), 7.0], [-7.0, 7.0, 7.0], [0.0, 0.0, 0.0]])
    targets = torch.tensor([[1.0, 0.0, NAN], [NAN, NAN, NAN], [NAN, 1.0, NAN]])
    head, batch = build(trunk_info), batch_of(make_batch, targets)
    expected = (math.log(2) + math.log(4) + math.log(2)) / 2
    assert float(loss_of(head, logits, batch)) == pytest.approx(expected, abs=1e-6)
    assert head.count_labels(batch) == 2


def test_focal_and_asymmetric_losses_take_the_configs_numbers(trunk_info, make_batch) -> None:
    batch, wanted = batch_of(make_batch, TARGETS), TARGETS.nan_to_num()
    expected = [
        sigmoid_focal_loss(LOGITS, wanted, 1.5, 0.3),
        asymmetric_loss(LOGITS, wanted, 2.0, 1.0, 0.1),
        sigmoid_focal_loss(LOGITS, wanted, 2.0, None),
        asymmetric_loss(LOGITS, wanted, 4.0, 0.0, 0.05),
    ]
    for values, losses in zip(
        [*LOSSES[1:], {"loss": "focal"}, {"loss": "asymmetric"}], expected, strict=True
    ):
        found = loss_of(build(trunk_info, **values), LOGITS, batch)
        torch.testing.assert_close(found, losses[KNOWN].sum() / 2)


def test_balanced_weights_are_torchs_pos_weight(trunk_info, make_batch) -> None:
    ratios = torch.tensor([1.0, 4.0, 100.0])  # 50, 80 and 100 images without, 50, 20 and 0 with
    losses = F.binary_cross_entropy_with_logits(
        LOGITS, TARGETS.nan_to_num(), pos_weight=ratios, reduction="none"
    )
    found = loss_of(build(trunk_info, class_weights="balanced"), LOGITS, batch_of(make_batch, TARGETS))
    torch.testing.assert_close(found, losses[KNOWN].sum() / 2)


@pytest.mark.parametrize("values", LOSSES, ids=lambda values: values["loss"])
def test_weights_by_name_scale_a_labels_loss_present_or_not(
    trunk_info, make_batch, values: dict[str, Any]
) -> None:
    plain = build(trunk_info, **values)
    weighted = build(trunk_info, class_weights={"bolt": 0.5, "washer": 3.0}, **values)
    for place, factor in enumerate([0.5, 1.0, 3.0]):
        for target in (0.0, 1.0):
            targets = torch.full((1, 3), NAN)
            targets[0, place] = target
            batch = batch_of(make_batch, targets)
            expected = factor * loss_of(plain, LOGITS[2:], batch)
            torch.testing.assert_close(loss_of(weighted, LOGITS[2:], batch), expected)
            assert expected > 0


@pytest.mark.parametrize("values", LOSSES, ids=lambda values: values["loss"])
def test_unknown_labels_leave_no_trace(trunk_info, make_batch, values: dict[str, Any]) -> None:
    head, batch = build(trunk_info, class_weights="balanced", **values), batch_of(make_batch, TARGETS)
    logits = LOGITS.clone().requires_grad_()
    loss = loss_of(head, logits, batch)
    loss.backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad != 0, KNOWN)
    torch.testing.assert_close(loss_of(head, torch.where(KNOWN, LOGITS, 3.0), batch), loss.detach())


def test_scores_are_sigmoids(trunk_info, make_features) -> None:
    head = build(trunk_info)
    decoded = head.decode(torch.tensor([[0.0, math.log(3), -math.log(4)]]), make_features(1))
    (found,) = head.predict(decoded, [ImageMeta(0, "", (64, 96), (1.0, 1.0))])
    torch.testing.assert_close(found.scores, torch.tensor([0.5, 0.75, 0.2]))


def described(head: MultilabelHead, scores: Sequence[float]) -> dict[str, Any]:
    return head.describe(ClassScores(torch.tensor(scores)))


def test_describe_gives_the_labels_from_the_threshold_on_best_first(trunk_info) -> None:
    head = build(trunk_info, threshold=0.25)
    found = described(head, [0.25, 0.875, 0.125])
    assert (found["label"], found["score"]) == (["nut", "bolt"], [0.875, 0.25])
    assert list(found["scores"]) == ["bolt", "nut", "washer"]
    assert described(head, [0.0, 0.125, 0.125])["label"] == []


def test_the_label_source_carries_the_configs_fields() -> None:
    source = MultilabelConfig(categories=["bolt"]).label_source()
    assert (source.kind, source.source, source.categories) == ("several", "boxes", ["bolt"])
    source = MultilabelConfig(source="csv", file="a.csv", column="parts").label_source()
    assert (source.source, source.file, source.column) == ("csv", "a.csv", "parts")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"hidden": -1}, r"heads\.presence\.hidden: found -1"),
        ({"threshold": 50.0}, r"heads\.presence\.threshold: found 50\.0, expected 0 to 1"),
        ({"focal_gamma": -2.0}, r"heads\.presence\.focal_gamma: found -2\.0"),
        ({"gamma_neg": -4.0}, r"heads\.presence\.gamma_neg: found -4\.0"),
        ({"gamma_pos": -1.0}, r"heads\.presence\.gamma_pos: found -1\.0"),
        ({"margin": 1.0}, r"heads\.presence\.margin: found 1\.0, expected 0 to below 1"),
        ({"focal_alpha": 0.25}, r"heads\.presence\.focal_alpha: found 0\.25 with loss=bce"),
        ({"focal_alpha": 1.0, "loss": "focal"}, r"focal_alpha: found 1\.0, expected above 0 and below 1"),
        ({"class_weights": "equal"}, r"heads\.presence\.class_weights: found 'equal'"),
        ({"class_weights": {"nut": -1.0}}, r"heads\.presence\.class_weights\.nut: found -1\.0"),
    ],
)
def test_impossible_settings_are_named(values: dict[str, Any], message: str) -> None:
    for usable in LOSSES:
        MultilabelConfig(class_weights="balanced", **usable).check("presence")
    with pytest.raises(ConfigError, match=message):
        MultilabelConfig(**values).check("presence")
