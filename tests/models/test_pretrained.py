"""torchvision's weights into the trunk, and what is said when they do not fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torchvision.models import resnet
from torchvision.models._api import WeightsEnum

from vision_mtl.errors import CheckpointError
from vision_mtl.models.pretrained import load_trunk_weights
from vision_mtl.models.trunk import Trunk, TrunkConfig


def load(weights: str | Path | None, norm: Any = "batch") -> Trunk:
    config = TrunkConfig(
        name="resnet18", norm=norm, weights=None if weights is None else str(weights), channels=8
    )
    trunk = Trunk(config)
    load_trunk_weights(trunk, config)
    return trunk


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def test_old_files_count_no_batches(tmp_path: Path) -> None:
    state = {k: v for k, v in resnet.resnet18(weights=None).state_dict().items() if "num_batches" not in k}
    trunk = load(saved(tmp_path / "weights.pth", state))
    assert torch.equal(trunk.body["conv1"].weight, state["conv1.weight"])


@pytest.mark.parametrize("norm", ["batch", "frozen"])
def test_every_weight_and_statistic_of_the_body_is_taken(tmp_path: Path, norm: str) -> None:
    state = resnet.resnet18(weights=None).state_dict()
    trunk = load(saved(tmp_path / "weights.pth", state), norm)
    own = trunk.body.state_dict()
    assert len(own) == sum(
        not key.startswith("fc.") and (norm == "batch" or "num_batches" not in key) for key in state
    )
    assert all(torch.equal(value, state[name]) for name, value in own.items())


def test_imagenet_asks_torchvision_and_checks_what_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, dict[str, Any]]] = []
    state = resnet.resnet18(weights=None).state_dict()

    def get(self: WeightsEnum, **options: Any) -> dict[str, torch.Tensor]:
        asked.append((self, options))
        return state

    monkeypatch.setattr(WeightsEnum, "get_state_dict", get)
    trunk = load("imagenet", "frozen")
    ((weights, options),) = asked
    assert weights is resnet.ResNet18_Weights.DEFAULT
    assert options["check_hash"] is True
    assert options["weights_only"] is True
    assert torch.equal(trunk.body["conv1"].weight, state["conv1.weight"])


def test_no_weights_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(self: WeightsEnum, **options: Any) -> None:
        raise AssertionError("asked")

    monkeypatch.setattr(WeightsEnum, "get_state_dict", get)
    torch.manual_seed(3)
    trunk = load(None)
    torch.manual_seed(3)
    fresh = Trunk(TrunkConfig(name="resnet18", channels=8))
    assert torch.equal(trunk.body["conv1"].weight, fresh.body["conv1"].weight)


@pytest.mark.parametrize(
    "error",
    [
        URLError("no route to host"),
        TimeoutError("timed out"),
        RuntimeError("invalid hash value"),
    ],
)
def test_a_failed_download_says_what_to_do(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def get(self: WeightsEnum, **options: Any) -> None:
        raise error

    monkeypatch.setattr(WeightsEnum, "get_state_dict", get)
    with pytest.raises(
        CheckpointError, match=r"download https.*resnet18.*set trunk\.weights=<path"
    ) as raised:
        load("imagenet")
    assert str(error) in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no file '.*nowhere\.pth'"):
        load(tmp_path / "nowhere.pth")
    with pytest.raises(CheckpointError, match="no file"):
        load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"\x80\x02garbage", b"PK\x03\x04 cut"])
def test_a_file_of_something_else_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"cannot read '.*weights\.pth'"):
        load(path)


@pytest.mark.parametrize(
    "content",
    [[1, 2], {"epoch": 3}, torch.zeros(3), {"model": {"conv1.weight": torch.zeros(1)}}, {"a": None}],
)
def test_a_torch_file_without_a_state_dict_is_named(tmp_path: Path, content: Any) -> None:
    with pytest.raises(CheckpointError, match=r"weights\.pth'; expected .* torchvision ResNet state dict"):
        load(saved(tmp_path / "weights.pth", content))


def test_another_architecture_is_counted_and_named(tmp_path: Path) -> None:
    deeper = saved(tmp_path / "34.pth", resnet.resnet34(weights=None).state_dict())
    with pytest.raises(CheckpointError, match=r"norm batch: 0 missing .* unknown \['layer1\.2"):
        load(deeper)
    wider = saved(tmp_path / "50.pth", resnet.resnet50(weights=None).state_dict())
    with pytest.raises(CheckpointError, match=r"not a resnet18.*of another shape \['layer"):
        load(wider)
    part = resnet.resnet18(weights=None).state_dict()
    del part["layer4.1.conv2.weight"]
    with pytest.raises(CheckpointError, match=r"1 missing \['layer4\.1\.conv2\.weight'\], 0 unknown"):
        load(saved(tmp_path / "part.pth", part))


def test_batch_norms_weights_do_not_fit_group_norm(tmp_path: Path) -> None:
    state = resnet.resnet18(weights=None).state_dict()
    with pytest.raises(CheckpointError, match=r"norm group: 0 missing.*running_mean"):
        load(saved(tmp_path / "weights.pth", state), "group")


def test_weights_that_do_not_fit_change_nothing(tmp_path: Path) -> None:
    config = TrunkConfig(name="resnet18", weights=str(tmp_path / "50.pth"), channels=8)
    torch.save(resnet.resnet50(weights=None).state_dict(), tmp_path / "50.pth")
    trunk = Trunk(config)
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    with pytest.raises(CheckpointError):
        load_trunk_weights(trunk, config)
    assert all(torch.equal(value, before[name]) for name, value in trunk.state_dict().items())
