"""A comparison as a picture: a dot per seed, one panel per head, and Δm."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vision_mtl.comparison.results import Sample, Summary

ALONE_COLOUR, TOGETHER_COLOUR = "0.45", "tab:blue"
WIDTH, HEIGHT = 2.6, 3.4  # inches of a panel


def comparison_figure(summary: Summary, title: str) -> Figure:
    """Draw every head's metric alone and together, then Δm with its standard error."""
    count = len(summary.alone) + 1
    figure = Figure(figsize=(WIDTH * count, HEIGHT), layout="constrained")
    panels = figure.subplots(1, count, squeeze=False)[0]
    names = ["alone", *(way.name for way in summary.together)]
    for i, (axes, single) in enumerate(zip(panels, summary.alone, strict=False)):
        samples = [single.score, *(way.tasks[i].score for way in summary.together)]
        _dots(axes, names, samples, [ALONE_COLOUR, *[TOGETHER_COLOUR] * len(summary.together)])
        better = "lower is better" if single.lower_is_better else "higher is better"
        axes.set(title=_plain(single.task), ylabel=f"{single.metric} ({better})")
    last = panels[-1]
    deltas = [way.delta_m for way in summary.together]
    _dots(last, names[1:], deltas, [TOGETHER_COLOUR] * len(deltas))
    for x, delta in enumerate(deltas):
        if delta.mean is not None and delta.error is not None:
            last.errorbar(x, delta.mean, delta.error, color="black", capsize=4, linewidth=1)
    last.axhline(0, color=ALONE_COLOUR, linewidth=1)
    last.set(title="Δm against alone", ylabel="% (higher is better)")
    figure.suptitle(_plain(title))
    return figure


def _plain(text: str) -> str:
    """Return text in which no dollar sign begins a formula."""
    return text.replace("$", r"\$")


def _dots(axes: Axes, names: Sequence[str], samples: Sequence[Sample], colours: Sequence[str]) -> None:
    """Draw a column of dots per sample, beside each other, with a line at the mean."""
    for x, (sample, colour) in enumerate(zip(samples, colours, strict=True)):
        known = [value for value in sample.values if value is not None]
        shift = [0.08 * (k - (len(known) - 1) / 2) for k in range(len(known))]
        axes.plot([x + s for s in shift], known, "o", color=colour, markersize=5, alpha=0.8)
        if sample.mean is not None:
            axes.hlines(sample.mean, x - 0.25, x + 0.25, color=colour, linewidth=1.5)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.grid(axis="y", alpha=0.3)


def svg_text(figure: Figure) -> str:
    """Return the figure as an `<svg>` element, the same for the same figure; text as outlines."""
    output = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "comparison"}):
        figure.savefig(output, format="svg", metadata={"Date": None})
    text = output.getvalue()
    return text[text.index("<svg") :]
