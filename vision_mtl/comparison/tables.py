"""A comparison's numbers as cells of text, for a terminal and for a page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from vision_mtl.commands.timing import Timing
from vision_mtl.comparison.conclusion import cost_ratios
from vision_mtl.comparison.results import (
    Costs,
    ModelCost,
    Outcome,
    Sample,
    Summary,
    TaskTogether,
    Together,
)
from vision_mtl.progress import duration

NONE = "\N{EN DASH}"
MARKS = {"better": " ▲", "worse": " ▼"}
LEGEND = (
    "Mean ± standard deviation over seeds, in brackets the mean change against alone; "
    "▲ ▼ better or worse by more than two standard errors of the difference; ↓ lower is better."
)


class Cells(NamedTuple):
    """A table: the first column is of names, the others of numbers."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def rich_table(cells: Cells) -> Table:
    """Return the table for a terminal."""
    table = Table(
        title=cells.title,
        title_justify="left",
        caption=cells.note or None,
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    for i, column in enumerate(cells.columns):
        table.add_column(column, justify="right" if i else "left")
    for row in cells.rows:
        table.add_row(*(Text(cell) for cell in row))
    return table


def score_cells(summary: Summary, title: str) -> Cells:
    """Return a row for the single-task models and one for each way of training together; a column a head."""
    columns = [f"{t.task}: {t.metric}{' ↓' if t.lower_is_better else ''}" for t in summary.alone]
    rows = [["alone", *(spread(single.score) for single in summary.alone), ""]]
    for way in summary.together:
        rows.append([way.name, *(_task_cell(task) for task in way.tasks), _delta_cell(way.delta_m)])
    return Cells(title, ["", *columns, "Δm, % ± SE"], rows, LEGEND)


def _task_cell(task: TaskTogether) -> str:
    mean = task.change.mean
    change = "" if mean is None else f" ({mean:+.1f} %)"
    return f"{spread(task.score)}{change}{MARKS.get(task.verdict or '', '')}"


def _delta_cell(sample: Sample) -> str:
    if sample.mean is None:
        return NONE
    error = "" if sample.error is None else f" ± {sample.error:.1f}"
    return f"{sample.mean:+.1f}{error}{_missing(sample)}"


def spread(sample: Sample) -> str:
    """Return `mean` of one seed, `mean ± standard deviation` of several; and how many have no result."""
    if sample.mean is None:
        return "no result"
    deviation = "" if sample.deviation is None else f" ± {_number(sample.deviation)}"
    return f"{_number(sample.mean)}{deviation}{_missing(sample)}"


def _missing(sample: Sample) -> str:
    missing = sum(value is None for value in sample.values)
    return f", {missing} of {len(sample.values)} without result" if missing else ""


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.4g}"


def cost_cells(summary: Summary, costs: Costs | None, detector: str | None) -> Cells:
    """Return what each network costs, and each joint one against the detector and all single-task models."""
    rows = []
    for single in summary.alone:
        model = None if costs is None else costs.alone.get(single.task)
        rows.append(_cost_row(f"{single.task} alone", single.lr, single.training_seconds, model))
    whole = costs is not None and len(costs.alone) == len(summary.alone)
    for way in summary.together:
        model = None if costs is None else costs.together.get(way.name)
        rows.append(_cost_row(way.name, way.lr, way.training_seconds, model))
        if costs is not None and whole and model is not None:
            rows += _ratio_rows(summary, way, costs, detector)
    step, batch = (costs.step_images, costs.batch_images) if costs is not None else (0, 0)
    columns = ["", "learning rate", "parameters", "training"]
    if costs is not None:
        columns += [f"step of {step} images, ms", "1 image, ms", f"{batch} images, ms"]
    note = "Training without evaluation, mean over seeds. "
    if costs is not None:
        note += f"Times are medians (quartiles), the networks in turn, on {costs.device}."
    return Cells("what it costs", columns, [row[: len(columns)] for row in rows], note)


def _cost_row(name: str, lr: float, seconds: Sample, model: ModelCost | None) -> list[str]:
    row = [name, f"{lr:g}", NONE if model is None else f"{model.parameters / 1e6:.2f} M"]
    row.append(NONE if seconds.mean is None else duration(seconds.mean))
    timings = (None, None, None) if model is None else (model.step, model.single, model.batch)
    return row + [NONE if timing is None else _milliseconds(timing) for timing in timings]


def _milliseconds(timing: Timing) -> str:
    median, lower, upper = (1000 * seconds for seconds in (timing.median, timing.lower, timing.upper))
    return f"{median:.1f} ({lower:.1f} to {upper:.1f})"


def _ratio_rows(summary: Summary, way: Together, costs: Costs, detector: str | None) -> list[list[str]]:
    measures: list[Callable[[ModelCost], float]] = [
        lambda model: model.parameters,
        lambda model: model.step.median,
        lambda model: model.single.median,
        lambda model: model.batch.median,
    ]
    ratios = [cost_ratios(costs, way.name, detector, measure) for measure in measures]
    seconds = {single.task: single.training_seconds.mean for single in summary.alone}
    own = way.training_seconds.mean
    known = {task: mean for task, mean in seconds.items() if mean is not None}
    rows = []
    if detector is not None:
        training = _ratio(own, known.get(detector))
        shares = [_ratio(ratio.of_detector, 1.0) for ratio in ratios]
        rows.append([f"  against {detector} alone", "", shares[0], training, *shares[1:]])
    training = _ratio(own, sum(known.values()) if len(known) == len(seconds) else None)
    shares = [_ratio(ratio.of_all, 1.0) for ratio in ratios]
    rows.append(["  against all alone", "", shares[0], training, *shares[1:]])
    return rows


def _ratio(value: float | None, baseline: float | None) -> str:
    return f"x {value / baseline:.2f}" if value is not None and baseline else NONE


def run_cells(runs: Sequence[Outcome], metrics: Mapping[str, str]) -> Cells:
    """Return a row per run: what it reached, or why it did not.

    Args:
        runs: finished ones.
        metrics: head -> the metric to show.
    """
    rows = []
    for run in runs:
        found = {head: numbers.get(metrics[head]) for head, numbers in run.heads.items()}
        scores = "  ".join(
            f"{head} {metrics[head]} {NONE if value is None else _number(value)}"
            for head, value in found.items()
        )
        time = NONE if run.training_seconds is None else duration(run.training_seconds)
        rows.append([run.folder, time, scores if run.diverged is None else f"diverged: {run.diverged}"])
    return Cells("what was run", ["run folder", "training", "result"], rows)
