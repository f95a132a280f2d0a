"""What was trained and judged on: sizes, classes, labels, and what validation put right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from vision_mtl.data.dataset import Source
from vision_mtl.reporting.report.figures import SHOWN_BARS, Bars, Figure, Section, Table, Value

SMALL, MEDIUM = 32**2, 96**2  # COCO's limits of the area of small and medium objects, in pixels
BINS, VALUES = 12, 25  # of numbers: bins, and different ones up to which each has its own
OCTAVES = 3, 10  # powers of 2 between which sizes of boxes are told apart: 8 to 1024 pixels
SHOWN_SKIPPED = 200
Splits = Mapping[str, Sequence[Source]]


def data_section(splits: Splits, skipped: Mapping[str, str]) -> Section:
    """Return the figures of the data.

    Args:
        splits: name -> its sources.
        skipped: path -> reason of images that were left out of the evaluation.
    """
    figures: list[Figure] = [_facts(splits)]
    figures += [figure for figure in (_classes(splits), _box_sizes(splits)) if figure is not None]
    heads = dict.fromkeys(name for sources in splits.values() for s in sources for name in s.labels)
    figures += [figure for name in heads if (figure := _labels(name, splits)) is not None]
    figures.append(_corrected(splits))
    left_out = _unusable(splits)
    left_out += [[path, reason] for path, reason in skipped.items()]
    if left_out:
        note = f"{len(left_out)} files." if len(left_out) > SHOWN_SKIPPED else ""
        shown = left_out[:SHOWN_SKIPPED]
        figures.append(Table("data-left-out", "Images left out", ["file", "why"], shown, note=note))
    return Section("the-data", "Data", figures)


def _unusable(splits: Splits) -> list[list[Value]]:
    """Return the images that `data.bad_images=skip` left out before anything was read."""
    return [
        [source.images.path(at), f"of {split}; found when the data set was opened, the log says why"]
        for split, sources in splits.items()
        for source in sources
        for at in np.setdiff1d(np.arange(len(source.index)), source.positions).tolist()
    ]


def _facts(splits: Splits) -> Table:
    columns = [
        "split",
        "images",
        "width",
        "height",
        "boxes",
        "boxes per image",
        "small",
        "medium",
        "large",
        "crowds",
    ]
    rows: list[list[Value]] = []
    for split, sources in splits.items():
        sizes = np.concatenate([source.index.sizes[source.positions] for source in sources])
        boxes = sum(int(s.truth.offsets[-1]) for s in sources)
        areas = np.concatenate([s.truth.areas for s in sources])
        kinds = (areas < SMALL, (areas >= SMALL) & (areas <= MEDIUM), areas > MEDIUM)
        shares: list[Value] = [f"{kind.mean():.0%}" if boxes else None for kind in kinds]
        crowds = sum(int(s.truth.crowd.sum()) for s in sources)
        per_image = f"{boxes / len(sizes):.2f}" if len(sizes) else None
        rows.append(
            [split, len(sizes), _spread(sizes[:, 1]), _spread(sizes[:, 0]), boxes, per_image, *shares, crowds]
        )
    return Table("data", "Images and boxes", columns, rows, note="Sizes in pixels: least / median / most.")


def _classes(splits: Splits) -> Bars | None:
    """Return each class's share of the boxes; None where nothing has boxes."""
    categories = next(iter(splits.values()))[0].classes.categories
    shares: dict[str, np.ndarray] = {}
    for split, sources in splits.items():
        counts = np.zeros(len(categories))
        for source in sources:
            classes = source.classes.of(source.truth.all_objects()[1]).classes
            counts += np.bincount(classes[classes >= 0], minlength=len(categories))
        if counts.sum():
            shares[f"{split} ({int(counts.sum())})"] = 100 * counts / counts.sum()
    if not shares:
        return None
    order = np.argsort(-np.sum(list(shares.values()), axis=0), kind="stable")
    return Bars(
        "data-classes",
        "Classes, % of the boxes",
        [categories[i].name for i in order],
        {split: values[order].round(1).tolist() for split, values in shares.items()},
        note=_most_frequent(len(order)),
    )


