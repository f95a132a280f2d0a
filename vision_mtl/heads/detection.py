"""What the detection heads' configs have in common."""

from __future__ import annotations

import msgspec

from vision_mtl.errors import ConfigError
from vision_mtl.heads.base import HeadConfig


class DetectionConfig(HeadConfig, kw_only=True):
    """From scored boxes to detections, and how much a class counts.

    Attributes:
        class_weights: class name -> factor on its classification loss; 1 for the others.
        score_threshold: detections below it are dropped.
        nms_threshold: of two boxes of a class that overlap by more than this IoU, the better stays.
        candidates: highest-scored (box, class) pairs that go into NMS, per image.
        max_detections: per image.
    """

    class_weights: dict[str, float] = msgspec.field(default_factory=dict)
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    candidates: int = 1000
    max_detections: int = 100

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
