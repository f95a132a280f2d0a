"""Files of weights in all the forms that torchvision has given them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.models import detection, get_model_weights
from torchvision.models._api import WeightsEnum

from tests.models.torchvision_files import (
    COCO,
    builder_state,
    example,
    saved,
    small_config,
    small_fcos,
    started,
)
from vision_mtl.models.weight_files import renamed


def old_names(state: dict[str, Tensor], retinanet: bool) -> dict[str, Tensor]:
    """Return the state with the names of the published files, as torchvision's modules read them."""
    found = {}
    for key, value in state.items():
        if ".fpn.inner_blocks." in key or ".fpn.layer_blocks." in key:
            key = key.replace(".0.weight", ".weight").replace(".0.bias", ".bias")
        key = key.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        if retinanet and "_head.conv." in key:
            start, number, _, last = key.rsplit(".", 3)
            key = f"{start}.{2 * int(number)}.{last}"
        found[key] = value
    return found


@pytest.mark.parametrize(
    "builder", ["fcos_resnet50_fpn", "retinanet_resnet50_fpn", "fasterrcnn_resnet50_fpn"]
)
def test_names_of_older_torchvisions(builder: str) -> None:
    state = builder_state(builder)
    retinanet = builder.startswith("retinanet")
    old = old_names(state, retinanet)
    assert old.keys() != state.keys()
    network = getattr(detection, builder)(weights=None, weights_backbone=None)
    network.load_state_dict(dict(old))  # torchvision understands them as its own
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    again = renamed(old, retinanet)
    assert again.keys() == state.keys()
    assert all(again[key] is state[key] for key in state)
    assert renamed(state, retinanet).keys() == state.keys()


def test_what_torchvisions_training_saves(tmp_path: Path) -> None:
    content = {
        "model": small_fcos(),
        "optimizer": {"state": {}},
        "args": argparse.Namespace(lr=0.1),
        "epoch": 3,
    }
    path = saved(tmp_path / "model_3.pth", content)
    model, report = started(small_config(tmp_path, path), COCO)
    assert torch.equal(model.trunk.body["conv1"].weight, small_fcos()["backbone.body.conv1.weight"])
    assert report.whole_heads() == ["objects"]


def test_half_precision_and_the_old_file_format(tmp_path: Path) -> None:
    state = {k: v.half() if v.is_floating_point() else v for k, v in small_fcos().items()}
    torch.save(state, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    model, _ = started(small_config(tmp_path, tmp_path / "old.pth"), COCO)
    conv = model.trunk.body["conv1"].weight
    assert conv.dtype == torch.float32
    assert torch.equal(conv, state["backbone.body.conv1.weight"].float())


def test_published_weights_are_asked_of_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, dict[str, Any]]] = []

    def get(self: WeightsEnum, **options: Any) -> dict[str, Tensor]:
        asked.append((self, options))
        return old_names(builder_state("fcos_resnet50_fpn"), False)

    monkeypatch.setattr(WeightsEnum, "get_state_dict", get)
    config = example("fcos_resnet50_fpn", "torchvision:fcos_resnet50_fpn/COCO_V1")
    _, report = started(config, COCO)
    ((member, options),) = asked
    assert member is get_model_weights("fcos_resnet50_fpn").COCO_V1
    assert options["check_hash"] is True
    assert options["weights_only"] is True
    assert report.notes == []  # nothing had to be assumed
    assert report.whole_heads() == ["objects"]
