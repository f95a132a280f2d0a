"""How often an epoch shows each image: by repeats and shares of the sources, and repeat-factor sampling.

Gupta et al., "LVIS", arXiv 1908.03195, "Repeat factor sampling": images with rare categories are repeated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def repeat_factors(
    rows: np.ndarray, classes: np.ndarray, annotated: np.ndarray, images: int, threshold: float
) -> np.ndarray:
    """Return how much more often each image is shown for its rare categories, (images,) float64, at least 1.

    A category in the share f of the images gets max(1, sqrt(threshold / f)), an image the largest of its
    categories' factors, and an image without objects 1.

    Args:
        rows: (N,) int64, the image of each object; crowds left out.
        classes: (N,) int64.
        annotated: (K,) int64, in how many images each class is annotated: its share is among those.
        images: how many there are.
        threshold: the share of images below which a category is rare.
    """
    factors = np.ones(images)
    count = max(1, len(annotated))
    at, categories = np.divmod(np.unique(rows * count + classes), count)
    shares = np.bincount(categories, minlength=len(annotated)) / np.maximum(1, annotated)
    np.maximum.at(factors, at, np.sqrt(threshold / shares[categories]))
    return factors


def source_factors(
    counts: Sequence[int], repeats: Sequence[int], weights: Sequence[float] | None, rare: np.ndarray
) -> np.ndarray:
    """Return the mean number of times that an epoch shows each of I images, (I,) float64, more than 0.

    Args:
        counts: how many images each source has, in order; they add up to I.
        repeats: how many times each source's images are shown.
        weights: each source's share of the epoch, relative to the others'; the epoch has as many images as
            by the repeats alone. None for the shares that the repeats give.
        rare: (I,) `repeat_factors`; with weights they decide within each source only.
    """
    parts = np.split(rare, np.cumsum(counts)[:-1])
    if weights is None:
        return np.concatenate([part * repeat for part, repeat in zip(parts, repeats, strict=True)])
    length = sum(count * repeat for count, repeat in zip(counts, repeats, strict=True))
    return np.concatenate(
        [
            part * (length * weight / sum(weights) / part.sum())
            for part, weight in zip(parts, weights, strict=True)
        ]
    )


def epoch_length(factors: np.ndarray) -> int:
    """Return the number of images that every epoch shows: the sum of the (I,) factors, rounded up."""
    return math.ceil(factors.sum().round(6))  # sums of shares are whole but for rounding


def draw_images(factors: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return the images of one epoch in random order, (epoch_length(factors),) int64.

    Systematic sampling: the factors are laid end to end, in random order, and every whole step from a random
    start draws the image it falls on. So an image is shown as often as its factor says on average, in any
    epoch that number rounded up or down, and the length never varies, as independent rounding would have it.
    """
    order = generator.permutation(len(factors))
    count = epoch_length(factors)
    ends = factors[order].cumsum()
    # Stretched to whole steps, never shrunk: an image with a factor of 1 or more is shown at least once.
    ends *= count / ends[-1]
    ends[-1] = count
    points = generator.random() + np.arange(count)
    return generator.permutation(order[np.searchsorted(ends, points, side="right")])
