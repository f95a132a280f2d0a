"""A head more on a trained network: what it could already answer does not change by a bit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tests.commands.helpers import write_config
from vision_mtl.commands.shared import open_checkpoint
from vision_mtl.commands.train import train_from_config
from vision_mtl.config import load_config, to_tree
from vision_mtl.errors import CheckpointError
from vision_mtl.models.precision import mixed_precision
from vision_mtl.structures import ClassScores, Detections, ImageMeta, Prediction, Scalar
from vision_mtl.training.checkpoint import load_checkpoint

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TRUNK = "name: resnet18, channels: 32, pyramid_norm: batch"  # statistics in every part
OLD = """
  objects:  {type: fcos, depth: 1, norm: batch, score_threshold: 0.0}
  kind:     {type: classification, source: attribute, field: kind}
  count:    {type: regression, source: count}
"""
NEW = "  presence: {type: multilabel}\n"
FROZEN = OLD.replace("}", ", frozen: true}")
TRAINING = "{epochs: 2, warmup_steps: 1, lr: 0.01, weight_decay: 0.5, precision: fp32, log_every: 1}"


def add_head(folder: Path, root: Path, weights: Path, heads: str = FROZEN + NEW) -> str:
    return write_config(
        folder, root, heads, f"weights: {weights}", trunk=f"{{{TRUNK}, freeze: 6}}", training=TRAINING
    )


@pytest.fixture(scope="module")
def first(tiny_coco_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the network without the new head."""
    folder = tmp_path_factory.mktemp("first")
    train_from_config(write_config(folder, tiny_coco_root, OLD, trunk=f"{{{TRUNK}}}"), [], folder / "run")
    return folder / "run"


@pytest.fixture(scope="module")
def second(first: Path, tiny_coco_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the new head on it."""
    folder = tmp_path_factory.mktemp("second")
    config = add_head(folder, tiny_coco_root, first / "checkpoints/best.pt")
    train_from_config(config, [], folder / "run")
    return folder / "run"


def answers(run: Path, dtype: torch.dtype) -> dict[str, Sequence[Prediction]]:
    """Return what a run's best weights say of four random images."""
    model = open_checkpoint(run / "checkpoints/best.pt").model
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 64, 96), generator=generator, dtype=torch.uint8)
    sizes = torch.tensor([[64, 96], [40, 96], [64, 50], [64, 96]])
    metas = [ImageMeta(i, "", (h, w), (1.0, 1.0)) for i, (h, w) in enumerate(sizes.tolist())]
    with torch.no_grad():
        with mixed_precision(torch.device("cpu"), dtype):
            features, outputs = model(images, sizes)
        return model.predict(model.decode(features, outputs), metas)


def same(a: Prediction, b: Prediction) -> bool:
    if isinstance(a, Scalar) and isinstance(b, Scalar):
        return a.value == b.value
    if isinstance(a, ClassScores) and isinstance(b, ClassScores):
        return torch.equal(a.scores, b.scores)
    assert isinstance(a, Detections)
    assert isinstance(b, Detections)
    assert len(a.scores) > 0
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("boxes", "scores", "classes"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_old_answers_are_the_same_to_the_last_bit(first: Path, second: Path, dtype: torch.dtype) -> None:
    before, after = answers(first, dtype), answers(second, dtype)
    assert after.keys() - before.keys() == {"presence"}
    for name, predictions in before.items():
        assert len(predictions) == len(after[name]) == 4
        assert all(same(a, b) for a, b in zip(predictions, after[name], strict=True)), name


def test_the_old_metrics_are_the_same(first: Path, second: Path) -> None:
    before, after = (json.loads((run / "metrics.json").read_text())["heads"] for run in (first, second))
    assert {name: after[name] for name in before} == before
    assert after["presence"]["mAP"] is not None


def assert_kept(run: Path, first: Path) -> None:
    """Check that all but the new head is, in the raw and in the averaged weights, what it was at first."""
    kept = load_checkpoint(first / "checkpoints/best.pt")["average"]
    state = load_checkpoint(run / "checkpoints/last.pt")
    for weights in (state["model"], state["average"]):
        assert {key.split(".")[1] for key in weights.keys() - kept.keys()} == {"presence"}
        assert all(torch.equal(weights[key], value) for key, value in kept.items())


def test_nothing_but_the_new_head_is_trained(first: Path, second: Path) -> None:
    assert_kept(second, first)
    state = load_checkpoint(second / "checkpoints/last.pt")
    new = [key for key in state["model"] if key.startswith("heads.presence.")]
    assert not any(torch.equal(state["model"][key], state["average"][key]) for key in new)
    assert sum(len(group["params"]) for group in state["optimizer"]["param_groups"]) == len(new)
    lines = [json.loads(line) for line in (second / "metrics.jsonl").read_text().splitlines()]
    trained, judged = ([set(x["losses"]) for x in lines if x["kind"] == kind] for kind in ("train", "val"))
    assert trained == [{"presence"}] * 8
    assert judged == [{"objects", "kind", "count", "presence"}] * 2


def test_a_table_says_what_was_loaded(second: Path) -> None:
    lines = (second / "log.txt").read_text().splitlines()
    parts = ("part", "heads.kind.pooled", "heads.presence.pooled")
    header, old, new = (next(line for line in lines if line.split()[:1] == [part]) for part in parts)
    # Numbers end where their column's name does.
    assert old[: header.index("loaded") + len("loaded")].endswith(" 2")
    assert new[: header.index("fresh") + len("fresh")].endswith(" 2")
    assert (old.split()[1:], new.split()[1:]) == (["2"], ["2"])


@pytest.mark.parametrize("method", ["uw", "famo", "pcgrad"])
def test_balancing_is_left_to_the_trained_heads(
    first: Path, tiny_coco_root: Path, tmp_path: Path, method: str
) -> None:
    config = add_head(tmp_path, tiny_coco_root, first / "checkpoints/best.pt")
    train_from_config(config, [f"balancing.method={method}", "training.max_steps=3"], tmp_path / "run")
    assert_kept(tmp_path / "run", first)


def test_a_frozen_head_that_the_file_does_not_fill_is_refused(
    first: Path, tiny_coco_root: Path, tmp_path: Path
) -> None:
    heads = FROZEN.replace("source: count", "source: count, features: c4") + NEW
    config = add_head(tmp_path, tiny_coco_root, first / "checkpoints/best.pt", heads)
    with pytest.raises(CheckpointError, match=r"best\.pt' does not fill the frozen head count to the last"):
        train_from_config(config, [], tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_recipe_is_that_of_shapes_with_one_head_more() -> None:
    old, new = (to_tree(load_config(CONFIGS / name)) for name in ("shapes.yaml", "add_head.yaml"))
    assert new["weights"] == "runs/shapes-1/checkpoints/best.pt"
    assert new["trunk"] == {**old["trunk"], "freeze": 6}
    assert new["data"] == {**old["data"], "batch_size": new["data"]["batch_size"]}
    added = {name: head for name, head in new["heads"].items() if name not in old["heads"]}
    assert list(added) == ["dominant"]
    kept = {name: {**head, "frozen": True, "weight": 1.0} for name, head in old["heads"].items()}
    assert new["heads"] == {**kept, **added}
