"""Checkpoints of one set of heads as weights of another: linked heads, and pyramids of one side only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from tests.models.small import HEADS, LABELS, TRUNK
from vision_mtl.heads.base import LabelInfo
from vision_mtl.heads.fcos import FcosConfig
from vision_mtl.heads.multilabel import MultilabelConfig
from vision_mtl.models.multitask import ModelConfig, MultiTaskModel, build_model
from vision_mtl.models.weights import WeightsReport, load_weights

PLAIN: dict[str, Any] = {"objects": HEADS["objects"], "presence": HEADS["presence"]}
LINKED: dict[str, Any] = {
    "objects": FcosConfig(depth=1, context="presence"),
    "presence": MultilabelConfig(detections="objects"),
}
LABELS_ALONE: dict[str, Any] = {"state": HEADS["state"], "number": HEADS["number"]}
EVIDENCE = "heads.presence.from_detections.linear.weight"
TEMPERATURE = "heads.objects.context_temperature"


def trained(path: Path, heads: dict[str, Any]) -> dict[str, Any]:
    """Write a checkpoint of a network with such heads, whose links do something; return its tensors."""
    torch.manual_seed(1)
    config = ModelConfig(trunk=TRUNK, heads=heads)
    state = build_model(config, LABELS).state_dict()
    if EVIDENCE in state:
        state[EVIDENCE].normal_()
        state[TEMPERATURE].fill_(0.3)
    labels = {name: msgspec.to_builtins(LABELS[name]) for name in heads}
    torch.save({"average": state, "labels": labels, "config": msgspec.to_builtins(config)}, path)
    return state


def started(
    path: Path, heads: dict[str, Any], labels: dict[str, LabelInfo] = LABELS
) -> tuple[MultiTaskModel, WeightsReport]:
    """Return a network with such heads that starts from a checkpoint."""
    config = ModelConfig(trunk=TRUNK, heads=heads, weights=str(path))
    config.check()
    torch.manual_seed(2)
    model = build_model(config, labels)
    return model, load_weights(model, config, labels)


def test_links_are_loaded_with_their_heads(tmp_path: Path) -> None:
    state = trained(tmp_path / "best.pt", LINKED)
    model, report = started(tmp_path / "best.pt", LINKED)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert report.fresh == report.skipped == []
    assert report.whole_heads() == ["objects", "presence"]


def test_links_that_the_file_has_not_are_off_and_its_heads_are_whole(tmp_path: Path) -> None:
    state = trained(tmp_path / "best.pt", PLAIN)
    model, report = started(tmp_path / "best.pt", LINKED)
    own = model.state_dict()
    assert own.keys() - state.keys() == {EVIDENCE, TEMPERATURE} == set(report.fresh)
    assert not own[EVIDENCE].any()
    assert not own[TEMPERATURE]
    assert report.whole_heads() == ["objects", "presence"]


@pytest.mark.parametrize("head", ["objects", "presence"])
def test_evidence_of_other_classes_is_not_read(tmp_path: Path, head: str) -> None:
    state = trained(tmp_path / "best.pt", LINKED)
    turned = LabelInfo(("nut", "bolt"), (7, 3) if head == "objects" else ())
    model, report = started(tmp_path / "best.pt", LINKED, {**LABELS, head: turned})
    assert not model.state_dict()[EVIDENCE].any()
    assert report.fresh == report.skipped == [EVIDENCE]
    assert report.whole_heads() == ["objects"]  # the other one was trained with it
    rows = model.state_dict()["heads.presence.pooled.logits.bias"]
    expected = state["heads.presence.pooled.logits.bias"]
    assert torch.equal(rows, expected.flip(0) if head == "presence" else expected)


def test_label_heads_take_the_trunk_of_a_detector_without_its_pyramid(tmp_path: Path) -> None:
    state = trained(tmp_path / "best.pt", {**HEADS})
    model, report = started(tmp_path / "best.pt", LABELS_ALONE)
    own = model.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in own.items())
    assert report.fresh == []
    assert report.whole_heads() == list(LABELS_ALONE)
    assert {key.split(".")[1] for key in report.skipped} == {"fpn", "objects", "presence"}


def test_a_detector_takes_the_trunk_of_label_heads_with_a_fresh_pyramid(tmp_path: Path) -> None:
    state = trained(tmp_path / "best.pt", LABELS_ALONE)
    model, report = started(tmp_path / "best.pt", PLAIN)
    own = model.state_dict()
    body = [key for key in own if key.startswith("trunk.body.")]
    assert body
    assert all(torch.equal(own[key], state[key]) for key in body)
    assert {key.split(".")[1] for key in report.fresh} == {"fpn", "objects", "presence"}
