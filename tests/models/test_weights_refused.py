"""Weights that are refused: another trunk, names that nobody published, files of something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torchvision.models import get_model_weights, resnet
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
from vision_mtl.errors import CheckpointError, ConfigError

# Trunks that do not fit


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trunk.name=resnet34", r"with \d+ missing \['trunk\.body\.layer1\.2"),
        ("trunk.channels=128", r"\d+ of another shape \['trunk\.fpn"),
        ("trunk.finest=2", r"with 4 missing \['trunk\.fpn\.inner_blocks\.3"),
        ("trunk.extra=none", r"with 4 unknown \['trunk\.fpn\.extra_blocks\.p6"),
        ("trunk.norm=group", r"unknown \['trunk\.body\.bn1\.running_mean"),
        ("trunk.pyramid_norm=batch", r"missing \['trunk\.fpn\.inner_blocks\.0\.1"),
    ],
)
def test_another_trunk_is_refused_and_nothing_changes(tmp_path: Path, override: str, message: str) -> None:
    config = small_config(tmp_path, saved(tmp_path / "file.pth", small_fcos()), override)
    with pytest.raises(CheckpointError, match=message) as error:
        started(config, COCO)
    assert str(error.value).startswith(f"weights: '{tmp_path}/file.pth' has another trunk, with ")
    assert str(error.value).endswith(": take the trunk of configs/torchvision_fcos.yaml")


@pytest.mark.parametrize("builder", ["retinanet_resnet50_fpn", "fasterrcnn_resnet50_fpn"])
def test_first_generation_weights_need_an_eps_of_0(tmp_path: Path, builder: str) -> None:
    weights = f"torchvision:{builder}/COCO_V1"
    assert example(builder, weights).trunk.norm_eps == 0
    with pytest.raises(ConfigError, match=r"set trunk\.norm_eps=0\.0 \(found 1e-05\); configs/torchvision_"):
        example(builder, weights, "trunk.norm_eps=0.00001")
    url = get_model_weights(builder).COCO_V1.url
    with pytest.raises(ConfigError, match=r"set trunk\.norm_eps=0\.0"):  # the same file, by its name
        example(builder, tmp_path / Path(url).name, "trunk.norm_eps=0.00001")
    _, report = started(example(builder, saved(tmp_path / "any.pth", builder_state(builder))), COCO)
    assert "tensors do not tell the eps of their norms" in report.notes[0]


@pytest.mark.parametrize(
    ("builder", "override", "message"),
    [
        ("fcos_resnet50_fpn", "trunk.norm_eps=0", r"set trunk\.norm_eps=1e-05 \(found 0\.0\)"),
        ("fcos_resnet50_fpn", "trunk.norm=group", r"set trunk\.norm=frozen or batch \(found group\)"),
        ("retinanet_resnet50_fpn_v2", "trunk.extra=p6p7_from_p5", r"set trunk\.extra=p6p7_from_c5"),
        ("fasterrcnn_resnet50_fpn_v2", "trunk.pyramid_norm=none", r"set trunk\.pyramid_norm=batch"),
    ],
)
def test_published_weights_name_the_trunk_they_need(builder: str, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        example(builder, f"torchvision:{builder}/COCO_V1", override)


# Names and files that cannot be used


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("torchvision:fcos_resnet50/COCO_V1", "did you mean 'fcos_resnet50_fpn'"),
        ("torchvision:ssd300_vgg16/COCO_V1", "with a builder of fcos_resnet50_fpn, retinanet_resnet50_fpn, "),
        ("torchvision:resnet50/IMAGENET1K_V2", "the weights of a plain ResNet go into trunk.weights"),
        ("torchvision:fcos_resnet50_fpn/COCO_V7", "expected one of torchvision:fcos_resnet50_fpn/COCO_V1, "),
        ("torchvision:fcos_resnet50_fpn", "expected one of torchvision:fcos_resnet50_fpn/COCO_V1, "),
    ],
)
def test_weights_that_torchvision_has_not(tmp_path: Path, weights: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        small_config(tmp_path, weights)
    assert f"weights: found '{weights}', expected" in str(error.value)
    assert message in str(error.value)


def test_weights_and_trunk_weights_are_one_too_many(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"weights and trunk\.weights: found both"):
        small_config(tmp_path, "any.pth", "trunk.weights=imagenet")


def test_no_network_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def get(self: WeightsEnum, **options: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", get)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    config = example("fcos_resnet50_fpn", "torchvision:fcos_resnet50_fpn/COCO_V1")
    with pytest.raises(CheckpointError) as error:
        started(config, COCO)
    text = str(error.value)
    assert "no route to host" in text
    assert "https://download.pytorch.org/models/fcos_resnet50_fpn_coco-99b0c9b7.pth" in text
    assert "set weights=<path of the file>" in text
    assert str(tmp_path) in text
    assert "\n" not in text


class Foreign:
    """Not what a file of weights may hold."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"weights: no file '.*file\.pth'; expected torchvision:<builder>/<WEIGHTS>"),
        (b"", "cannot read '.*file.pth': "),
        (b"<html>not found</html>", "cannot read '.*file.pth': "),
        (b"PK\x03\x04 cut", "cannot read '.*file.pth': "),
        ({"a": Foreign()}, "cannot read '.*file.pth': "),
        ([1, 2], "found no tensors by name at the top"),
        ({"model": [1]}, "found no tensors by name at the top"),
        ({1: torch.zeros(1)}, "found no tensors by name at the top"),
        ({}, r"no torchvision detector.*found the names \[\]"),
        (
            {"features.0.weight": torch.zeros(1)},
            r"found the names \['features\.0\.weight'\], expected some like",
        ),
        (resnet.resnet18(weights=None).state_dict(), "a plain ResNet's weights go into trunk.weights"),
        ({"average": {}, "labels": {}, "config": {}}, "no checkpoint of this version"),
    ],
)
def test_files_of_something_else(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "file.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(CheckpointError, match=message) as error:
        started(small_config(tmp_path, path), COCO)
    assert "\n" not in str(error.value)
