"""The Python API of inference: what `tools/infer.py` does with images, for scripts.

from vision_mtl.predict import Predictor

predictor = Predictor.from_checkpoint("runs/parts-1/checkpoints/best.pt")
for result in predictor.predict(["a.jpg", "b.jpg"]):
    print(result.to_dict())
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from vision_mtl.commands.pipelines import open_trained, pipeline_of
from vision_mtl.data.images import BadImageError
from vision_mtl.errors import ConfigError
from vision_mtl.inference.pipeline import Pipeline
from vision_mtl.inference.results import Result
from vision_mtl.inference.samples import Image

__all__ = ["Predictor", "Result"]


@dataclass(frozen=True)
class Predictor:
    """A trained network that answers images.

    Attributes:
        pipeline: the network and how it is run.
    """

    pipeline: Pipeline

    @classmethod
    def from_checkpoint(
        cls,
        path: str | os.PathLike[str],
        threshold: float | None = None,
        overrides: Sequence[str] = (),
        compiled: bool = False,
    ) -> Predictor:
        """Open `best.pt` or `last.pt` of a run, a .safetensors that `tools/export.py` made of one, or a
        config (.yaml) with COCO weights.

        Args:
            path: the file.
            threshold: lowest score of a detection; None for the thresholds that `tools/evaluate.py
                --operating-points` stored with the checkpoint, of labels too, or 0.3 where none are.
            overrides: `key=value` changes to the config, e.g. `training.device=cpu`.
            compiled: let torch.compile make the network faster, for a minute or more of compiling.

        Raises:
            CheckpointError: a file that cannot be read or does not fit.
            ConfigError: a wrong threshold, config or override.
        """
        if threshold is not None and not 0 <= threshold <= 1:
            raise ConfigError(f"threshold: found {threshold}, expected a number from 0 to 1")
        return cls(pipeline_of(open_trained(os.fspath(path), overrides), threshold, compiled))

    def predict(self, images: Image | Iterable[Image], skip_bad: bool = False) -> list[Result]:
        """Return one result per image, in order.

        Args:
            images: files, arrays (H, W, 3) uint8 RGB or tensors (3, H, W) RGB, uint8 or floats from 0 to 1; a
                single one gives a list of one.
            skip_bad: return a result with a `reason` for a file that cannot be read, and do not raise.

        Raises:
            BadImageError: a file cannot be read.
            DataError: an image is of another kind.
            NumericsError: a head answers with a number that is not finite.
        """
        return list(self.stream(images, skip_bad))

    def stream(self, images: Image | Iterable[Image], skip_bad: bool = False) -> Iterator[Result]:
        """Yield what `predict` returns, in memory that does not grow: for any number of images."""
        is_one = isinstance(images, (str, os.PathLike)) or (
            isinstance(images, (np.ndarray, Tensor)) and images.ndim == 3
        )
        for result in self.pipeline.stream([images] if is_one else images):  # type: ignore[list-item, arg-type]
            if result.reason is not None and not skip_bad:
                raise BadImageError(str(result.path), result.reason)
            yield result
