"""Thresholds from an evaluation, through the checkpoint, to inference."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.commands.helpers import write_config
from vision_mtl.commands.evaluate import evaluate_checkpoint
from vision_mtl.commands.infer import infer_with_checkpoint
from vision_mtl.commands.operating_points import StoredPoints, check_wanted, store_points
from vision_mtl.commands.shared import open_checkpoint
from vision_mtl.commands.train import train_from_config
from vision_mtl.errors import CheckpointError, ConfigError
from vision_mtl.metrics.operating_point import Goal, OperatingPoint
from vision_mtl.predict import Predictor
from vision_mtl.training.checkpoint import load_checkpoint, save_checkpoint
from vision_mtl.training.run import Progress

HEADS = """
  objects:  {type: fcos, depth: 1, norm: group, score_threshold: 0.0}
  presence: {type: multilabel, source: boxes}
"""


@pytest.fixture(scope="module")
def trained(tiny_coco_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("points")
    train_from_config(write_config(folder, tiny_coco_root, HEADS), [], folder / "run")
    return folder / "run/checkpoints/best.pt"


@pytest.fixture
def checkpoint(trained: Path, tmp_path: Path) -> Path:
    """A copy of a test's own, in a run folder."""
    path = tmp_path / "run/checkpoints/best.pt"
    path.parent.mkdir(parents=True)
    return Path(shutil.copy(trained, path))


def same(first: object, second: object) -> bool:
    if isinstance(first, torch.Tensor):
        return isinstance(second, torch.Tensor) and torch.equal(first, second)
    if isinstance(first, dict):
        return (
            isinstance(second, dict)
            and list(first) == list(second)
            and all(same(first[key], second[key]) for key in first)
        )
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(map(same, first, second))  # type: ignore[arg-type]
    return first == second


def test_found_stored_and_used(checkpoint: Path, tiny_coco_root: Path, tmp_path: Path) -> None:
    before = load_checkpoint(checkpoint)
    assert open_checkpoint(checkpoint).points is None
    metrics = evaluate_checkpoint(str(checkpoint), [], "val", tmp_path / "out", goal=Goal("recall", 0.5))
    written = json.loads((tmp_path / "out/metrics.json").read_text())["operating_points"]
    assert written == metrics["operating_points"]
    assert written["goal"] == "recall=0.5"
    assert set(written["heads"]) == {"objects", "presence"}

    after = load_checkpoint(checkpoint)
    stored = after.pop("operating_points")
    assert same(after, before)
    thresholds = {
        head: {row["name"]: row["threshold"] for row in rows if row["threshold"] is not None}
        for head, rows in written["heads"].items()
    }
    assert thresholds["presence"]
    assert stored == {"goal": "recall=0.5", "split": "val", "thresholds": thresholds}
    assert open_checkpoint(checkpoint).points == StoredPoints("recall=0.5", "val", thresholds)

    images = [str(tiny_coco_root / "images")]
    infer_with_checkpoint(images, str(checkpoint), tmp_path / "answers", None, False, False)
    answers = json.loads((tmp_path / "answers/predictions.json").read_text())
    assert answers["operating_points"] == thresholds
    own = Predictor.from_checkpoint(checkpoint).predict([entry["file"] for entry in answers["images"]])
    assert [result.to_dict() for result in own] == answers["images"]
    for entry in answers["images"]:
        for found in entry["detections"]:
            assert found["score"] >= thresholds["objects"].get(found["category"], 0.3)
        presence = entry["labels"]["presence"]
        expected = {
            name
            for name, score in presence["scores"].items()
            if score >= thresholds["presence"].get(name, 0.5)
        }
        assert set(presence["label"]) == expected
    infer_with_checkpoint(images, str(checkpoint), tmp_path / "plain", 0.0, False, False)
    plain = json.loads((tmp_path / "plain/predictions.json").read_text())
    assert plain["operating_points"] == {}
    number = sum(len(entry["detections"]) for entry in plain["images"])
    assert number > sum(len(entry["detections"]) for entry in answers["images"])


def test_classes_without_a_threshold_are_left_out(checkpoint: Path) -> None:
    progress = open_checkpoint(checkpoint).progress
    points = [
        OperatingPoint("bolt", 3, 0.25, 1.0, 1.0, 1.0, ""),
        OperatingPoint("nut", 0, None, None, None, None, "nothing to find"),
    ]
    store_points(checkpoint, {"objects": points}, Goal("f1"), "test", progress)
    assert open_checkpoint(checkpoint).points == StoredPoints("f1", "test", {"objects": {"bolt": 0.25}})


def test_a_checkpoint_of_another_step_stays_as_it_is(checkpoint: Path) -> None:
    content = checkpoint.read_bytes()
    with pytest.raises(CheckpointError, match="written again during the evaluation"):
        store_points(checkpoint, {}, Goal("f1"), "val", Progress(step=999))
    assert checkpoint.read_bytes() == content


def test_stored_nonsense_is_refused(checkpoint: Path) -> None:
    save_checkpoint({**load_checkpoint(checkpoint), "operating_points": {"goal": 3}}, checkpoint)
    with pytest.raises(CheckpointError, match="no checkpoint of this version"):
        open_checkpoint(checkpoint)


def test_nothing_to_find_or_nowhere_to_store_it(checkpoint: Path, tmp_path: Path) -> None:
    config = open_checkpoint(checkpoint).config
    with pytest.raises(ConfigError, match=r"'fcos\.yaml' is no checkpoint of a run"):
        check_wanted("fcos.yaml", config, is_of_run=False)
    config.heads = {}
    with pytest.raises(ConfigError, match="expected a detection or multilabel head"):
        check_wanted("best.pt", config, is_of_run=True)
