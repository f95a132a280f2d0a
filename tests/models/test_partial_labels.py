"""What is not labelled teaches nothing: its gradient is exactly zero, and the rest is as without it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vision_mtl.heads.base import LabelInfo
from vision_mtl.heads.classification import ClassificationConfig
from vision_mtl.heads.fcos import FcosConfig
from vision_mtl.heads.multilabel import MultilabelConfig
from vision_mtl.heads.regression import RegressionConfig
from vision_mtl.heads.retinanet import RetinanetConfig
from vision_mtl.models.multitask import ModelConfig, MultiTaskModel, build_model
from vision_mtl.models.trunk import TrunkConfig
from vision_mtl.structures import Batch, ImageMeta

DETECTORS: dict[str, Any] = {
    "fcos": FcosConfig(depth=1, norm="group"),
    "retinanet": RetinanetConfig(depth=1, anchor_scale=2.0),
}
LABEL_HEADS: dict[str, Any] = {
    "presence": MultilabelConfig(),
    "state": ClassificationConfig(source="attribute", field="state"),
    "number": RegressionConfig(source="count"),
}
INFOS = {
    "objects": LabelInfo(("bolt", "nut"), (3, 7)),
    "presence": LabelInfo(("bolt", "nut")),
    "state": LabelInfo(("clean", "dirty", "wet")),
    "number": LabelInfo(mean=2.0, std=1.5),
}
TASKS = tuple(INFOS)
every_task = pytest.mark.parametrize("task", TASKS)
NAN = float("nan")

BOTH = Batch(  # every image is labelled for every task
    images=torch.randint(
        0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    ),
    sizes=torch.tensor([[64, 64], [64, 64]]),
    boxes=torch.tensor([[[8.0, 8, 40, 44], [0.0, 0, 0, 0]], [[20.0, 4, 60, 30], [2.0, 30, 30, 62]]]),
    classes=torch.tensor([[1, -1], [0, 1]]),
    ignore=torch.zeros(2, 2, dtype=torch.bool),
    has_boxes=torch.tensor([True, True]),
    labels={
        "presence": torch.tensor([[0.0, 1.0], [1.0, 1.0]]),
        "state": torch.tensor([2, 0]),
        "number": torch.tensor([1.0, 2.5]),
    },
    metas=[ImageMeta(i, "", (64, 64), (1.0, 1.0)) for i in range(2)],
)


def without(batch: Batch, task: str, rows: Sequence[int]) -> Batch:
    """Return the batch with the task's labels of some images unknown."""
    index = torch.tensor(rows)
    if task == "objects":
        return replace(batch, has_boxes=batch.has_boxes.index_fill(0, index, False))
    target = batch.labels[task]
    unknown = NAN if target.is_floating_point() else -1
    return replace(batch, labels={**batch.labels, task: target.index_fill(0, index, unknown)})


def first_of(batch: Batch) -> Batch:
    """Return the first image by itself."""
    tensors: dict[str, Any] = {
        name: getattr(batch, name)[:1]
        for name in ("images", "sizes", "boxes", "classes", "ignore", "has_boxes", "metas")
    }
    return replace(batch, **tensors, labels={name: target[:1] for name, target in batch.labels.items()})


@pytest.fixture(params=DETECTORS)
def model(request: pytest.FixtureRequest) -> MultiTaskModel:
    """A network in which images do not meet: its norms are over groups of channels."""
    torch.manual_seed(0)
    trunk = TrunkConfig(name="resnet18", norm="group", channels=32, extra="none")
    heads = {"objects": DETECTORS[request.param], **LABEL_HEADS}
    return build_model(ModelConfig(trunk=trunk, heads=heads), INFOS).train()


