"""Whether what is said with 70% confidence is right in 70% of the cases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Reliability:
    """Answers by confidence, in bins of equal width over [0, 1]; what an empty bin has no value of is None.

    Attributes:
        edges: (bins + 1,) float64; a bin holds its lower edge, the last one both.
        counts: (bins,) int64.
        confidence: mean confidence in each bin.
        right: share of right answers in each bin.
        ece: the expected calibration error of Guo et al., "On Calibration of Modern Neural Networks", ICML
            2017 (https://arxiv.org/abs/1706.04599), equation 3: the mean over all answers of the distance
            between the two; None without answers.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: list[float | None]
    right: list[float | None]
    ece: float | None


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = 10) -> Reliability:
    """Bin answers.

    Args:
        confidence: (N,) in [0, 1]; what lies outside counts to the bin at that end.
        right: (N,) bool.
        bins: how many.
    """
    edges = np.arange(bins + 1) / bins  # exactly the decimals that people write
    places = np.clip(np.searchsorted(edges, confidence, side="right") - 1, 0, bins - 1)
    counts = np.bincount(places, minlength=bins)
    confidences = np.bincount(places, weights=confidence, minlength=bins)
    hits = np.bincount(places, weights=right, minlength=bins)
    ece = float(np.abs(confidences - hits).sum() / len(places)) if len(places) else None
    return Reliability(edges, counts, _means(confidences, counts), _means(hits, counts), ece)


def _means(sums: np.ndarray, counts: np.ndarray) -> list[float | None]:
    return [float(total / count) if count else None for total, count in zip(sums, counts, strict=True)]
