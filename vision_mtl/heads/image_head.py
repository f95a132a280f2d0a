"""What the image-level heads' configs have in common."""

from __future__ import annotations

from typing import Literal

from vision_mtl.errors import ConfigError
from vision_mtl.heads.base import HeadConfig, TrunkInfo
from vision_mtl.heads.context import EvidenceLogits
from vision_mtl.heads.pooling import FeatureName, PooledLogits, feature_channels


class ImageHeadConfig(HeadConfig, kw_only=True):
    """From features to one answer per image, and where its label comes from.

    Attributes:
        features: what the head reads: a stage of the trunk, or all levels of the pyramid.
        pool: `avg`, `gem` (generalised mean) or `attention` (class-specific residual attention).
        attention_share: how much the strongest cells of a class add to the mean, for `pool: attention`; the
            smaller the objects that a label is about, the more.
        attention_temperature: of the softmax over the cells that says which ones are strong, for
            `pool: attention`; null for the strongest one alone, the limit of high temperatures.
        hidden: width of a hidden layer, 0 for none.
        dropout: probability, before the last layer.
        field: `images[].attributes.<field>`, for source `attribute`.
        file: CSV file, relative to `data.root`, for source `csv`.
        column: of that file, for source `csv`.
        categories: names of the categories to regard, for sources made from boxes; null for all.
        detections: name of a dense detection head (fcos or retinanet). What it sees of each of its classes
            anywhere in the image adds to the answer, by weights that are learned from 0; the detection head
            learns nothing from it. Null for none.
    """

    features: FeatureName = "c5"
    pool: Literal["avg", "gem", "attention"] = "avg"
    attention_share: float = 0.3
    attention_temperature: float | None = None
    hidden: int = 0
    dropout: float = 0.0
    field: str | None = None
    file: str | None = None
    column: str | None = None
    categories: list[str] | None = None
    detections: str | None = None

    def check(self, name: str) -> None:
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"heads.{name}.dropout: found {self.dropout}, expected 0 to below 1")
        for key in ("hidden", "attention_share"):
            if getattr(self, key) < 0:
                raise ConfigError(f"heads.{name}.{key}: found {getattr(self, key)}, expected 0 or more")
        if self.attention_temperature is not None:
            place = f"heads.{name}.attention_temperature: found {self.attention_temperature}"
            if self.pool != "attention":
                raise ConfigError(f"{place} with pool={self.pool}; set pool=attention, or remove it")
            if self.attention_temperature <= 0:
                raise ConfigError(f"{place}, expected above 0, or null for the strongest cell alone")

    def pooled(self, trunk: TrunkInfo, out: int) -> PooledLogits:
        """Return the module from features to `out` logits."""
        return PooledLogits(
            feature_channels(self.features, trunk.stage_channels, trunk.channels),
            out,
            self.pool,
            self.hidden,
            self.dropout,
            self.attention_share,
            self.attention_temperature,
        )

    def from_detections(self, trunk: TrunkInfo, out: int) -> EvidenceLogits | None:
        """Return the module from a detection head's evidence to what it adds to `out` logits, or None."""
        return None if self.detections is None else EvidenceLogits(trunk.evidence, out)

    def reads_pyramid(self) -> bool:
        return self.features == "pyramid"
