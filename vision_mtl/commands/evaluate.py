"""`tools/evaluate.py`: a checkpoint to numbers."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vision_mtl.allocator import keep_freed_memory
from vision_mtl.commands.operating_points import check_wanted, find_points, store_points
from vision_mtl.commands.report import report_evaluation
from vision_mtl.commands.shared import (
    Trained,
    choose_device,
    evaluation_loader,
    is_config,
    open_checkpoint,
    open_weights,
)
from vision_mtl.config import load_config
from vision_mtl.data.dataset import Source
from vision_mtl.data.sources import open_evaluation, open_sources
from vision_mtl.errors import DataError
from vision_mtl.files import whole
from vision_mtl.heads.evaluation import DetectionMetric, MultilabelMetric, SingleLabelMetric
from vision_mtl.metrics.operating_point import Goal
from vision_mtl.models.precision import resolve_precision
from vision_mtl.models.shared_file import is_shared
from vision_mtl.models.vocabulary import label_infos, label_sources, trained_categories
from vision_mtl.reporting.report.summary import read_baseline
from vision_mtl.reporting.tables import heads_table, per_class_table, text
from vision_mtl.training.engine import describe_evaluation, write_json
from vision_mtl.training.evaluation import Evaluation, evaluate
from vision_mtl.training.log import start_logging

logger = logging.getLogger(__name__)


def evaluate_checkpoint(
    path: str,
    overrides: Sequence[str],
    split: str,
    output: Path | None,
    per_class: bool = True,
    goal: Goal | None = None,
    baseline: Path | None = None,
) -> dict[str, Any]:
    """Evaluate as `tools/evaluate.py` does: print the table, write metrics, detections and report.

    Args:
        path: `best.pt` or `last.pt` of a run; what `tools/export.py` made of one (.safetensors); or a config
            (.yaml) whose `weights` are evaluated untrained.
        overrides: `key=value` changes to the config.
        split: `train`, `val` or `test`.
        output: the folder; None for one in the run's, or in `runs/` where it is of none.
        per_class: print a table of classes for each head that has them.
        goal: what thresholds to find and store with the checkpoint; None for none.
        baseline: an earlier metrics.json that the report compares with; None for the one that the folder
            holds already, if any.

    Raises:
        VisionMTLError: a wrong checkpoint, config, override, split or data set.
    """
    start_logging()
    is_of_run = not is_config(path) and not is_shared(path)
    run = Path(path).resolve().parent.parent
    own = f"evaluation-{split}" if is_of_run else f"evaluation-{Path(path).stem}-{split}"
    folder = output or (run if is_of_run else Path("runs")) / own
    trained = open_for_split(path, overrides, split)
    earlier, compared = find_baseline(baseline, folder)
    if goal is not None:
        check_wanted(path, trained.config, is_of_run)
    source, result = judge(trained, split)
    metrics = {"checkpoint": str(path), "split": split, **describe_evaluation(result, trained.progress)}
    points = {} if goal is None else find_points(result, goal)
    if goal is not None:
        rows = {name: [point._asdict() for point in found] for name, found in points.items()}
        metrics["operating_points"] = {"goal": str(goal), "heads": rows}
    write_evaluation(result, metrics, folder)
    logger.info("%s", text(heads_table(result.heads, title=f"{path} on {split}, {result.images} images")))
    if per_class:
        print_per_class(result)
    if goal is not None:
        store_points(path, points, goal, split, trained.progress)
        for name, found in points.items():
            logger.info("%s", text(per_class_table(found, "f1", f"{name}: thresholds for {goal}, in {path}")))
    logger.info("metrics.json and predictions are in %s", folder)
    report_evaluation(
        result,
        trained.config,
        source,
        folder,
        split,
        step=trained.progress.step,
        checkpoint=None if is_config(path) else Path(path),
        run=run if is_of_run else folder,
        baseline=earlier,
        compared=compared,
    )
    return metrics


def open_for_split(path: str, overrides: Sequence[str], split: str) -> Trained:
    """Return the network of a checkpoint, or of a config's weights with the labels of the split's files."""
    if not is_config(path):
        return open_checkpoint(path, overrides)
    config = load_config(path, overrides)
    sources = open_sources(config.data, split, label_sources(config.heads))
    return open_weights(path, config, label_infos(config.heads, sources))


def judge(trained: Trained, split: str) -> tuple[Source, Evaluation]:
    """Return the split's images, and what the network makes of them."""
    config = trained.config
    source = open_evaluation(
        config.data,
        split,
        label_sources(config.heads),
        {name: info.names for name, info in trained.labels.items()},
        trained_categories(config.heads, trained.labels),
    )
    device = choose_device(config.training.device)
    keep_freed_memory(device)
    result = evaluate(
        trained.model.to(device),
        evaluation_loader(config, source),
        source,
        device,
        resolve_precision(config.training.precision, device),
        config.evaluation.backend,
    )
    return source, result


def find_baseline(path: Path | None, folder: Path) -> tuple[dict[str, Any] | None, str]:
    """Return the evaluation to compare with, the one in `folder` unless another is given, and what it is."""
    here = folder / "metrics.json"
    if path is None:
        return (read_baseline(here) if here.is_file() else None), "the evaluation that was here before"
    return read_baseline(path), str(path)


def write_evaluation(result: Evaluation, metrics: dict[str, Any], folder: Path) -> None:
    """Write metrics.json, and detections.json in COCO's results format where there is a detection head."""
    per_class = {name: [row._asdict() for row in rows] for name, rows in class_rows(result).items()}
    try:
        write_json(folder / "metrics.json", {**metrics, "per_class": per_class})
        for metric in result.metrics.values():
            if isinstance(metric, DetectionMetric):
                with whole(folder / "detections.json") as file:
                    file.write_text(json.dumps(metric.results_json()), encoding="utf-8")
    except OSError as error:
        raise DataError(f"--output '{folder}': cannot write: {error}") from error


def class_rows(result: Evaluation) -> dict[str, list[Any]]:
    """Return head -> rows of per-class numbers, for the heads that have classes."""
    rows: dict[str, list[Any]] = {}
    for name, metric in result.metrics.items():
        if isinstance(metric, DetectionMetric):
            rows[name] = metric.per_class
        elif isinstance(metric, (SingleLabelMetric, MultilabelMetric)):
            rows[name] = metric.class_rows()
    return rows


def print_per_class(result: Evaluation) -> None:
    """Print a table per head that has classes."""
    for name, rows in class_rows(result).items():
        if rows:
            logger.info("%s", text(per_class_table(rows, "ap" if hasattr(rows[0], "ap") else "f1", name)))