def _box_sizes(splits: Splits) -> Bars | None:
    """Return the share of the boxes in each octave of size; None where nothing has boxes."""
    edges = 2.0 ** np.arange(OCTAVES[0], OCTAVES[1] + 1)
    counts = {}
    for split, sources in splits.items():
        sides = np.sqrt(np.concatenate([source.truth.areas for source in sources]))
        if len(sides):
            counts[f"{split} ({len(sides)})"] = np.bincount(
                np.searchsorted(edges, sides, side="right"), minlength=len(edges) + 1
            )
    if not counts:
        return None
    names = [f"below {edges[0]:g}", *(f"{a:g} to {b:g}" for a, b in pairwise(edges)), f"from {edges[-1]:g}"]
    used = np.flatnonzero(np.sum(list(counts.values()), axis=0))
    shown = slice(int(used[0]), int(used[-1]) + 1)
    return Bars(
        "data-box-sizes",
        "Size of the boxes, % of them",
        names[shown],
        {split: (100 * own[shown] / own.sum()).round(1).tolist() for split, own in counts.items()},
        note="The square root of the area, in pixels of the original image.",
    )


def _labels(name: str, splits: Splits) -> Bars | None:
    """Return how a head's labels are distributed, in % of the labelled images; None without any."""
    targets: dict[str, np.ndarray] = {}
    vocabulary: tuple[str, ...] = ()
    for split, sources in splits.items():
        own = [s.labels[name].targets[s.positions] for s in sources if name in s.labels]
        if own:
            targets[split] = np.concatenate(own)
            vocabulary = next(s.labels[name].vocabulary for s in sources if name in s.labels)
    names, shares = (_of_classes if vocabulary else _of_numbers)(targets, vocabulary)
    if not shares:
        return None
    order = list(range(len(names)))
    if len(names) > SHOWN_BARS:
        order = np.argsort(-np.sum(list(shares.values()), axis=0), kind="stable").tolist()
    return Bars(
        f"data-{name}",
        f"{name}, % of the labelled images",
        [names[i] for i in order],
        {split: [round(float(values[i]), 1) for i in order] for split, values in shares.items()},
        note=_most_frequent(len(order)),
    )


def _most_frequent(classes: int) -> str:
    return f"The {SHOWN_BARS} most frequent of {classes} classes." if classes > SHOWN_BARS else ""


def _of_classes(
    targets: Mapping[str, np.ndarray], vocabulary: Sequence[str]
) -> tuple[list[str], dict[str, np.ndarray]]:
    shares = {}
    for split, values in targets.items():
        if values.ndim == 1:
            labelled = int((values >= 0).sum())
            counts = np.bincount(values[values >= 0], minlength=len(vocabulary)).astype(float)
        else:
            labelled = int((~np.isnan(values)).any(axis=1).sum())
            counts = np.nansum(values, axis=0)
        if labelled:
            shares[f"{split} ({labelled})"] = 100 * counts / labelled
    return list(vocabulary), shares


def _of_numbers(
    targets: Mapping[str, np.ndarray], _: Sequence[str]
) -> tuple[list[str], dict[str, np.ndarray]]:
    known = {split: values[~np.isnan(values)] for split, values in targets.items()}
    known = {split: values for split, values in known.items() if len(values)}
    if not known:
        return [], {}
    every = np.concatenate(list(known.values()))
    distinct = np.unique(every)
    if len(distinct) <= VALUES:
        names = [f"{value:g}" for value in distinct]
        counts = {
            s: np.bincount(np.searchsorted(distinct, v), minlength=len(names)) for s, v in known.items()
        }
    else:
        edges = np.histogram_bin_edges(every, BINS)
        names = [f"{low:.4g} to {high:.4g}" for low, high in pairwise(edges)]
        counts = {split: np.histogram(values, edges)[0] for split, values in known.items()}
    return names, {f"{s} ({len(known[s])})": 100 * c / len(known[s]) for s, c in counts.items()}


def _corrected(splits: Splits) -> Table:
    rows: list[list[Value]] = [
        [split, source.index.path, line]
        for split, sources in splits.items()
        for source in sources
        for line in source.index.report.lines()[1:]
    ]
    note = "" if rows else "Nothing: the annotations are sound."
    return Table(
        "data-corrected", "What validation put right or left out", ["split", "file", "what"], rows, note=note
    )


def _spread(values: np.ndarray) -> str:
    """Return `least / median / most`, or one number where they are equal."""
    if not len(values):
        return ""
    three = [f"{v:g}" for v in (values.min(), np.median(values), values.max())]
    return three[0] if len(set(three)) == 1 else " / ".join(three)
