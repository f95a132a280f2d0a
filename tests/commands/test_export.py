"""A network as a safetensors file: the same answers to the last bit, and nothing else is taken for one."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors
import torch

from tests.commands.helpers import HEADS, write_config
from tests.stress.checkpoints import damage
from tests.stress.workplace import ROOT
from vision_mtl.commands.evaluate import evaluate_checkpoint
from vision_mtl.commands.export import export_safetensors
from vision_mtl.commands.infer import infer_with_checkpoint
from vision_mtl.commands.operating_points import StoredPoints, store_points
from vision_mtl.commands.shared import open_checkpoint
from vision_mtl.commands.train import train_from_config
from vision_mtl.errors import CheckpointError
from vision_mtl.heads.base import LabelInfo
from vision_mtl.metrics.operating_point import Goal, OperatingPoint
from vision_mtl.models.multitask import build_model
from vision_mtl.models.shared_file import read_shared, write_shared
from vision_mtl.models.weight_files import read_weights
from vision_mtl.models.weights import load_weights
from vision_mtl.training.checkpoint import load_checkpoint

pytestmark = pytest.mark.usefixtures("narrow")
PARTS = {"config": {}, "labels": {}, "progress": {}, "operating_points": None}


@pytest.fixture(scope="module")
def checkpoint(narrow: None, tiny_coco_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    heads = HEADS + "  presence: {type: multilabel}\n"
    trunk = "{name: resnet18, channels: 32, norm: batch}"  # counters of batches, 0-dimensional int64
    train_from_config(write_config(folder, tiny_coco_root, heads, trunk=trunk), [], folder / "run")
    path = folder / "run/checkpoints/best.pt"
    points = OperatingPoint("bolt", 3, 0.25, 1.0, 1.0, 1.0, "")
    store_points(path, {"presence": [points]}, Goal("f1"), "val", open_checkpoint(path).progress)
    return path


@pytest.fixture(scope="module")
def shared(checkpoint: Path) -> Path:
    path = checkpoint.parent / "shared.safetensors"
    export_safetensors(str(checkpoint), path)
    return path


def test_the_same_network_comes_back(checkpoint: Path, shared: Path) -> None:
    own, other = open_checkpoint(checkpoint), open_checkpoint(shared)
    assert other.config == own.config
    assert other.labels == own.labels
    assert other.points == own.points == StoredPoints("f1", "val", {"presence": {"bolt": 0.25}})
    assert (other.progress.step, other.progress.epoch) == (own.progress.step, own.progress.epoch)
    mine, theirs = own.model.state_dict(), other.model.state_dict()
    assert mine.keys() == theirs.keys()
    assert any(tensor.dtype == torch.int64 for tensor in mine.values())
    for name, tensor in mine.items():
        assert tensor.dtype == theirs[name].dtype
        assert torch.equal(tensor, theirs[name])


def test_answers_and_numbers_are_the_same_to_the_last_bit(
    checkpoint: Path, shared: Path, tiny_coco_root: Path, tmp_path: Path
) -> None:
    for name, path in (("a", checkpoint), ("b", shared)):
        evaluate_checkpoint(str(path), [], "val", tmp_path / name)
        images = [str(tiny_coco_root / "images")]
        infer_with_checkpoint(images, str(path), tmp_path / name, 0.0, False, False)
    assert (tmp_path / "a/detections.json").read_bytes() == (tmp_path / "b/detections.json").read_bytes()
    assert (tmp_path / "a/predictions.csv").read_bytes() == (tmp_path / "b/predictions.csv").read_bytes()
    for key in ("heads", "losses", "per_class", "step"):
        first, second = (json.loads((tmp_path / f"{n}/metrics.json").read_text())[key] for n in "ab")
        assert first == second


def test_a_network_starts_from_it_as_from_the_checkpoint(checkpoint: Path, shared: Path) -> None:
    trained = open_checkpoint(checkpoint)
    states = []
    for path in (checkpoint, shared):
        config = trained.config.model()
        config.weights = str(path)
        torch.manual_seed(5)
        model = build_model(config, trained.labels)
        report = load_weights(model, config, trained.labels)
        assert report.fresh == []
        states.append(model.state_dict())
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_others_read_the_weights_with_the_format_s_own_library(checkpoint: Path, shared: Path) -> None:
    average = load_checkpoint(checkpoint)["average"]
    with safetensors.safe_open(shared, "pt") as file:
        assert set(file.keys()) == set(average)
        assert json.loads(file.metadata()["labels"])["kind"]["names"] == ["clean", "dirty"]
        assert all(torch.equal(file.get_tensor(name), tensor) for name, tensor in average.items())


def test_every_cut_and_every_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_shared(path, {"a": torch.arange(40.0), "b": torch.tensor(3)}, PARTS)
    assert read_shared(path)["average"]["b"] == 3
    content = path.read_bytes()
    draw = random.Random(0)
    for _ in range(300):
        path.write_bytes(damage(content, draw)[1])
        with pytest.raises(CheckpointError, match=r"a\.safetensors.*tools/export"):
            read_shared(path)


def packed(header: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header


FOREIGN: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "shorter than its header"),
    "without metadata": (lambda: packed(b"{}"), "__metadata__"),
    "of others": (lambda: packed(b'{"__metadata__": {"format": "pt"}}'), "sha256"),
    "metadata of numbers": (lambda: packed(b'{"__metadata__": {"format": 3}}'), "Expected `str`"),
    "a long header": (lambda: packed(b" " * (17 * 2**20)), "expected at most"),
    "a longer one than the file": (lambda: packed(b"{}", 2**62), "shorter than its header"),
    "deep": (lambda: packed(b'{"__metadata__": ' + b"[" * 100_000), "cannot read"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_network_of_ours_is_one_error(kind: str, tmp_path: Path) -> None:
    content, says = FOREIGN[kind]
    path = tmp_path / "other.safetensors"
    path.write_bytes(content())
    for read in (
        open_checkpoint,
        lambda file: read_weights(str(file), "objects", LabelInfo(("a",), (1,))),
    ):
        with pytest.raises(CheckpointError) as refused:
            read(path)
        assert says in str(refused.value)
        assert "other.safetensors" in str(refused.value)
        assert len(str(refused.value)) < 1000


def test_the_config_in_it_is_checked_like_any_other(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_shared(path, {}, {**PARTS, "config": {"heads": {"a": {"type": "os.system"}}}})
    with pytest.raises(Exception, match=r"os\.system") as refused:
        open_checkpoint(path)
    assert type(refused.value).__name__ == "ConfigError"
    write_shared(path, {}, {**PARTS, "labels": []})
    with pytest.raises(CheckpointError, match="no checkpoint of this version"):
        open_checkpoint(path)


def test_the_tool_writes_it_or_says_why_not(checkpoint: Path, shared: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"ends in \.safetensors"):
        export_safetensors(str(checkpoint), tmp_path / "a.pt")
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="cannot write"):
        export_safetensors(str(checkpoint), tmp_path / "file" / "a.safetensors")
    command = [sys.executable, str(ROOT / "tools/export.py"), "none.pt", "--output", "a.safetensors"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no checkpoint 'none.pt'")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
