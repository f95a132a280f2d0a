"""What joint training adds to a run: balancing that resumes, conflict that is shown, a learned context."""

import json
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.commands import helpers
from vision_mtl.commands.evaluate import evaluate_checkpoint
from vision_mtl.commands.train import train_from_config
from vision_mtl.errors import ConfigError
from vision_mtl.training import engine
from vision_mtl.training.checkpoint import load_checkpoint
from vision_mtl.training.context import TEMPERATURES

HEADS = """
  objects:  {type: fcos, depth: 1, norm: group, score_threshold: 0.0}
  presence: {type: multilabel, source: boxes}
"""
TRAINING = "{epochs: 2, warmup_steps: 2, log_every: 1, conflict_every: 2, precision: fp32}"
write_config = partial(helpers.write_config, heads=HEADS, training=TRAINING)


@pytest.mark.parametrize("method", ["famo", "gradvac"])  # a scalariser and an aggregator that have state
def test_an_interrupted_run_goes_on_with_its_balancing(
    method: str, tiny_coco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_config(tmp_path, tiny_coco_root)
    overrides = [f"balancing.method={method}", "training.epochs=4", "training.conflict_every=0"]
    train_from_config(config, overrides, tmp_path / "whole")
    judge, epochs = engine.judge, []

    def stop_in_the_third_epoch(*arguments: object) -> None:
        epochs.append(judge(*arguments))  # type: ignore[arg-type]
        if len(epochs) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(engine, "judge", stop_in_the_third_epoch)
    with pytest.raises(KeyboardInterrupt):
        train_from_config(config, overrides, tmp_path / "parts")
    monkeypatch.undo()
    train_from_config(config, overrides, tmp_path / "parts", resume=True)
    whole, parts = (
        load_checkpoint(tmp_path / name / "checkpoints/last.pt")["model"] for name in ("whole", "parts")
    )
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_conflict_is_measured_plotted_and_put_into_words(tiny_coco_root: Path, tmp_path: Path) -> None:
    metrics = train_from_config(write_config(tmp_path, tiny_coco_root), [], tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if line["kind"] == "conflict"]
    assert steps == [1, 3, 5, 7]
    (pair,) = metrics["conflict"]["pairs"]
    assert list(pair["tasks"]) == ["objects", "presence"]
    assert pair["steps"] == 4
    assert metrics["conflict"]["sentence"] in (tmp_path / "run/log.txt").read_text()
    assert json.loads((tmp_path / "run/metrics.json").read_text())["conflict"]["norms"].keys() == {
        "objects",
        "presence",
    }
    for suffix in ("png", "svg"):
        assert (tmp_path / f"run/plots/conflict.{suffix}").is_file()
    assert metrics["training_seconds"] > 0


def test_a_single_head_has_nothing_to_conflict_with(tiny_coco_root: Path, tmp_path: Path) -> None:
    overrides = ["heads={presence: {type: multilabel}}", "training.epochs=1"]
    metrics = train_from_config(write_config(tmp_path, tiny_coco_root), overrides, tmp_path / "run")
    assert "conflict" not in metrics
    assert not (tmp_path / "run/plots").exists()


def test_a_learned_context_is_kept_with_the_best_weights(tiny_coco_root: Path, tmp_path: Path) -> None:
    overrides = ["heads.objects.context=presence", "heads.presence.detections=objects"]
    metrics = train_from_config(write_config(tmp_path, tiny_coco_root), overrides, tmp_path / "run")
    best = tmp_path / "run/checkpoints/best.pt"
    found = metrics["context"]
    assert found["temperature"] in TEMPERATURES
    assert found["mAP_on"] >= found["mAP_off"]
    state = load_checkpoint(best)
    assert float(state["average"]["heads.objects.context_temperature"]) == pytest.approx(found["temperature"])
    assert state["metrics"]["heads"] == metrics["heads"]
    assert evaluate_checkpoint(str(best), [], "val", tmp_path / "again")["heads"] == metrics["heads"]


def test_missing_packages_of_a_method_are_found_before_a_folder_is_made(
    tiny_coco_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchjd import aggregation

    def missing() -> None:
        raise ImportError("UPGrad requires ['quadprog'] to be installed.")

    monkeypatch.setattr(aggregation, "UPGrad", missing)
    with pytest.raises(ConfigError, match="'upgrad' needs packages"):
        train_from_config(
            write_config(tmp_path, tiny_coco_root), ["balancing.method=upgrad"], tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()
