"""The top of the page: a row per head, with the change since an earlier evaluation, and intervals."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vision_mtl.errors import ConfigError
from vision_mtl.heads.base import Metric
from vision_mtl.heads.evaluation import DetectionMetric, MultilabelMetric, RegressionMetric, SingleLabelMetric
from vision_mtl.metrics.bootstrap import (
    Interval,
    bootstrap_intervals,
    detection_intervals,
    multilabel_intervals,
)
from vision_mtl.metrics.classification import single_label_metrics
from vision_mtl.metrics.regression import regression_metrics
from vision_mtl.reporting.report.figures import Table, Value

RESAMPLES = 200
MOST_WORK = 2e7  # images x classes x draws of a classification head; larger sets are drawn less often
ERRORS = ("MAE", "RMSE")  # the metrics of which less is better
SEEN = 5e-4  # a smaller change does not show in three decimals, and is neither better nor worse
COUNTS = ("labelled", "without_positive")
HEADLINES = ("mAP", "accuracy", "MAE")  # of each head the first that it has stands out


@dataclass(frozen=True)
class Cell:
    """One metric of a head.

    Attributes:
        name: the metric's.
        value: None where nothing defines it.
        change: against the earlier evaluation; None without one.
        better: whether that is better; None where it is neither, or a count.
        interval: 95% over images; None where there is none.
    """

    name: str
    value: float | None
    change: float | None
    better: bool | None
    interval: Interval | None


@dataclass(frozen=True)
class HeadRow:
    """A head's metrics: the headline apart."""

    head: str
    kind: str
    headline: Cell
    others: list[Cell]


def read_baseline(path: Path) -> dict[str, Any]:
    """Return an earlier evaluation's metrics.json.

    Raises:
        ConfigError: it cannot be read, or holds no evaluation.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"baseline '{path}': cannot be read as JSON: {error}; give another --baseline"
        ) from error
    heads = content.get("heads") if isinstance(content, dict) else None
    if not isinstance(heads, dict) or not all(isinstance(metrics, dict) for metrics in heads.values()):
        raise ConfigError(f"baseline '{path}': has no 'heads'; expected an evaluation's metrics.json")
    return content


def head_rows(
    heads: Mapping[str, Mapping[str, float | None]],
    metrics: Mapping[str, Metric],
    results: Mapping[str, np.ndarray],
    baseline: Mapping[str, Any] | None,
) -> list[HeadRow]:
    """Return one row per head.

    Args:
        heads: head -> metric -> number.
        metrics: head -> filled metric.
        results: detection head -> its rows (R, 7).
        baseline: an earlier `metrics.json`; None for none.
    """
    rows = []
    for name, numbers in heads.items():
        earlier = (baseline or {}).get("heads", {}).get(name, {})
        found = intervals(metrics[name], results.get(name))
        cells = [_cell(key, value, earlier.get(key), found.get(key)) for key, value in numbers.items()]
        top = next(cell for key in HEADLINES for cell in cells if cell.name == key)
        rows.append(HeadRow(name, _kind(metrics[name]), top, [cell for cell in cells if cell is not top]))
    return rows


def intervals(metric: Metric, results: np.ndarray | None) -> Mapping[str, Interval | None]:
    """Return the 95% bootstrap intervals of a head's metrics, as far as there are any."""
    if isinstance(metric, DetectionMetric):
        assert results is not None
        return detection_intervals(metric.index, results, RESAMPLES)
    assert isinstance(metric, SingleLabelMetric | MultilabelMetric | RegressionMetric)
    answers, targets = metric.collected()
    if isinstance(metric, MultilabelMetric):
        return multilabel_intervals(answers, targets, metric.threshold, RESAMPLES)

    def score(rows: np.ndarray) -> dict[str, float | None]:
        if isinstance(metric, SingleLabelMetric):
            return single_label_metrics(answers[rows].reshape(len(rows), len(metric.names)), targets[rows])
        return regression_metrics(answers[rows], targets[rows])

    draws = int(min(RESAMPLES, max(20, MOST_WORK / max(1, answers.size))))
    found = bootstrap_intervals(score, len(targets), draws)
    return {name: interval for name, interval in found.items() if name not in COUNTS}


def summary_table(rows: list[HeadRow]) -> Table:
    """Return the same as a figure, for JSON and CSV."""
    cells: list[list[Value]] = []
    for row in rows:
        for cell in (row.headline, *row.others):
            low, high = cell.interval or (None, None)
            cells.append([row.head, cell.name, cell.value, cell.change, low, high])
    columns = ["head", "metric", "value", "change", "low", "high"]
    return Table("summary", "Summary", columns, cells, note="low, high: 95% bootstrap over images")


def _cell(name: str, value: float | None, earlier: Any, interval: Interval | None) -> Cell:
    change, better = None, None
    if value is not None and _is_number(earlier):
        change = value - earlier
        if name not in COUNTS and abs(change) >= SEEN:
            better = (change > 0) != (name in ERRORS)
    return Cell(name, value, change, better, interval)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _kind(metric: Metric) -> str:
    if isinstance(metric, DetectionMetric):
        return "detection"
    if isinstance(metric, SingleLabelMetric):
        return "classification"
    return "multi-label" if isinstance(metric, MultilabelMetric) else "regression"
