"""Thresholds found by an evaluation: looked for, stored with the checkpoint, read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from vision_mtl.config import Config
from vision_mtl.errors import CheckpointError, ConfigError
from vision_mtl.heads.evaluation import DetectionMetric, MultilabelMetric
from vision_mtl.metrics.operating_point import (
    Goal,
    OperatingPoint,
    detection_operating_points,
    multilabel_operating_points,
)
from vision_mtl.training.checkpoint import load_checkpoint, save_checkpoint
from vision_mtl.training.evaluation import Evaluation
from vision_mtl.training.run import Progress

KEY = "operating_points"  # in a checkpoint


class StoredPoints(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a checkpoint holds of them.

    Attributes:
        goal: what they suit, as `--operating-points` has it.
        split: on which they were found.
        thresholds: head -> class -> lowest score; a class without one is left out.
    """

    goal: str
    split: str
    thresholds: dict[str, dict[str, float]]


def check_wanted(path: str, config: Config, is_of_run: bool) -> None:
    """Raise ConfigError, before any work, where there is nothing to find or nowhere to store it."""
    if not is_of_run:
        raise ConfigError(
            f"--operating-points: '{path}' is no checkpoint of a run, with which thresholds are stored; give "
            "its best.pt or last.pt (tools/export.py takes them along)"
        )
    kinds = {name: head.label_source() for name, head in config.heads.items()}
    if not any(source is None or source.kind == "several" for source in kinds.values()):
        raise ConfigError(
            f"--operating-points: '{path}' has the heads {', '.join(kinds)}; expected a detection or "
            "multilabel head, whose answers depend on a threshold"
        )


def find_points(result: Evaluation, goal: Goal) -> dict[str, list[OperatingPoint]]:
    """Return head -> one point per class, of the detection and multilabel heads."""
    points = {}
    for name, metric in result.metrics.items():
        if isinstance(metric, DetectionMetric):
            points[name] = detection_operating_points(metric.index, metric.results(), goal)
        elif isinstance(metric, MultilabelMetric):
            points[name] = multilabel_operating_points(*metric.collected(), metric.names, goal)
    return points


def store_points(
    path: str | Path, points: dict[str, list[OperatingPoint]], goal: Goal, split: str, progress: Progress
) -> None:
    """Write a checkpoint anew, whole or not at all, with its thresholds and otherwise as it was.

    Args:
        path: the checkpoint.
        points: of `find_points`.
        goal: what they suit.
        split: on which they were found.
        progress: where the run stood when the network was read.

    Raises:
        CheckpointError: the file is damaged, cannot be written, or holds another step's network by now.
    """
    state = load_checkpoint(path)
    if state["progress"]["step"] != progress.step:
        raise CheckpointError(
            f"'{path}' was written again during the evaluation: found step {state['progress']['step']}, "
            f"expected {progress.step}, which was evaluated; wait for training to end, and evaluate again"
        )
    thresholds = {
        head: {point.name: point.threshold for point in rows if point.threshold is not None}
        for head, rows in points.items()
    }
    stored = StoredPoints(str(goal), split, thresholds)
    save_checkpoint({**state, KEY: msgspec.to_builtins(stored)}, Path(path))


def stored_points(state: dict[str, Any]) -> StoredPoints | None:
    """Return what a checkpoint's state holds; None if no thresholds were ever found.

    Raises:
        msgspec.ValidationError: it holds something else.
    """
    found = state.get(KEY)
    return None if found is None else msgspec.convert(found, StoredPoints)
