"""One trunk, any heads by name: several, or just one."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import torch

from tests.models.small import BATCH, HEADS, LABELS, TRUNK, predictions_of
from vision_mtl.errors import ConfigError
from vision_mtl.heads.faster_rcnn import FasterRcnnConfig
from vision_mtl.heads.fcos import FcosConfig
from vision_mtl.heads.multilabel import MultilabelConfig
from vision_mtl.heads.retinanet import RetinanetConfig
from vision_mtl.models.multitask import ModelConfig, MultiTaskModel, build_model
from vision_mtl.models.trunk import TrunkConfig
from vision_mtl.structures import Batch, ClassScores, Detections, Scalar

TWO_STAGE = TrunkConfig(name="resnet18", channels=32, finest=2, extra="p6")
# Networks of one head: the trunk, the head, its answer.
ALONE: dict[str, tuple[TrunkConfig, str, Any, type]] = {
    "fcos": (TRUNK, "objects", HEADS["objects"], Detections),
    "retinanet": (TRUNK, "objects", RetinanetConfig(depth=1, anchor_scale=2.0), Detections),
    "faster_rcnn": (TWO_STAGE, "objects", FasterRcnnConfig(proposals=20, proposals_train=20), Detections),
    "classification": (TRUNK, "state", HEADS["state"], ClassScores),
    "multilabel": (TRUNK, "presence", HEADS["presence"], ClassScores),
    "multilabel on the pyramid": (TRUNK, "presence", MultilabelConfig(features="pyramid"), ClassScores),
    "regression": (TRUNK, "number", HEADS["number"], Scalar),
}


@pytest.fixture
def model() -> MultiTaskModel:
    torch.manual_seed(0)
    return build_model(ModelConfig(trunk=TRUNK, heads=HEADS), LABELS)


@pytest.fixture
def batch() -> Batch:
    return BATCH


def test_all_heads_share_one_pass_of_the_trunk(model: MultiTaskModel, batch: Batch) -> None:
    passes: dict[str, int] = {}
    for name, module in [("trunk", model.trunk), ("fpn", model.trunk.fpn), *model.named_heads().items()]:
        passes[name] = 0

        def count(*_: Any, name: str = name) -> None:
            passes[name] += 1

        module.register_forward_hook(count)
    features, outputs = model(batch.images, batch.sizes)
    model.losses(features, outputs, batch)
    model.decode(features, outputs)
    assert passes == dict.fromkeys(["trunk", "fpn", *HEADS], 1)


def test_heads_know_their_names_and_answer_under_them(model: MultiTaskModel, batch: Batch) -> None:
    assert {name: head.name for name, head in model.named_heads().items()} == {name: name for name in HEADS}
    model.eval()
    with torch.no_grad():
        features, outputs = model(batch.images, batch.sizes)
        found = model.predict(model.decode(features, outputs), batch.metas)
    assert list(found) == list(HEADS)
    kinds = {"objects": Detections, "presence": ClassScores, "state": ClassScores, "number": Scalar}
    for name, kind in kinds.items():
        assert len(found[name]) == 2
        assert all(isinstance(answer, kind) for answer in found[name])
    described = model.describe({name: answers[1] for name, answers in found.items()})
    assert list(described) == list(HEADS)
    assert {row["category"] for row in described["objects"]} <= {"bolt", "nut"}
    assert described["state"]["label"] in LABELS["state"].names


def test_detections_are_in_each_images_original_frame(model: MultiTaskModel, batch: Batch) -> None:
    model.eval()
    with torch.no_grad():
        features, outputs = model(batch.images, batch.sizes)
        found = model.predict(model.decode(features, outputs), batch.metas)["objects"]
    for detections, (height, width) in zip(found, [(64, 96), (96, 160)], strict=True):
        assert isinstance(detections, Detections)
        assert len(detections.scores)
        assert (detections.boxes >= 0).all()
        assert (detections.boxes <= torch.tensor([width, height, width, height])).all()
        assert float(detections.boxes[:, 2].max()) > 0.9 * width  # and use all of it


def test_every_parameter_gets_a_gradient_from_its_losses(model: MultiTaskModel, batch: Batch) -> None:
    features, outputs = model(batch.images, batch.sizes)
    losses = model.losses(features, outputs, batch)
    assert list(losses) == list(HEADS)
    torch.stack([term for terms in losses.values() for term in terms.values()]).sum().backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == []


def test_losses_are_float32_after_a_forward_pass_in_bfloat16(model: MultiTaskModel, batch: Batch) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        features, outputs = model(batch.images, batch.sizes)
    assert features.pyramid[0].dtype == torch.bfloat16
    terms = [term for terms in model.losses(features, outputs, batch).values() for term in terms.values()]
    assert {term.dtype for term in terms} == {torch.float32}
    assert all(term.isfinite() for term in terms)


def test_weights_survive_saving(model: MultiTaskModel, batch: Batch) -> None:
    torch.manual_seed(9)
    other = build_model(
        ModelConfig(trunk=TrunkConfig(name="resnet18", channels=32, extra="none"), heads=HEADS), LABELS
    )
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        first = model.eval()(batch.images, batch.sizes)[1]
        second = other.eval()(batch.images, batch.sizes)[1]
    assert torch.equal(first["objects"].logits, second["objects"].logits)
    assert all(torch.equal(first[name], second[name]) for name in ("presence", "state", "number"))


def config(heads: dict[str, Any], **trunk: Any) -> ModelConfig:
    return ModelConfig(trunk=TrunkConfig(**trunk), heads=heads)


def test_a_usable_config_passes() -> None:
    usable = config(HEADS)
    usable.check()
    assert build_model(usable, LABELS).named_heads().keys() == HEADS.keys()


def test_two_detection_heads_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"2 detection heads \(cars, people\), expected one"):
        config({"cars": FcosConfig(), "state": HEADS["state"], "people": FcosConfig()}).check()


def test_no_heads_are_refused() -> None:
    with pytest.raises(ConfigError, match="heads: found none"):
        config({}).check()


@pytest.mark.parametrize("name", ["", "two words", "a.b", "1st", "a-b", "type", "keys", "training", "float"])
def test_names_that_cannot_be_used_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"heads: found the name '{name}'"):
        config({name: HEADS["state"]}).check()


def test_heads_and_trunk_are_checked_too() -> None:
    with pytest.raises(ConfigError, match=r"heads\.objects\.bins: found 1"):
        config({"objects": FcosConfig(bins=1)}).check()
    for key, value in (("weight", 0.0), ("lr_factor", -0.5)):  # a loss of 0 would poison a balancer
        with pytest.raises(ConfigError, match=rf"heads\.objects\.{key}: found {value}"):
            config({"objects": FcosConfig(**{key: value})}).check()
    with pytest.raises(ConfigError, match=r"trunk\.norm: found 'frozen'"):
        config(HEADS, norm="frozen").check()


@pytest.mark.parametrize("kind", ALONE)
def test_a_network_of_one_head_trains_and_answers(kind: str) -> None:
    trunk, name, head, answer = ALONE[kind]
    alone = ModelConfig(trunk=trunk, heads={name: head})
    alone.check()
    torch.manual_seed(0)
    network = build_model(alone, LABELS)
    features, outputs = network(BATCH.images, BATCH.sizes)
    losses = network.losses(features, outputs, BATCH)
    assert list(losses) == [name]
    torch.stack(list(losses[name].values())).sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    found = predictions_of(network.eval())
    assert list(found) == [name]
    assert [type(prediction) for prediction in found[name]] == [answer, answer]
    assert list(network.describe({name: found[name][0]})) == [name]


@pytest.mark.parametrize("kind", ["classification", "multilabel", "regression"])
def test_a_label_head_alone_needs_no_pyramid_and_answers_as_beside_a_detector(
    kind: str, model: MultiTaskModel
) -> None:
    _, name, head, _ = ALONE[kind]
    alone = build_model(ModelConfig(trunk=TRUNK, heads={name: head}), LABELS)
    state = model.state_dict()
    assert state.keys() - alone.state_dict().keys() == {
        key for key in state if not key.startswith(("trunk.body.", f"heads.{name}."))
    }
    alone.load_state_dict({key: value for key, value in state.items() if key in alone.state_dict()})
    with torch.no_grad():
        features, outputs = alone.eval()(BATCH.images, BATCH.sizes)
        _, expected = model.eval()(BATCH.images, BATCH.sizes)
    assert features.pyramid == features.strides == []
    assert torch.equal(outputs[name], expected[name])


@pytest.mark.parametrize("freeze", [0, 5, 6])
def test_a_trunk_without_a_pyramid_freezes_and_holds_the_rest(freeze: int) -> None:
    trunk = msgspec.structs.replace(TRUNK, freeze=freeze)
    network = build_model(ModelConfig(trunk=trunk, heads={"state": HEADS["state"]}), LABELS)
    network.train()
    for held in (True, False):
        network.trunk.hold(held)
        learns = [parameter.requires_grad for parameter in network.trunk.parameters()]
        assert any(learns) == (freeze == 0 and not held)
