"""How much each class counts in a head's loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from vision_mtl.errors import ConfigError, nearest
from vision_mtl.heads.base import LabelInfo

LARGEST_RATIO = 100.0  # of balanced labels: one image of a very rare label is not to drown all others

ClassWeights = Mapping[str, float] | str | None  # class name -> factor, `balanced`, or the same for all


def class_factors(weights: Mapping[str, float], names: Sequence[str]) -> Tensor:
    """Return the factor (K,) on each named class's loss, 1 where `weights` has none.

    Raises:
        ConfigError: a weight of no class of the data.
    """
    for name in weights:
        if name not in names:
            raise ConfigError(
                f"class_weights: found '{name}', expected classes of the data: {', '.join(names)}"
                f"{nearest(name, names)}"
            )
    return torch.tensor([weights.get(name, 1.0) for name in names])


def check_class_weights(name: str, weights: ClassWeights) -> None:
    """Raise ConfigError for weights of the image-level head `name` that are no ClassWeights above 0."""
    place = f"heads.{name}.class_weights"
    if isinstance(weights, str):
        if weights != "balanced":
            raise ConfigError(
                f"{place}: found '{weights}', expected balanced, null, or factors by class name, "
                "e.g. {rare: 2.0}"
            )
        return
    for label, factor in (weights or {}).items():
        # At 0 a batch of this class alone would have labels and no loss.
        if factor <= 0:
            raise ConfigError(f"{place}.{label}: found {factor}, expected above 0")


def softmax_factors(weights: ClassWeights, labels: LabelInfo) -> Tensor:
    """Return the factor (K,) on the loss of images of each class, for one label per image.

    `balanced` is N / (K n): N training labels, K classes that occur among them, n labels of the class; so
    each class counts the same in sum, and the mean over the training labels is 1. A class that never
    occurs has 1.

    Raises:
        ConfigError: a weight of no class, or `balanced` without counts.
    """
    if not isinstance(weights, str):
        return class_factors(weights or {}, labels.names)
    counts = _counts(labels)
    occurs = counts > 0
    return torch.where(occurs, counts.sum() / (occurs.sum() * counts.clamp(min=1)), 1.0)


def sigmoid_factors(weights: ClassWeights, labels: LabelInfo) -> Tensor:
    """Return the factors (2, K) on the loss of absent (row 0) and present labels (row 1) of each class.

    Factors by name hold for both. `balanced` leaves absent labels at 1 and gives present ones the ratio of
    training images known to be without the class to those with it, kept within 1 and 100.

    Raises:
        ConfigError: a weight of no class, or `balanced` without counts.
    """
    if not isinstance(weights, str):
        return class_factors(weights or {}, labels.names).repeat(2, 1)
    ratios = torch.tensor(labels.absent) / _counts(labels).clamp(min=1)
    return torch.stack([torch.ones_like(ratios), ratios.clamp(1.0, LARGEST_RATIO)])


def _counts(labels: LabelInfo) -> Tensor:
    """Return the training images (K,) int64 that have each class."""
    if len(labels.counts) != len(labels.names):
        raise ConfigError(
            "class_weights: found 'balanced', but how often each class occurs in the training data is not "
            "known here (older checkpoints do not store it); give factors by class name"
        )
    return torch.tensor(labels.counts)
