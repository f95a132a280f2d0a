"""Training at several input sizes: every batch draws one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vision_mtl.data.augment import Augmentation

STREAM = 2  # keeps these draws apart from others that are made from the same numbers


@dataclass(frozen=True)
class MultiScale:
    """Augmentations that differ in the input size, one of which all images of a batch get.

    Attributes:
        augmentations: one per input size.
        batch_size: a key's position divided by it is the number of the batch.
    """

    augmentations: Sequence[Augmentation]
    batch_size: int

    def of_batch(self, seed: int, epoch: int, position: int) -> Augmentation:
        """Return the augmentation of the batch that `position` is in: a pure function of the arguments."""
        entropy = (seed, epoch, position // self.batch_size)
        generator = np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(STREAM,)))
        return self.augmentations[int(generator.integers(len(self.augmentations)))]
