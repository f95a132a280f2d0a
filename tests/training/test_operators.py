"""How much a training step asks of the machine, counted in operators and not in seconds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.training.test_step import LABELS, batch, heads
from vision_mtl.heads.fcos import FcosConfig
from vision_mtl.heads.retinanet import RetinanetConfig
from vision_mtl.models.multitask import ModelConfig, MultiTaskModel, build_model
from vision_mtl.models.trunk import TrunkConfig
from vision_mtl.structures import Batch

DETECTORS = {
    "fcos atss": FcosConfig(depth=1),
    "fcos centre": FcosConfig(depth=1, assigner="centre", class_loss="focal", bins=0),
    "fcos task_aligned": FcosConfig(depth=1, assigner="task_aligned", quality="none"),
    "retinanet": RetinanetConfig(depth=1, anchor_scale=2.0),
}


class Operators(TorchDispatchMode):
    """Counts what is asked of the device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def build(detector: Any) -> MultiTaskModel:
    torch.manual_seed(0)
    trunk = TrunkConfig(name="resnet18", channels=32)
    return build_model(ModelConfig(trunk=trunk, heads={**heads(), "objects": detector}), LABELS)


def many_objects(images: int, objects: int) -> Batch:
    """Return a batch whose images have `objects` boxes each, one of them a crowd."""
    found = batch(tuple(range(images)))
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(images, objects, 2, generator=generator) * 40
    ignore = torch.zeros(images, objects, dtype=torch.bool)
    ignore[:, -1] = True
    return replace(
        found,
        boxes=torch.cat([corners, corners + 20], -1),
        classes=torch.zeros(images, objects, dtype=torch.int64),
        ignore=ignore,
    )


def operators(model: MultiTaskModel, given: Batch, *, training: bool) -> int:
    """Return how many operators losses and gradients take, or an answer up to its fixed-shape tensors."""
    model.train(training)
    with torch.set_grad_enabled(training), Operators() as counted:
        features, outputs = model(given.images, given.sizes)
        if training:
            losses = model.losses(features, outputs, given)
            torch.stack([loss for terms in losses.values() for loss in terms.values()]).sum().backward()
        else:
            model.decode(features, outputs)
    model.zero_grad()
    return counted.count


@pytest.mark.parametrize("kind", DETECTORS)
@pytest.mark.parametrize("training", [True, False])
def test_more_images_and_objects_are_no_more_operators(kind: str, training: bool) -> None:
    """Nothing loops over images or objects: neither targets, nor losses, nor decoding."""
    model = build(DETECTORS[kind])
    operators(model, many_objects(2, 2), training=training)  # what is made once is made now
    one = operators(model, many_objects(2, 2), training=training)
    many = operators(model, many_objects(4, 30), training=training)
    assert many == one


def test_image_heads_are_few_operators_more() -> None:
    """What two heads cost beside the detector: one reads c4, one the five levels of the pyramid."""
    joint, alone = build(FcosConfig()), build(FcosConfig())
    del alone.heads["kind"], alone.heads["size"]
    given = many_objects(2, 3)
    assert operators(joint, given, training=False) - operators(alone, given, training=False) <= 130
    assert operators(joint, given, training=True) - operators(alone, given, training=True) <= 220
