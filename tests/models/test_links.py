"""Heads that read one another: what is refused, and what each gives the other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.models.small import BATCH, HEADS, LABELS, TRUNK, predictions_of
from vision_mtl.errors import ConfigError
from vision_mtl.heads.base import LabelInfo
from vision_mtl.heads.classification import ClassificationConfig
from vision_mtl.heads.context import rescore
from vision_mtl.heads.faster_rcnn import FasterRcnnConfig
from vision_mtl.heads.fcos import FcosConfig
from vision_mtl.heads.multilabel import MultilabelConfig
from vision_mtl.heads.regression import RegressionConfig
from vision_mtl.heads.retinanet import RetinanetConfig
from vision_mtl.models.links import check_links, contexts
from vision_mtl.models.multitask import ModelConfig, MultiTaskModel, build_model
from vision_mtl.models.trunk import TrunkConfig

FCOS: dict[str, Any] = {"depth": 1, "norm": "group", "score_threshold": 0.0}
READERS: dict[str, Any] = {
    "presence": MultilabelConfig(detections="objects"),
    "state": ClassificationConfig(source="attribute", field="kind", detections="objects"),
    "number": RegressionConfig(source="count", detections="objects"),
}


def build(heads: dict[str, Any], labels: dict[str, LabelInfo] = LABELS) -> MultiTaskModel:
    config = ModelConfig(trunk=TRUNK, heads=heads)
    config.check()
    torch.manual_seed(0)
    return build_model(config, labels)


def cycle(**values: Any) -> MultiTaskModel:
    """Return a network in which each of two heads reads the other; what is read comes last."""
    objects = FcosConfig(**FCOS, context="presence", **values)
    return build({"presence": READERS["presence"], "objects": objects}).eval()


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        (
            {"objects": FcosConfig(context="presense"), "presence": MultilabelConfig()},
            r"heads\.objects\.context: found 'presense', which is no head here; expected the name of a "
            r"multilabel head: presence\. .*did you mean 'presence'",
        ),
        (
            {"objects": FasterRcnnConfig(context="state"), "state": HEADS["state"]},
            r"heads\.objects\.context: found 'state', a classification head; .*: none is here\. Add it, or "
            r"set heads\.objects\.context=null",
        ),
        (
            {"objects": RetinanetConfig(context="objects")},
            r"heads\.objects\.context: found 'objects', a retinanet head",
        ),
        (
            {"presence": MultilabelConfig(detections="objects")},
            r"heads\.presence\.detections: found 'objects', which is no head here; expected the name of a "
            r"dense detection head \(fcos or retinanet\): none is here",
        ),
        (
            {"objects": FasterRcnnConfig(), "state": READERS["state"]},
            r"heads\.state\.detections: found 'objects', a faster_rcnn head; .*\(fcos or retinanet\)",
        ),
        (
            {"objects": FcosConfig(), "number": RegressionConfig(source="count", detections="number")},
            r"heads\.number\.detections: found 'number', a regression head; .*: objects\.",
        ),
    ],
)
def test_what_cannot_be_read_is_refused(heads: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_links(heads)
    with pytest.raises(ConfigError, match=message):
        ModelConfig(trunk=TRUNK, heads=heads).check()


def test_a_head_taken_out_of_its_network_is_refused() -> None:
    model = build({"objects": FcosConfig(**FCOS), **READERS})
    with pytest.raises(ConfigError, match=r"heads\.state\.detections: found 'objects', which is no"):
        MultiTaskModel(model.trunk, {"state": model.named_heads()["state"]})


def test_a_context_that_knows_none_of_the_classes_is_refused() -> None:
    heads = {"objects": FcosConfig(**FCOS, context="presence"), "presence": MultilabelConfig()}
    labels = {**LABELS, "presence": LabelInfo(("screw", "gear"))}
    with pytest.raises(ConfigError, match=r"heads\.objects\.context: .*screw, gear.*: bolt, nut"):
        build(heads, labels)


@pytest.mark.parametrize(
    ("names", "slots"), [(("bolt", "nut"), [0, 1]), (("nut", "x", "bolt"), [2, 0]), (("Nut",), [-1, 0])]
)
def test_classes_are_matched_by_name(names: tuple[str, ...], slots: list[int]) -> None:
    heads = {"objects": FcosConfig(**FCOS, context="presence"), "presence": MultilabelConfig()}
    model = build(heads, {**LABELS, "presence": LabelInfo(names)})
    ((name, context),) = contexts(model.named_heads()).items()
    assert (name, context.head) == ("objects", "presence")
    assert context.slots.tolist() == slots


@pytest.mark.parametrize("kind", ["fcos", "faster_rcnn"])
def test_predictions_are_rescored_by_the_context(kind: str) -> None:
    trunk, objects = TRUNK, FcosConfig(**FCOS, context="presence")
    if kind == "faster_rcnn":
        trunk = TrunkConfig(name="resnet18", channels=32, finest=2, extra="p6")
        objects = FasterRcnnConfig(proposals=20, score_threshold=0.0, context="presence")
    config = ModelConfig(trunk=trunk, heads={"objects": objects, "presence": MultilabelConfig()})
    config.check()
    torch.manual_seed(0)
    model = build_model(config, LABELS).eval()
    temperature = model.get_buffer("heads.objects.context_temperature")
    off = predictions_of(model)
    temperature.fill_(0.5)
    on = predictions_of(model)
    for before, after, presence, same in zip(
        off["objects"], on["objects"], off["presence"], on["presence"], strict=True
    ):
        assert len(before.scores) > 1
        expected = rescore(before, presence.scores, torch.tensor([0, 1]), 0.5)
        assert torch.equal(after.scores, expected.scores)
        assert torch.equal(after.boxes, expected.boxes)
        assert not torch.equal(after.scores, before.scores)
        assert torch.equal(presence.scores, same.scores)
        assert (after.scores.diff() <= 0).all()


def test_without_a_temperature_a_context_changes_nothing() -> None:
    heads = {"objects": FcosConfig(**FCOS), "presence": MultilabelConfig()}
    plain = build(heads).eval()
    linked = build({**heads, "objects": FcosConfig(**FCOS, context="presence")}).eval()
    linked.load_state_dict({**linked.state_dict(), **plain.state_dict()})
    for ours, theirs in zip(predictions_of(linked)["objects"], predictions_of(plain)["objects"], strict=True):
        assert torch.equal(ours.scores, theirs.scores)
        assert torch.equal(ours.boxes, theirs.boxes)


def test_readers_start_as_if_they_read_nothing_and_then_listen() -> None:
    torch.manual_seed(0)
    plain, linked = build(HEADS).eval(), build({"objects": HEADS["objects"], **READERS}).eval()
    linked.load_state_dict({**linked.state_dict(), **plain.state_dict()})
    with torch.no_grad():
        before, same = (model(BATCH.images, BATCH.sizes)[1] for model in (plain, linked))
        for name in READERS:
            assert torch.equal(before[name], same[name])
            torch.nn.init.ones_(linked.get_parameter(f"heads.{name}.from_detections.linear.weight"))
        features, after = linked(BATCH.images, BATCH.sizes)
        head = linked.named_heads()["objects"]
        evidence = head.evidence(after["objects"], features)
        for name in READERS:
            added = linked.get_submodule(f"heads.{name}.from_detections")(evidence)
            assert added.abs().min() > 0
            torch.testing.assert_close(after[name], before[name] + added.view_as(before[name]))


def gradient_by_layer(model: MultiTaskModel, losses: Tensor) -> dict[str, Tensor | None]:
    parameters = dict(model.named_parameters())
    found = torch.autograd.grad(losses, list(parameters.values()), allow_unused=True)
    return dict(zip(parameters, found, strict=True))


def test_no_gradient_flows_back_through_evidence() -> None:
    model = build({"objects": FcosConfig(**FCOS), **READERS})
    with torch.no_grad():
        for name in READERS:
            torch.nn.init.ones_(model.get_parameter(f"heads.{name}.from_detections.linear.weight"))
            model.get_parameter(f"heads.{name}.pooled.logits.weight").zero_()  # the other way
    features, outputs = model(BATCH.images, BATCH.sizes)
    losses = model.losses(features, outputs, BATCH)
    total = torch.stack([term for name in READERS for term in losses[name].values()]).sum()
    for name, gradient in gradient_by_layer(model, total).items():
        if name.startswith("heads.objects."):
            assert gradient is None, name
        elif name.startswith("trunk."):
            assert gradient is None or not gradient.any(), name
        elif name.endswith("from_detections.linear.weight"):
            assert gradient is not None
            assert gradient.any(), name


def test_two_heads_may_read_each_other() -> None:
    model = cycle()
    assert list(predictions_of(model)) == ["presence", "objects"]
    torch.nn.init.ones_(model.get_parameter("heads.presence.from_detections.linear.weight"))
    off = predictions_of(model)
    model.get_buffer("heads.objects.context_temperature").fill_(1.0)
    on = predictions_of(model)
    for before, after, presence, same in zip(
        off["objects"], on["objects"], off["presence"], on["presence"], strict=True
    ):
        assert torch.equal(presence.scores, same.scores)  # it reads raw scores: nothing goes round
        expected = rescore(before, presence.scores, torch.tensor([0, 1]), 1.0)
        assert torch.equal(after.scores, expected.scores)


def test_frozen_detections_are_still_read_in_training() -> None:
    model = build({"objects": FcosConfig(**FCOS), "presence": READERS["presence"]})
    model.named_heads()["objects"].freeze()
    model.train()
    _, outputs = model(BATCH.images, BATCH.sizes)
    assert list(outputs) == ["presence"]
    assert outputs["presence"].requires_grad
