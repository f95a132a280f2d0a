"""How the training went: the lines of metrics.jsonl as figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vision_mtl.reporting.report.figures import Curve, Curves, Section

MEASURES = ("mAP", "accuracy", "R2")  # of each head the first that it has is shown over time


def training_section(log: Path) -> Section | None:
    """Return the curves of a run; None where there is no log or it has no line.

    Args:
        log: metrics.jsonl: lines with `step` and `kind`, which is `train`, `val` or `conflict`.
    """
    if not log.is_file():
        return None
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    kinds: dict[str, list[dict[str, Any]]] = {"train": [], "val": [], "conflict": []}
    for line in lines:
        kinds.setdefault(line["kind"], []).append(line)
    figures = [
        *_losses(kinds["train"], kinds["val"]),
        _metrics(kinds["val"]),
        *_conflict(kinds["conflict"]),
        *_pace(kinds["train"]),
    ]
    shown = [figure for figure in figures if figure.curves]
    return Section("the-training", "Training", shown) if shown else None


def _losses(train: Sequence[Mapping[str, Any]], val: Sequence[Mapping[str, Any]]) -> list[Curves]:
    """Return the tasks' losses in training and at evaluations, and the learning rate."""

    def total(name: str) -> Callable[[Mapping[str, Any]], float | None]:
        return lambda line: _sum(line.get("losses", {}).get(name))

    def judged(name: str) -> Callable[[Mapping[str, Any]], float | None]:
        return lambda line: line.get("losses", {}).get(name)

    tasks = _names(train, "losses")
    return [
        Curves(
            "loss-training",
            "Loss per task, training",
            "step",
            "loss",
            _positive([_curve(name, train, total(name)) for name in tasks]),
            log_y=True,
            note="Means over the steps between two lines of the log, before the heads' weights.",
        ),
        Curves(
            "loss-validation",
            "Loss per task, validation",
            "step",
            "loss",
            _positive([_curve(name, val, judged(name)) for name in _names(val, "losses")]),
            log_y=True,
        ),
        Curves(
            "learning-rate",
            "Learning rate",
            "step",
            "",
            _drop_empty([_curve("learning rate", train, lambda line: line.get("lr"))]),
        ),
    ]


def _metrics(val: Sequence[Mapping[str, Any]]) -> Curves:
    curves = []
    for head in _names(val, "heads"):
        known = {name for line in val for name in line["heads"].get(head, {})}
        measure = next((name for name in MEASURES if name in known), None)
        if measure is not None:
            curves.append(_curve(f"{head} {measure}", val, _of(head, measure)))
    values = [y for curve in curves for y in curve.y if y is not None]
    low = min([0.0, *values])
    return Curves(
        "metrics",
        "Metrics over time, validation",
        "step",
        "",
        _drop_empty(curves),
        y_range=(max(low, -1.0), 1.0),
        zero=low < 0,
    )


def _of(head: str, measure: str) -> Callable[[Mapping[str, Any]], float | None]:
    return lambda line: line["heads"].get(head, {}).get(measure)


def _conflict(lines: Sequence[Mapping[str, Any]]) -> list[Curves]:
    """Return norms and cosines of the tasks' gradients on the trunk."""

    def entry(kind: str, name: str) -> Callable[[Mapping[str, Any]], float | None]:
        return lambda line: line[kind].get(name)

    return [
        Curves(
            "gradient-norms",
            "Gradient of each task on the trunk",
            "step",
            "norm",
            _positive([_curve(name, lines, entry("norms", name)) for name in _names(lines, "norms")]),
            log_y=True,
        ),
        Curves(
            "gradient-cosines",
            "Do the tasks agree?",
            "step",
            "cosine between gradients",
            _drop_empty([_curve(name, lines, entry("cosines", name)) for name in _names(lines, "cosines")]),
            zero=True,
            note="Above 0 a step for one task helps the other as well, below 0 they are in conflict.",
        ),
    ]


def _pace(train: Sequence[Mapping[str, Any]]) -> list[Curves]:
    def curves(name: str, key: str) -> list[Curve]:
        return _drop_empty([_curve(name, train, lambda line: line.get(key))])

    return [
        Curves("speed", "Speed", "step", "images/s", curves("images/s", "images_per_second")),
        Curves(
            "memory",
            "Memory",
            "step",
            "MB",
            curves("memory", "memory_mb"),
            note="The most that was held so far: on a GPU by tensors, elsewhere by the main process.",
        ),
    ]


def _names(lines: Sequence[Mapping[str, Any]], kind: str) -> list[str]:
    return list(dict.fromkeys(name for line in lines for name in line.get(kind, {})))


def _curve(
    name: str, lines: Sequence[Mapping[str, Any]], value: Callable[[Mapping[str, Any]], float | None]
) -> Curve:
    return Curve(name, [line["step"] for line in lines], [value(line) for line in lines])


def _sum(terms: Mapping[str, float | None] | None) -> float | None:
    values = list(terms.values()) if terms else []
    known = [value for value in values if value is not None]
    return sum(known) if known and len(known) == len(values) else None


def _positive(curves: Sequence[Curve]) -> list[Curve]:
    """Leave out what a logarithmic axis cannot show."""
    return _drop_empty(
        [Curve(c.name, c.x, [y if y is not None and y > 0 else None for y in c.y]) for c in curves]
    )


def _drop_empty(curves: Sequence[Curve]) -> list[Curve]:
    return [curve for curve in curves if any(y is not None for y in curve.y)]
