"""What a network started from, as tables."""

from __future__ import annotations

from rich import box
from rich.table import Table
from rich.text import Text

from vision_mtl.models.weights import WeightsReport
from vision_mtl.reporting.tables import text

SHOWN_NAMES = 3


def weights_text(report: WeightsReport) -> str:
    """Return what was loaded, skipped and initialised: part by part, then class by class, then notes."""
    if report.source is None:
        return "no pretrained weights: the whole network starts fresh"
    parts = [text(parts_table(report))]
    for head, rows in report.classes.items():
        known = sum(slot is not None for _, slot in rows)
        parts.append(f"{head}: {known} of {len(rows)} classes are the file's")
        if known:
            parts.append(text(classes_table(head, rows)))
    return "\n".join([*parts, *(f"note: {note}" for note in report.notes)])


def parts_table(report: WeightsReport) -> Table:
    """Return one row per part of the network, or of the file, with its numbers of tensors."""
    groups = {"loaded": report.loaded, "fresh": report.fresh, "not used": report.skipped}
    table = _table(f"{report.source}: tensors")
    table.add_column("part", no_wrap=True)
    for name in groups:
        table.add_column(name, justify="right")
    table.add_column("which are fresh or not used", ratio=1)
    for part in dict.fromkeys(part_of(key) for keys in groups.values() for key in keys):
        own = {name: [key for key in keys if part_of(key) == part] for name, keys in groups.items()}
        odd = own["fresh"] + own["not used"] if own["loaded"] else []
        named = ", ".join(key.removeprefix(f"{part}.") for key in odd[:SHOWN_NAMES])
        counts = (str(len(keys)) if keys else "" for keys in own.values())
        table.add_row(Text(part), *counts, Text(named + (", ..." if len(odd) > SHOWN_NAMES else "")))
    return table


def classes_table(head: str, rows: list[tuple[str, str | None]]) -> Table:
    """Return one row per class of a head: where its weights are from."""
    table = _table(f"{head}: classes")
    table.add_column("class")
    table.add_column("from the file's")
    for name, slot in rows:
        table.add_row(Text(name), Text("fresh" if slot is None else slot))
    return table


def part_of(key: str) -> str:
    """Return the part that a tensor belongs to, e.g. `trunk.fpn` or `heads.objects.regression_head`."""
    depth = 3 if key.startswith("heads.") else 2
    return ".".join(key.split(".")[:-1][:depth])


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
