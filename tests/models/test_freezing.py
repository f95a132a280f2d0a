"""Heads that keep what they were loaded with: in training, in the optimiser, in the averaged weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from vision_mtl.errors import CheckpointError, ConfigError
from vision_mtl.heads.base import LabelInfo
from vision_mtl.heads.classification import ClassificationConfig
from vision_mtl.heads.fcos import FcosConfig
from vision_mtl.models.freezing import check_filled
from vision_mtl.models.multitask import ModelConfig, MultiTaskModel, build_model
from vision_mtl.models.trunk import TrunkConfig
from vision_mtl.structures import Batch, ImageMeta
from vision_mtl.training.config import TrainingConfig
from vision_mtl.training.optim import AveragedModel, parameter_groups

TRUNK = TrunkConfig(name="resnet18", channels=32, freeze=6)
FROZEN = FcosConfig(depth=1, norm="batch", frozen=True)
NEW = ClassificationConfig(source="attribute", field="kind")
LABELS = {"objects": LabelInfo(("bolt", "nut"), (3, 7)), "kind": LabelInfo(("clean", "dirty"))}


def config(trunk: TrunkConfig = TRUNK, weights: str | None = "best.pt", **heads: Any) -> ModelConfig:
    return ModelConfig(trunk=trunk, heads=heads, weights=weights)


@pytest.fixture
def model() -> MultiTaskModel:
    usable = config(objects=FROZEN, kind=NEW)
    usable.check()
    return build_model(usable, LABELS)


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(
        images=torch.randint(0, 256, (2, 3, 64, 64), generator=generator, dtype=torch.uint8),
        sizes=torch.tensor([[64, 64], [64, 48]]),
        boxes=torch.tensor([[[8.0, 8, 50, 50]], [[0.0, 0, 0, 0]]]),
        classes=torch.tensor([[1], [-1]]),
        ignore=torch.zeros(2, 1, dtype=torch.bool),
        has_boxes=torch.tensor([True, True]),
        labels={"kind": torch.tensor([1, 0])},
        metas=[ImageMeta(i, f"{i}.png", (64, 64), (1.0, 1.0)) for i in range(2)],
    )


def test_a_frozen_head_stays_in_evaluation_mode(model: MultiTaskModel) -> None:
    model.train()
    assert not any(module.training for module in model.heads["objects"].modules())
    assert all(module.training for module in model.heads["kind"].modules())


def test_a_frozen_head_answers_at_evaluation_only(model: MultiTaskModel, batch: Batch) -> None:
    for mode, expected in ((True, {"kind"}), (False, {"objects", "kind"})):
        features, outputs = model.train(mode)(batch.images, batch.sizes)
        assert outputs.keys() == model.losses(features, outputs, batch).keys() == expected


def test_what_is_frozen_gets_no_gradient_and_is_not_optimised(model: MultiTaskModel, batch: Batch) -> None:
    features, outputs = model.train()(batch.images, batch.sizes)
    model.losses(features, outputs, batch)["kind"]["class"].backward()
    learning = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learning == {"heads.kind.pooled.logits.weight", "heads.kind.pooled.logits.bias"}
    groups = parameter_groups(model, nn.Identity(), TrainingConfig(), {"objects": 1.0, "kind": 1.0})
    optimised = {id(parameter) for group in groups for parameter in group["params"]}
    assert optimised == {id(p) for name, p in model.named_parameters() if name in learning}


def test_averaging_equal_numbers_changes_no_bit() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64))
    with torch.no_grad():
        model[0].weight *= torch.logspace(-30, 30, 64)
        model[1].running_var.uniform_(1e-6, 1e6)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    average = AveragedModel(model, decay=0.998)
    for _ in range(50):  # the weight of the new ones falls from 0.82 to 0.15
        average.update(model)
    assert all(torch.equal(value, before[name]) for name, value in average.model.state_dict().items())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            config(TrunkConfig(name="resnet18"), None, objects=FROZEN, kind=NEW),
            r"heads\.objects\.frozen: found true with weights null.*set weights to the checkpoint",
        ),
        (
            config(TRUNK, None, kind=NEW),
            r"trunk\.freeze: found 6, which keeps the pyramid, with weights null",
        ),
        (config(objects=FROZEN), r"heads: found frozen=true for each, so nothing would be trained"),
    ],
)
def test_what_would_stay_random_or_train_nothing_is_refused(wrong: ModelConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        wrong.check()


def test_a_frozen_trunk_or_resnet_alone_is_fine() -> None:
    config(TRUNK, kind=NEW).check()  # raises for what is not
    config(TrunkConfig(name="resnet18", freeze=5), None, kind=NEW).check()


def test_frozen_parts_that_the_file_does_not_fill_are_named() -> None:
    heads = {"objects": FROZEN, "kind": NEW, "other": FROZEN, "third": FROZEN}
    known = ["objects", "other", "third"]
    check_filled(TRUNK, heads, "best.pt", known, ["heads.kind.pooled.logits.bias"])
    with pytest.raises(CheckpointError, match=r"'best\.pt' does not fill the frozen heads objects, third to"):
        check_filled(TRUNK, heads, "best.pt", ["other"], [])
    with pytest.raises(CheckpointError, match=r"does not fill the frozen head third to the last tensor"):
        check_filled(TRUNK, heads, "best.pt", ["objects", "other"], [])
    pyramid = ["trunk.fpn.inner_blocks.0.0.weight"]
    check_filled(TrunkConfig(freeze=5), heads, "best.pt", known, pyramid)
    with pytest.raises(CheckpointError, match=r"'best\.pt' has no pyramid, .*; set trunk\.freeze=5"):
        check_filled(TRUNK, heads, "best.pt", known, pyramid)
