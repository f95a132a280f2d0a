"""What holds for every image-level head: labels that are not there leave no trace."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import msgspec
import pytest
import torch
from torch import Tensor

from vision_mtl.errors import ConfigError
from vision_mtl.heads.base import Head, LabelInfo, TrunkInfo
from vision_mtl.heads.classification import ClassificationConfig
from vision_mtl.heads.image_head import ImageHeadConfig
from vision_mtl.heads.multilabel import MultilabelConfig
from vision_mtl.heads.regression import RegressionConfig
from vision_mtl.structures import Batch

NAN = float("nan")


class Kind(NamedTuple):
    """A head's classes, the labels of three images, and that of an image without one."""

    labels: LabelInfo
    known: Tensor
    unknown: Tensor


CLASSES = LabelInfo(("clean", "dirty", "wet"), counts=(6, 3, 1), absent=(4, 7, 8))
SINGLE = Kind(CLASSES, torch.tensor([2, 0, 1]), torch.tensor(-1))
SEVERAL = Kind(
    CLASSES, torch.tensor([[1.0, 0.0, NAN], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]), torch.full((3,), NAN)
)
SCALAR = Kind(LabelInfo(mean=10.0, std=4.0), torch.tensor([3.0, 25.0, 7.0]), torch.tensor(NAN))

Case = tuple[ImageHeadConfig, Kind]
CASES: dict[str, Case] = {
    "cross_entropy": (
        ClassificationConfig(source="dominant", label_smoothing=0.1, class_weights={"wet": 3.0}),
        SINGLE,
    ),
    "focal": (ClassificationConfig(source="dominant", loss="focal", class_weights="balanced"), SINGLE),
    "bce": (MultilabelConfig(class_weights="balanced"), SEVERAL),
    "sigmoid_focal": (MultilabelConfig(loss="focal", focal_alpha=0.25), SEVERAL),
    "asymmetric": (MultilabelConfig(loss="asymmetric", class_weights={"dirty": 0.5}), SEVERAL),
    "l1": (RegressionConfig(source="count", loss="l1"), SCALAR),
    "smooth_l1": (RegressionConfig(source="count", loss="smooth_l1", normalise=False), SCALAR),
    "mse": (RegressionConfig(source="count", loss="mse"), SCALAR),
}
every_loss = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
every_pool = pytest.mark.parametrize(
    "pooling",
    [
        {"pool": "avg"},
        {"pool": "gem"},
        {"pool": "attention"},
        {"pool": "attention", "attention_temperature": 2.0},
    ],
    ids=["avg", "gem", "max", "attention"],
)


def build(case: Case, trunk: TrunkInfo, **values: Any) -> Head:
    torch.manual_seed(0)
    head = msgspec.structs.replace(case[0], **values).build(trunk, case[1].labels)
    head.name = "state"
    return head


def batch_of(make_batch, labels: Tensor, size: tuple[int, int]) -> Batch:
    return make_batch([[]] * len(labels), size=size, labels={"state": labels})


def gradients(head: Head, features, batch: Batch) -> dict[str, Tensor]:
    head.zero_grad()
    (term,) = head.loss(head(features), features, batch).values()
    term.backward()
    found = {name: parameter.grad for name, parameter in head.named_parameters()}
    assert all(gradient is not None for gradient in found.values()), found
    return {name: gradient.clone() for name, gradient in found.items() if gradient is not None}


@every_loss
@every_pool
@pytest.mark.parametrize(("size", "hidden"), [((64, 96), 0), ((128, 32), 8)])
def test_every_parameter_learns_where_all_are_labelled(
    trunk_info, make_batch, make_features, case: Case, pooling: dict[str, Any], size, hidden: int
) -> None:
    head = build(case, trunk_info, hidden=hidden, dropout=0.2, **pooling)
    batch = batch_of(make_batch, case[1].known, size)
    for name, gradient in gradients(head, make_features(3, size), batch).items():
        assert gradient.isfinite().all(), name
        assert gradient.any(), name
    assert head.count_labels(batch) == 3


