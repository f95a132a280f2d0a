"""Finished accuracy runs as a table and a plot."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot
from rich.table import Table
from rich.text import Text

from vision_mtl.benchmark.accuracy import Outcome


def group_runs(runs: Sequence[Outcome], budget: float) -> dict[str, list[Outcome]]:
    """Return contender -> its runs of the full budget, the best contender first.

    Of a contender that was run with several settings, only the runs with that of its best run count.
    """
    best: dict[str, Outcome] = {}
    full = [run for run in runs if run.trial.budget == budget]
    for run in full:
        name = run.trial.contender
        if name not in best or run.score() > best[name].score():
            best[name] = run
    groups = {
        name: [run for run in full if _setting(run) == _setting(winner)] for name, winner in best.items()
    }
    return dict(sorted(groups.items(), key=lambda item: -mean_score(item[1])))


def _setting(run: Outcome) -> tuple[str, str, float]:
    return run.trial.contender, run.trial.precision, run.trial.lr


def mean_score(runs: Sequence[Outcome]) -> float:
    """Return the mean of the runs' final mAP."""
    return statistics.fmean(run.score() for run in runs)


def spread(values: Sequence[float]) -> str:
    """Return `mean` of one value, `mean ± standard deviation` of several."""
    mean = statistics.fmean(values)
    return f"{mean:.3f} ± {statistics.stdev(values):.3f}" if len(values) > 1 else f"{mean:.3f}"


def accuracy_table(groups: dict[str, list[Outcome]], title: str) -> Table:
    """Return a row per contender: AP at each evaluation, with the spread over seeds at the last one."""
    table = Table(title=title, title_justify="left")
    table.add_column("detector", no_wrap=True)
    for name in ("seeds", "precision", "lr", "images/s"):
        table.add_column(name, justify="right")
    longest = max((run.curve for runs in groups.values() for run in runs), key=len, default=[])
    for point in longest[:-1]:
        table.add_column(f"{point.seconds:.0f} s", justify="right")
    last = f"{longest[-1].seconds:.0f} s" if longest else "end"
    for name in (f"AP at {last}", "AP50"):
        table.add_column(name, justify="right")
    for contender, runs in groups.items():
        trial = runs[0].trial
        cells = [str(len(runs)), trial.precision, f"{trial.lr:g}"]
        cells.append(f"{statistics.fmean(run.images_per_second for run in runs):.1f}")
        finished = [run.curve for run in runs if run.curve]
        for i in range(len(longest) - 1):
            cells.append(spread([c[i].metrics["mAP"] or 0.0 for c in finished])[:5] if finished else "-")
        for metric in ("mAP", "AP50"):
            values = [curve[-1].metrics[metric] or 0.0 for curve in finished]
            cells.append(spread(values) if values else "diverged")
        table.add_row(*(Text(cell) for cell in (contender, *cells)))
    return table


def accuracy_plot(groups: dict[str, list[Outcome]], title: str, path: Path) -> None:
    """Draw mean AP against seconds of training, a band from the lowest to the highest seed; PNG or SVG."""
    figure, axes = pyplot.subplots(figsize=(7.5, 4.8), layout="constrained")
    for contender, runs in groups.items():
        curves = [run.curve for run in runs if run.curve]
        if not curves:
            continue
        seconds = [statistics.fmean(p.seconds for p in points) for points in zip(*curves, strict=True)]
        scores = [[100 * (p.metrics["mAP"] or 0.0) for p in points] for points in zip(*curves, strict=True)]
        style = "-" if contender.startswith("ours") else "--"
        mean = [statistics.fmean(values) for values in scores]
        (line,) = axes.plot(seconds, mean, style, marker="o", markersize=3, label=contender)
        low, high = [min(values) for values in scores], [max(values) for values in scores]
        axes.fill_between(seconds, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
    axes.set(title=title, xlabel="seconds of training", ylabel="box AP, %", xlim=(0, None), ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend(loc="best", frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
