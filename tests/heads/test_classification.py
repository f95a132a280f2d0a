"""Single-label and multi-label heads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vision_mtl.errors import ConfigError
from vision_mtl.heads.base import Head, LabelInfo, TrunkInfo
from vision_mtl.heads.classification import ClassificationConfig, MultilabelConfig
from vision_mtl.structures import Batch, ClassScores, ImageMeta

LABELS = LabelInfo(("clean", "dirty", "wet"))
NAN = float("nan")
CONFIGS: dict[str, Any] = {"single": ClassificationConfig, "several": MultilabelConfig}
KNOWN: dict[str, Tensor] = {
    "single": torch.tensor([2, 0]),
    "several": torch.tensor([[1.0, 0.0, NAN], [0.0, 1.0, 1.0]]),
}
UNKNOWN: dict[str, Tensor] = {"single": torch.tensor(-1), "several": torch.tensor([NAN, NAN, NAN])}
METAS = [ImageMeta(i, "", (64, 96), (1.0, 1.0)) for i in range(2)]
both_kinds = pytest.mark.parametrize("kind", ["single", "several"])
every_pool = pytest.mark.parametrize("pool", ["avg", "gem", "attention"])


def build(kind: str, trunk: TrunkInfo, labels: LabelInfo = LABELS, **values: Any) -> Head:
    torch.manual_seed(0)
    head = CONFIGS[kind](**{"source": "attribute", "field": "kind", **values}).build(trunk, labels)
    head.name = "state"
    return head


def batch_of(make_batch, labels: Tensor, size: tuple[int, int] = (64, 96)) -> Batch:
    return make_batch([[]] * len(labels), size=size, labels={"state": labels})


def gradients(head: Head, features, batch: Batch) -> dict[str, Tensor]:
    head.zero_grad()
    (term,) = head.loss(head(features), features, batch).values()
    term.backward()
    found = {name: parameter.grad for name, parameter in head.named_parameters()}
    assert all(gradient is not None for gradient in found.values()), found
    return {name: gradient.clone() for name, gradient in found.items() if gradient is not None}


@both_kinds
@every_pool
@pytest.mark.parametrize("features", ["c3", "c4", "c5", "pyramid"])
@pytest.mark.parametrize(("size", "hidden"), [((64, 96), 0), ((128, 32), 8)])
def test_every_kind_of_head_trains(
    trunk_info, make_batch, make_features, kind: str, pool: str, features: str, size, hidden: int
) -> None:
    head = build(kind, trunk_info, pool=pool, features=features, hidden=hidden, dropout=0.2)
    batch = batch_of(make_batch, KNOWN[kind], size)
    for name, gradient in gradients(head, make_features(2, size), batch).items():
        assert gradient.isfinite().all(), name
        assert gradient.any(), name
    assert head.count_labels(batch) == 2


@both_kinds
@every_pool
@pytest.mark.parametrize("hidden", [0, 8])
def test_without_labels_every_gradient_is_exactly_zero(
    trunk_info, make_batch, make_features, kind: str, pool: str, hidden: int
) -> None:
    head = build(kind, trunk_info, pool=pool, hidden=hidden)
    batch = batch_of(make_batch, torch.stack([UNKNOWN[kind]] * 2))
    features = make_features(2)
    (term,) = head.loss(head(features), features, batch).values()
    assert term == 0
    assert head.count_labels(batch) == 0
    for name, gradient in gradients(head, features, batch).items():
        assert not gradient.any(), name


@both_kinds
@every_pool
def test_an_image_without_a_label_leaves_no_trace(
    trunk_info, make_batch, make_features, kind: str, pool: str
) -> None:
    head = build(kind, trunk_info, pool=pool)
    both = make_features(2)
    first = replace(both, stages={name: x[:1] for name, x in both.stages.items()}, sizes=both.sizes[:1])
    alone = gradients(head, first, batch_of(make_batch, KNOWN[kind][:1]))
    both.stages["c5"].grad = None
    masked = torch.stack([KNOWN[kind][0], UNKNOWN[kind]])
    for name, gradient in gradients(head, both, batch_of(make_batch, masked)).items():
        torch.testing.assert_close(gradient, alone[name])
    assert both.stages["c5"].grad is not None
    assert both.stages["c5"].grad[0].any()
    assert not both.stages["c5"].grad[1].any()


def loss_of(head: Head, logits: Tensor, batch: Batch) -> float:
    (term,) = head.loss(logits, None, batch).values()  # type: ignore[arg-type]
    return float(term)


def test_single_label_loss_is_the_mean_over_labelled_images(trunk_info, make_batch) -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0], [5.0, 1.0, 1.0]])
    batch = batch_of(make_batch, torch.tensor([1, 2, -1]))
    first = math.log(math.e + math.e**2 + math.e**3) - 2
    found = loss_of(build("single", trunk_info), logits, batch)
    assert found == pytest.approx((first + math.log(3)) / 2, abs=1e-6)


def test_label_smoothing_is_torchs(trunk_info, make_batch) -> None:
    logits, targets = torch.tensor([[1.0, 2.0, 3.0], [2.0, 0.0, 0.0]]), torch.tensor([1, 0])
    expected = F.cross_entropy(logits, targets, label_smoothing=0.1)
    head = build("single", trunk_info, label_smoothing=0.1)
    assert loss_of(head, logits, batch_of(make_batch, targets)) == pytest.approx(float(expected), abs=1e-6)


def test_multilabel_loss_sums_known_classes_and_means_over_images(trunk_info, make_batch) -> None:
    logits = torch.tensor([[0.0, math.log(3), 7.0], [-7.0, 7.0, 7.0], [0.0, 0.0, 0.0]])
    targets = torch.tensor([[1.0, 0.0, NAN], [NAN, NAN, NAN], [NAN, 1.0, NAN]])
    head = build("several", trunk_info)
    found = loss_of(head, logits, batch_of(make_batch, targets))
    assert found == pytest.approx((math.log(2) + math.log(4) + math.log(2)) / 2, abs=1e-6)
    assert head.count_labels(batch_of(make_batch, targets)) == 2


def test_single_label_scores_are_a_softmax(trunk_info, make_features) -> None:
    head = build("single", trunk_info)
    logits = torch.tensor([[0.0, math.log(2), math.log(5)], [0.0, 0.0, 0.0]], dtype=torch.float64)
    first, second = head.predict(head.decode(logits, make_features(2)), METAS)
    torch.testing.assert_close(first.scores, torch.tensor([0.125, 0.25, 0.625]))
    torch.testing.assert_close(second.scores, torch.full((3,), 1 / 3))


def test_multilabel_scores_are_sigmoids(trunk_info, make_features) -> None:
    head = build("several", trunk_info)
    decoded = head.decode(torch.tensor([[0.0, math.log(3), -math.log(4)]]), make_features(1))
    (found,) = head.predict(decoded, METAS[:1])
    torch.testing.assert_close(found.scores, torch.tensor([0.5, 0.75, 0.2]))


def described(head: Head, scores: Sequence[float]) -> dict[str, Any]:
    return head.describe(ClassScores(torch.tensor(scores)))


def test_describe_gives_the_best_label(trunk_info) -> None:
    assert described(build("single", trunk_info), [0.25, 0.625, 0.125]) == {
        "label": "dirty",
        "score": 0.625,
        "scores": {"clean": 0.25, "dirty": 0.625, "wet": 0.125},
    }


def test_describe_gives_the_labels_from_the_threshold_on_best_first(trunk_info) -> None:
    head = build("several", trunk_info, threshold=0.25)
    found = described(head, [0.25, 0.875, 0.125])
    assert (found["label"], found["score"]) == (["dirty", "clean"], [0.875, 0.25])
    assert list(found["scores"]) == ["clean", "dirty", "wet"]
    assert described(head, [0.0, 0.125, 0.125])["label"] == []


def test_label_sources_carry_the_configs_fields() -> None:
    single = ClassificationConfig(source="csv", file="a.csv", column="state").label_source()
    assert (single.kind, single.source, single.file, single.column) == ("single", "csv", "a.csv", "state")
    several = MultilabelConfig(categories=["bolt"]).label_source()
    assert (several.kind, several.source, several.categories) == ("several", "boxes", ["bolt"])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dropout": 1.0}, r"heads\.state\.dropout: found 1\.0"),
        ({"dropout": -0.1}, r"heads\.state\.dropout: found -0\.1"),
        ({"hidden": -8}, r"heads\.state\.hidden: found -8"),
        ({"label_smoothing": 1.5}, r"heads\.state\.label_smoothing: found 1\.5"),
    ],
)
def test_impossible_settings_are_named(values: dict[str, Any], message: str) -> None:
    ClassificationConfig(source="dominant", dropout=0.5, hidden=8, label_smoothing=0.1).check("state")
    with pytest.raises(ConfigError, match=message):
        ClassificationConfig(source="dominant", **values).check("state")