@every_pool
@pytest.mark.parametrize("name", ["bce", "focal", "l1"])
@pytest.mark.parametrize("read", ["c3", "c4", "c5", "pyramid"])
def test_a_head_learns_from_what_it_reads_alone(
    trunk_info, make_batch, make_features, name: str, read: str, pooling: dict[str, Any]
) -> None:
    case, size = CASES[name], (96, 64)
    head, features = build(case, trunk_info, features=read, **pooling), make_features(3, size)
    gradients(head, features, batch_of(make_batch, case[1].known, size))
    reached = {stage for stage, level in features.stages.items() if level.grad is not None}
    levels = [level.grad is not None for level in features.pyramid]
    assert (reached, levels) == ((set(), [True] * 3) if read == "pyramid" else ({read}, [False] * 3))


@every_loss
@every_pool
@pytest.mark.parametrize("hidden", [0, 8])
def test_without_labels_every_gradient_is_exactly_zero(
    trunk_info, make_batch, make_features, case: Case, pooling: dict[str, Any], hidden: int
) -> None:
    size = (128, 32)
    head, features = build(case, trunk_info, hidden=hidden, **pooling), make_features(2, size)
    batch = batch_of(make_batch, torch.stack([case[1].unknown] * 2), size)
    (term,) = head.loss(head(features), features, batch).values()
    assert term == 0
    assert head.count_labels(batch) == 0
    for name, gradient in gradients(head, features, batch).items():
        assert not gradient.any(), name
    assert features.stages["c5"].grad is not None
    assert not features.stages["c5"].grad.any()


@every_loss
@every_pool
def test_one_labelled_image_among_others_teaches_what_it_does_alone(
    trunk_info, make_batch, make_features, case: Case, pooling: dict[str, Any]
) -> None:
    size, (known, unknown) = (64, 96), case[1][1:]
    head, features = build(case, trunk_info, **pooling), make_features(3, size)
    alone = replace(
        features,
        stages={name: level.detach()[1:2] for name, level in features.stages.items()},
        sizes=features.sizes[1:2],
    )
    expected = gradients(head, alone, batch_of(make_batch, known[1:2], size))
    batch = batch_of(make_batch, torch.stack([unknown, known[1], unknown]), size)
    assert head.count_labels(batch) == 1
    for name, gradient in gradients(head, features, batch).items():
        torch.testing.assert_close(gradient, expected[name])
    reached = features.stages["c5"].grad
    assert reached is not None
    assert [bool(image.any()) for image in reached] == [False, True, False]


def test_the_configs_settings_reach_the_pooling(trunk_info) -> None:
    config = RegressionConfig(
        source="count",
        features="c4",
        pool="attention",
        attention_share=0.7,
        attention_temperature=5.0,
        hidden=8,
        dropout=0.25,
    )
    pooled = config.pooled(trunk_info, 2)
    assert (pooled.pool, pooled.attention_share, pooled.attention_temperature) == ("attention", 0.7, 5.0)
    assert pooled.hidden is not None
    assert (pooled.hidden.in_features, pooled.hidden.out_features) == (trunk_info.stage_channels["c4"], 8)
    assert (pooled.dropout.p, pooled.logits.out_features) == (0.25, 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dropout": 1.0}, r"heads\.number\.dropout: found 1\.0"),
        ({"dropout": -0.1}, r"heads\.number\.dropout: found -0\.1"),
        ({"hidden": -8}, r"heads\.number\.hidden: found -8"),
        ({"attention_share": -0.5}, r"heads\.number\.attention_share: found -0\.5"),
        ({"attention_temperature": 2.0}, r"attention_temperature: found 2\.0 with pool=avg"),
        (
            {"pool": "attention", "attention_temperature": 0.0},
            r"heads\.number\.attention_temperature: found 0\.0, expected above 0",
        ),
    ],
)
def test_impossible_settings_are_named(values: dict[str, Any], message: str) -> None:
    RegressionConfig(
        source="count", dropout=0.5, hidden=8, pool="attention", attention_temperature=1.0
    ).check("number")
    with pytest.raises(ConfigError, match=message):
        RegressionConfig(source="count", **values).check("number")
