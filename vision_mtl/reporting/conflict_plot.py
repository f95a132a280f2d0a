"""The tasks' gradients on the trunk over a run: how long they are, and whether they agree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot
from matplotlib.axes import Axes


def conflict_plot(lines: Sequence[Mapping[str, Any]], paths: Iterable[Path]) -> None:
    """Draw norms and cosines against steps.

    Args:
        lines: each with `step`, `norms` (task -> norm) and `cosines` ("one/other" -> cosine).
        paths: files to write, PNG or SVG by their suffix.
    """
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(7.5, 6), layout="constrained", sharex=True)
    _curves(above, lines, "norms")
    above.set(title="Gradient of each task on the trunk", ylabel="norm", yscale="log")
    _curves(below, lines, "cosines")
    below.axhline(0, color="0.5", linewidth=1)
    below.set(title="Cosine between the tasks' gradients", xlabel="step", ylim=(-1, 1))
    below.text(0.01, 0.97, "agree", transform=below.transAxes, va="top", color="0.4")
    below.text(0.01, 0.03, "in conflict", transform=below.transAxes, va="bottom", color="0.4")
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _curves(axes: Axes, lines: Sequence[Mapping[str, Any]], kind: str) -> None:
    """Draw one curve for each name that any line has, with a gap where a line lacks it."""
    names = list(dict.fromkeys(name for line in lines for name in line[kind]))
    for name in names:
        steps = [line["step"] for line in lines if name in line[kind]]
        values = [line[kind][name] for line in lines if name in line[kind]]
        axes.plot(steps, values, marker="o", markersize=3, linewidth=1, label=name)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, ncols=2, loc="best")
