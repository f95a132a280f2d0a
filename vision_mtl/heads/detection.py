"""What the detection heads have in common."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from vision_mtl.errors import ConfigError
from vision_mtl.heads.base import HeadConfig
from vision_mtl.heads.dense.decoding import Candidates, to_detections
from vision_mtl.structures import Detections, ImageMeta


class DetectionConfig(HeadConfig, kw_only=True):
    """From scored boxes to detections, and how much a class counts.

    Attributes:
        class_weights: class name -> factor on its classification loss; 1 for the others.
        score_threshold: detections below it are dropped.
        nms_threshold: of two boxes of a class that overlap by more than this IoU, the better stays.
        candidates: highest-scored (box, class) pairs that go into NMS, per image.
        max_detections: per image.
        context: name of a multilabel head. Its probability that a class is in the image, to the power of a
            temperature that is learned when training ends, multiplies the scores of the class's boxes; its
            labels and our classes are matched by name, and a class without a label keeps its scores. This
            comes last: what the settings above cut stays cut, and what they keep stays. Null for none.
    """

    class_weights: dict[str, float] = msgspec.field(default_factory=dict)
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    candidates: int = 1000
    max_detections: int = 100
    context: str | None = None

    def check(self, name: str) -> None:
        for key in ("score_threshold", "nms_threshold"):
            if not 0 <= getattr(self, key) <= 1:
                raise ConfigError(f"heads.{name}.{key}: found {getattr(self, key)}, expected 0 to 1")
        for key in ("candidates", "max_detections"):
            if getattr(self, key) < 1:
                raise ConfigError(f"heads.{name}.{key}: found {getattr(self, key)}, expected at least 1")
        for label, weight in self.class_weights.items():
            if weight < 0:
                raise ConfigError(f"heads.{name}.class_weights.{label}: found {weight}, expected 0 or more")


def detections_of(
    decoded: Candidates, metas: Sequence[ImageMeta], config: DetectionConfig
) -> list[Detections]:
    """Return each image's detections in original pixels, as many and as good as the config asks for."""
    return to_detections(decoded, metas, config.score_threshold, config.nms_threshold, config.max_detections)