def gradients(model: MultiTaskModel, batch: Batch, tasks: Sequence[str]) -> dict[str, Tensor]:
    """Return the gradient of the tasks' summed loss, by the parameters that it reaches."""
    model.zero_grad(set_to_none=True)
    features, outputs = model(batch.images, batch.sizes)
    losses = model.losses(features, outputs, batch)
    torch.stack([term for task in tasks for term in losses[task].values()]).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def distance(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the norm of the difference of two gradients, as a share of the expected one's."""
    assert found.keys() == expected.keys()
    one, other = (torch.cat([part.flatten() for part in parts.values()]) for parts in (found, expected))
    assert other.norm() > 0
    return float((one - other).norm() / other.norm())


@every_task
def test_a_masked_task_has_exactly_no_gradient(model: MultiTaskModel, task: str) -> None:
    batch = without(BOTH, task, [0, 1])
    assert model.named_heads()[task].count_labels(batch) == 0
    found = gradients(model, batch, [task])
    own = {name for name, _ in model.named_parameters() if name.startswith(f"heads.{task}.")}
    assert own < found.keys()  # the graph is whole: trunk and head have a gradient, and it is zero
    assert "trunk.body.conv1.weight" in found
    assert [name for name, gradient in found.items() if gradient.count_nonzero()] == []
    assert gradients(model, BOTH, [task])["trunk.body.conv1.weight"].count_nonzero()


@every_task
def test_a_masked_image_adds_nothing_to_another_ones_gradient(model: MultiTaskModel, task: str) -> None:
    alone = gradients(model, first_of(BOTH), [task])
    assert distance(gradients(model, without(BOTH, task, [1]), [task]), alone) < 1e-4
    assert distance(gradients(model, BOTH, [task]), alone) > 1e-2


def test_boxes_of_an_image_without_annotated_boxes_do_not_matter(model: MultiTaskModel) -> None:
    batch = without(BOTH, "objects", [1])
    other = replace(
        batch,
        boxes=torch.stack([batch.boxes[0], torch.tensor([[0.0, 0, 64, 64], [0.0, 0, 0, 0]])]),
        classes=torch.tensor([[1, -1], [1, -1]]),
    )
    expected = gradients(model, batch, ["objects"])
    found = gradients(model, other, ["objects"])
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


@every_task
def test_the_other_tasks_are_trained_as_ever(model: MultiTaskModel, task: str) -> None:
    batch = without(BOTH, task, [0, 1])
    others = [name for name in TASKS if name != task]
    expected = gradients(model, batch, others)
    found = gradients(model, batch, TASKS)
    reached = {name: gradient for name, gradient in found.items() if name in expected}
    assert distance(reached, expected) < 1e-6
    assert all(not found[name].count_nonzero() for name in found.keys() - expected.keys())


def test_a_class_that_a_source_does_not_annotate(model: MultiTaskModel) -> None:
    unknown_nuts = {**BOTH.labels, "presence": torch.tensor([[0.0, NAN], [1.0, NAN]])}
    batch = replace(BOTH, labels=unknown_nuts)
    found = gradients(model, batch, ["presence"])
    layer = "heads.presence.pooled.logits.weight"
    assert found[layer][0].count_nonzero()
    assert not found[layer][1].count_nonzero()
    model.zero_grad(set_to_none=True)
    bolts = model(batch.images, batch.sizes)[1]["presence"][:, 0]
    F.binary_cross_entropy_with_logits(bolts, torch.tensor([0.0, 1.0])).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert distance(found, expected) < 1e-5


def test_images_of_two_sources_that_annotate_different_classes(model: MultiTaskModel) -> None:
    """Of the four labels two are known: each counts as it would in an image with no other."""
    mixed = torch.tensor([[0.0, NAN], [NAN, 1.0]])
    found = gradients(model, replace(BOTH, labels={**BOTH.labels, "presence": mixed}), ["presence"])
    model.zero_grad(set_to_none=True)
    logits = model(BOTH.images, BOTH.sizes)[1]["presence"]
    known = torch.stack([logits[0, 0], logits[1, 1]])
    F.binary_cross_entropy_with_logits(known, torch.tensor([0.0, 1.0])).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert distance(found, expected) < 1e-5
