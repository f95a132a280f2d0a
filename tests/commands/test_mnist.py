"""`configs/mnist.yaml` on a few images: from gzipped idx files to a judged checkpoint."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.data.idx_files import idx_bytes, write_idx
from vision_mtl.commands.evaluate import evaluate_checkpoint
from vision_mtl.commands.shared import open_checkpoint
from vision_mtl.commands.train import train_from_config

CONFIG = str(Path(__file__).resolve().parents[2] / "configs/mnist.yaml")
TINY = ["data.batch_size=8", "data.eval_batch_size=8", "training.epochs=2", "training.log_every=1"]


def write_mnist(root: Path) -> None:
    """Write 20 training and 12 test images whose brightness tells their digit, under MNIST's names."""
    root.mkdir()
    for name, count in (("train", 20), ("t10k", 12)):
        labels = (np.arange(count) % 10).astype(np.uint8)
        noise = np.random.default_rng(count).integers(0, 20, (count, 28, 28), np.uint8)
        write_idx(root / f"{name}-images-idx3-ubyte.gz", idx_bytes(noise + 23 * labels[:, None, None]))
        write_idx(root / f"{name}-labels-idx1-ubyte.gz", idx_bytes(labels))


@pytest.fixture(scope="module", params=[0, 1])
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs, with that many loader processes."""
    folder = tmp_path_factory.mktemp("mnist")
    write_mnist(folder / "mnist")
    overrides = [f"data.root={folder / 'mnist'}", f"data.workers={request.param}", *TINY]
    train_from_config(CONFIG, overrides, folder / "run")
    return folder / "run"


def test_both_questions_are_trained_and_judged(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["images"] == 12
    assert {name: head["labelled"] for name, head in metrics["heads"].items()} == {
        "digit": 12,
        "greater_than_five": 12,
    }
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [1, 2, 3, 4]


def test_classes_are_the_numbers_and_the_groups(run: Path) -> None:
    trained = open_checkpoint(run / "checkpoints/best.pt")
    assert trained.labels["digit"].names == tuple("0123456789")
    assert trained.labels["greater_than_five"].names == ("no", "yes")


def test_the_checkpoint_is_judged_alike_again(run: Path, tmp_path: Path) -> None:
    again = evaluate_checkpoint(str(run / "checkpoints/best.pt"), [], "val", tmp_path / "again")
    assert again["heads"] == json.loads((run / "metrics.json").read_text())["heads"]
