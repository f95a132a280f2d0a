"""The benchmark's figures as tables for a terminal: ratios, targets, and how far it is to the limit."""

from __future__ import annotations

from rich import box
from rich.table import Table as Grid
from rich.text import Text

from vision_mtl.benchmark.results import Figure, Part, Profile, Table, Target
from vision_mtl.reporting.tables import text

NONE = "\N{EN DASH}"
WIDTH = 150
SIDES = ("peer", "ours", "limit")


def part_text(name: str, part: Part) -> str:
    """Return a part's tables, notes and profiles as plain text."""
    warning = " (--quick: sizes too small for the figures to mean anything)" if part.quick else ""
    place = f"{part.machine}, {part.threads} threads, {part.device}"
    blocks = [f"{name}{warning}: {place}"]
    for table in part.tables:
        blocks.append(text(table_grid(table), width=WIDTH))
        blocks += [f"  {note}" for note in table.notes]
    blocks += [text(profile_grid(profile), width=WIDTH) for profile in part.profiles]
    return "\n".join(blocks) + "\n"


def table_grid(table: Table) -> Grid:
    """Return a row per contender, with how many times it certain peers are, and the targets.

    These peers are those that targets are about, and the fastest.
    """
    peers = compared_peers(table)
    limits = any(figure.limit is not None for figure in table.figures)
    grid = Grid(title=table.title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    grid.add_column("contender")
    grid.add_column(f"median, {table.unit}", justify="right", style="bold")
    grid.add_column("quartiles", justify="right")
    for peer in peers:
        grid.add_column(f"{peer} / it", justify="right")
    if limits:
        grid.add_column("it / limit", justify="right")
    grid.add_column("target")
    for figure in sorted(table.figures, key=lambda figure: SIDES.index(figure.side)):
        cells = [figure.name, number(figure.median), f"{number(figure.lower)} to {number(figure.upper)}"]
        cells += [_ratio(table, figure, peer) for peer in peers]
        if limits:
            cells.append(f"{1 / table.ratio(figure.name, figure.limit):.2f}x" if figure.limit else NONE)
        targets = [target_text(table, target) for target in table.targets if target.ours == figure.name]
        grid.add_row(*(Text(cell) for cell in (*cells, "\n".join(targets) or NONE)))
    return grid


def compared_peers(table: Table) -> list[str]:
    """Return the peers that the table's targets are about, and the one with the lowest median."""
    peers = [figure for figure in table.figures if figure.side == "peer"]
    names = {target.against for target in table.targets}
    names |= {peer.name for peer in sorted(peers, key=lambda peer: peer.median)[:1]}
    return [peer.name for peer in peers if peer.name in names]


def _ratio(table: Table, figure: Figure, peer: str) -> str:
    return NONE if figure.side == "peer" else f"{table.ratio(figure.name, peer):.2f}x"


def target_text(table: Table, target: Target) -> str:
    """Return what is asked and whether it was reached, e.g. `3x of torchvision: met`."""
    verdict = table.judge(target)
    reached = "met" if verdict.met else "missed"
    if target.against is None:
        return f"at most {target.at_most:g} {table.unit}: {reached}"
    if target.at_least is not None:
        return f"{target.at_least:g}x of {target.against}: {reached}"
    return f"at most {target.at_most:g}x of {target.against}: {reached} ({verdict.value:.3f}x)"


def number(value: float) -> str:
    """Return three significant digits, or whole numbers from 1000 on."""
    if value >= 999.5:
        return f"{value:.0f}"
    digits = f"{value:.3g}"
    return f"{float(digits):g}" if "e" not in digits else f"{value:.3f}"


def profile_grid(profile: Profile) -> Grid:
    """Return a row per kind of operator with its milliseconds and its share of the whole."""
    title = f"{profile.name}: {number(profile.milliseconds)} ms under the profiler; trace in {profile.trace}"
    grid = Grid(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    grid.add_column("operators")
    grid.add_column("ms", justify="right")
    grid.add_column("share", justify="right")
    for share in profile.shares:
        part = 100 * share.milliseconds / max(profile.milliseconds, 1e-9)
        grid.add_row(Text(share.kind), number(share.milliseconds), f"{part:.1f} %")
    return grid
