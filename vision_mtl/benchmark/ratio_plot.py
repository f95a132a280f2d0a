"""All ratios against the peers in one picture, with a mark where each is to be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.figure import Figure

from vision_mtl.benchmark.results import Results, Table, Target

# Read on white and on GitHub's dark page alike, since the background is left transparent.
INK, MET, MISSED, MARK = "#7d8590", "#2f9e63", "#d9822b", "#e5534b"
TICKS = (0.25, 0.5, 1, 2, 3, 5, 10, 20, 50, 100)
WIDTH, ROW, MARGIN = 11.0, 0.32, 1.1  # inches


class Bar(NamedTuple):
    """A ratio of the peer's figure to ours: what it is, and what it is to be."""

    label: str
    ratio: float
    target: float

    @property
    def met(self) -> bool:
        return self.ratio >= self.target


def bars_of(results: Results) -> list[Bar]:
    """Return a bar for each target that compares ours with something, in the file's order."""
    return [
        _bar(part, table, target)
        for part, result in results.parts.items()
        for table in result.tables
        for target in table.targets
        if target.against is not None
    ]


def _bar(part: str, table: Table, target: Target) -> Bar:
    assert target.against is not None
    bound = target.at_least if target.at_least is not None else 1 / (target.at_most or 1.0)
    own = target.ours.removeprefix("ours").lstrip(", ")
    name = ", ".join([f"{part} {table.name}", *([own] if own else [])])
    return Bar(f"{name} | {target.against}", table.ratio(target.ours, target.against), bound)


def ratio_figure(bars: Sequence[Bar], title: str) -> Figure:
    """Draw horizontal bars on a logarithmic scale, a line at 1, and a mark at each target."""
    figure = Figure(figsize=(WIDTH, MARGIN + ROW * max(1, len(bars))), layout="constrained")
    axes = figure.subplots()
    places = range(len(bars))
    colours = [MET if bar.met else MISSED for bar in bars]
    # From 1, so that what is slower than its peer points the other way.
    axes.barh(places, [bar.ratio - 1 for bar in bars], left=1, height=0.62, color=colours)
    for place, bar in zip(places, bars, strict=True):
        axes.plot([bar.target] * 2, [place - 0.42, place + 0.42], color=MARK, linewidth=2)
        end = max(bar.ratio, 1.0)
        if end <= bar.target < 1.4 * end:  # the number would lie on the mark
            end = bar.target
        axes.annotate(
            f" {bar.ratio:.3g}x ",
            (end, place),
            color=INK,
            va="center",
            fontsize=9,
        )
    axes.axvline(1, color=INK, linewidth=1)
    axes.set_xscale("log")
    ends = [1.0, *(bar.ratio for bar in bars), *(bar.target for bar in bars)]
    axes.set_xlim(min(ends) / 1.25, max(ends) * 1.8)
    ticks = [tick for tick in TICKS if min(ends) / 1.25 <= tick <= max(ends)]
    axes.set_xticks(ticks, [f"{tick:g}x" for tick in ticks])
    axes.minorticks_off()
    axes.set_yticks(places, [bar.label for bar in bars])
    axes.invert_yaxis()
    axes.margins(y=0.01)
    meaning = "times less time or memory than what is named after the bar; red marks are the targets"
    figure.supxlabel(meaning, color=INK, fontsize=9)
    figure.suptitle(title, color=INK, fontsize=10)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(axis="x", color=INK, alpha=0.25)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
    return figure


def draw_ratios(results: Results, path: Path) -> None:
    """Write the picture of a results file, PNG or SVG, with a transparent background."""
    newest = max(results.parts.values(), key=lambda part: part.date)
    path.parent.mkdir(parents=True, exist_ok=True)
    title = f"{newest.machine}, {newest.threads} threads"
    ratio_figure(bars_of(results), title).savefig(path, dpi=150, transparent=True)
