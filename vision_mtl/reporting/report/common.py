"""Figures that several heads have."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vision_mtl.metrics.calibration import Reliability
from vision_mtl.reporting.report.figures import Curve, Curves, Figure, Matrix, Table, Value

MANY = 20  # classes that a picture can still show
LINES = 8  # that can be told apart
CONFUSIONS = 30  # pairs of classes in the list of the largest


def most_frequent(support: np.ndarray) -> list[int]:
    """Return the classes (K,) with the highest counts above 0, at most `LINES`, in class order."""
    order = np.argsort(-support, kind="stable")[:LINES]
    return sorted(int(i) for i in order if support[i] > 0)


def calibration_figure(key: str, title: str, found: Reliability, labels: tuple[str, str]) -> Curves:
    """Return what was right against how sure the head was."""
    x = [value for value in found.confidence if value is not None]
    y = [value for value in found.right if value is not None]
    error = (
        "" if found.ece is None else f"Expected calibration error {found.ece:.3f} (Guo et al., ICML 2017). "
    )
    return Curves(
        key,
        title,
        *labels,
        [Curve(labels[1], x, y)] if x else [],
        y_range=(0, 1),
        x_range=(0, 1),
        diagonal=True,
        note=f"{error}Below the dashed line the head is surer than it should be.",
    )


def pictures_first(figures: Sequence[Figure]) -> list[Figure]:
    """Return the figures with tables at the end."""
    return sorted(figures, key=lambda figure: isinstance(figure, Table))


def confusion_figures(
    key: str, counts: np.ndarray, names: Sequence[str], note: str = "", background: bool = False
) -> list[Figure]:
    """Return the confusion matrix (K, K) of `names`, and of many classes those that are confused most.

    Of more than `MANY` classes the picture shows the ones with the most confusions, and the last one too if
    it is the `background`; the list names the largest.
    """
    wrong = counts * (1 - np.eye(len(names), dtype=np.int64))
    shown = list(range(len(names)))
    if len(names) > MANY:
        share = (wrong.sum(axis=0) + wrong.sum(axis=1)).astype(np.float64)
        share[-1] += np.inf if background else 0
        shown = sorted(np.argsort(-share, kind="stable")[:MANY].tolist())
        note = f"{note} Of {len(names)} classes the {MANY} that are confused most.".strip()
    figures: list[Figure] = [
        Matrix(
            f"{key}-confusion",
            "Confusion matrix",
            [names[i] for i in shown],
            [names[i] for i in shown],
            counts[np.ix_(shown, shown)].tolist(),
            note,
        )
    ]
    if len(names) > MANY:
        flat = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSIONS]
        pairs = [divmod(int(place), len(names)) for place in flat]
        cells: list[list[Value]] = [
            [names[i], names[j], int(wrong[i, j]), int(wrong[i, j]) / max(1, int(counts[i].sum()))]
            for i, j in pairs
            if wrong[i, j]
        ]
        columns = ["true", "predicted", "number", "share of the true"]
        figures.append(
            Table(f"{key}-confusions", "Largest confusions", columns, cells, ("share of the true",))
        )
    return figures
