"""How often an epoch shows each image: repeat-factor sampling.

Gupta et al., "LVIS", arXiv 1908.03195, "Repeat factor sampling": images with rare categories are repeated.
"""

from __future__ import annotations

import math

import numpy as np


def repeat_factors(
    rows: np.ndarray, classes: np.ndarray, annotated: np.ndarray, threshold: float
) -> np.ndarray:
    """Return the mean number of times that each of I images is shown per epoch, (I,) float64, at least 1.

    A category in the share f of the images gets max(1, sqrt(threshold / f)), an image the largest of its
    categories' factors, and an image without objects 1.

    Args:
        rows: (N,) int64, the image of each object; crowds left out.
        classes: (N,) int64.
        annotated: (I,) bool, False for images whose categories are not known: they are shown once and do not
            count for the shares.
        threshold: the share of images below which a category is rare.
    """
    factors = np.ones(len(annotated))
    count = classes.max(initial=0) + 1
    images, categories = np.divmod(np.unique(rows * count + classes), count)
    shares = np.bincount(categories) / max(1, annotated.sum())
    np.maximum.at(factors, images, np.sqrt(threshold / shares[categories]))
    return factors


def epoch_length(factors: np.ndarray) -> int:
    """Return the number of images that every epoch shows: the sum of the (I,) factors, rounded up."""
    return math.ceil(factors.sum())


def draw_images(factors: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return the images of one epoch in random order, (epoch_length(factors),) int64.

    Systematic sampling: the factors are laid end to end, in random order, and every whole step from a random
    start draws the image it falls on. So an image is shown as often as its factor says on average, in any
    epoch that number rounded up or down, and the length never varies, as independent rounding would have it.
    """
    order = generator.permutation(len(factors))
    count = epoch_length(factors)
    ends = factors[order].cumsum()
    # Stretched to whole steps, never shrunk: every image is shown at least once.
    ends *= count / ends[-1]
    ends[-1] = count
    points = generator.random() + np.arange(count)
    return generator.permutation(order[np.searchsorted(ends, points, side="right")])
