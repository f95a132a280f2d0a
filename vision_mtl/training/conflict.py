"""Whether tasks pull the trunk the same way: their gradients on it, compared every so many steps."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean, median
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from vision_mtl.training.balancing import gradient

KIND = "conflict"  # of the lines in metrics.jsonl


class Pair(msgspec.Struct, frozen=True):
    """Two tasks over a run.

    Attributes:
        tasks: their names.
        cosine: mean cosine between their gradients on the trunk.
        agree: share of the measured steps at which the cosine was positive: a step along one task's gradient
            also helped the other.
        steps: how many were measured with both tasks labelled.
    """

    tasks: tuple[str, str]
    cosine: float
    agree: float
    steps: int


class Conflict(msgspec.Struct, frozen=True):
    """A run's tasks, compared.

    Attributes:
        norms: task -> median norm of its weighted loss's gradient on the trunk.
        pairs: every two tasks that were labelled together.
        sentence: the same in words.
    """

    norms: dict[str, float]
    pairs: list[Pair]
    sentence: str


def measure_conflict(losses: Mapping[str, Tensor], shared: Sequence[nn.Parameter]) -> dict[str, Any] | None:
    """Return the gradients' norms and cosines at this step, as a line of metrics.jsonl holds them.

    Args:
        losses: labelled task -> weighted loss (); the graph is kept.
        shared: the trunk's parameters.

    Returns:
        `norms`: task -> norm; `cosines`: "one/other" -> cosine, where neither gradient is zero. None where a
        gradient is not finite: the step is left out, and says nothing.
    """
    rows = torch.stack(
        [torch.cat([part.flatten() for part in gradient(loss, shared)]) for loss in losses.values()]
    )
    products = (rows @ rows.T).cpu().double()
    if not products.isfinite().all():
        return None
    norms = products.diagonal().sqrt()
    cosines = {
        f"{a}/{b}": float(products[i, j] / (norms[i] * norms[j]))
        for (i, a), (j, b) in combinations(enumerate(losses), 2)
        if norms[i] and norms[j]
    }
    return {"norms": dict(zip(losses, norms.tolist(), strict=True)), "cosines": cosines}


def read_conflict(log: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl that `measure_conflict` made, in order of steps."""
    lines = (json.loads(line) for line in log.read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line["kind"] == KIND]


def summarize_conflict(lines: Iterable[Mapping[str, Any]]) -> Conflict | None:
    """Return what a run's lines say; None where no two tasks were ever labelled together."""
    norms: dict[str, list[float]] = {}
    cosines: dict[str, list[float]] = {}
    for line in lines:
        for name, norm in line["norms"].items():
            norms.setdefault(name, []).append(norm)
        for pair, cosine in line["cosines"].items():
            cosines.setdefault(pair, []).append(cosine)
    pairs = []
    for pair, values in cosines.items():
        a, b = pair.split("/")
        agree = sum(value > 0 for value in values) / len(values)
        pairs.append(Pair((a, b), round(fmean(values), 4), round(agree, 4), len(values)))
    if not pairs:
        return None
    medians = {name: float(f"{median(values):.4g}") for name, values in norms.items()}
    return Conflict(medians, pairs, _in_words(pairs, medians))


def _in_words(pairs: Sequence[Pair], norms: Mapping[str, float]) -> str:
    words = [
        f"{' and '.join(pair.tasks)} agree on {pair.agree:.0%} of {pair.steps} measured steps "
        f"(mean cosine {pair.cosine:+.2f})"
        for pair in pairs
    ]
    strongest, weakest = max(norms, key=norms.__getitem__), min(norms, key=norms.__getitem__)
    ratio = f"{norms[strongest] / norms[weakest]:.1f} times" if norms[weakest] else "infinitely"
    return f"{'; '.join(words)}. {strongest} pulls the trunk {ratio} as hard as {weakest}."
