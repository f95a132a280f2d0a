"""The network: one trunk, any heads by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from vision_mtl.errors import ConfigError
from vision_mtl.heads.base import Decoded, Head, LabelInfo, Outputs, TrunkInfo
from vision_mtl.heads.classification import ClassificationConfig, MultilabelConfig
from vision_mtl.heads.faster_rcnn import FasterRcnnConfig
from vision_mtl.heads.fcos import FcosConfig
from vision_mtl.heads.regression import RegressionConfig
from vision_mtl.heads.retinanet import RetinanetConfig
from vision_mtl.models.published import check_weights
from vision_mtl.models.trunk import Trunk, TrunkConfig
from vision_mtl.structures import Batch, Features, ImageMeta, Prediction

AnyHeadConfig = (
    FcosConfig
    | RetinanetConfig
    | FasterRcnnConfig
    | ClassificationConfig
    | MultilabelConfig
    | RegressionConfig
)


class ModelConfig(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """The network.

    Attributes:
        trunk: the shared part.
        heads: the heads by name; the name is the head's in tables, losses and predictions.
        weights: what the whole network starts from; null for `trunk.weights` and fresh heads.
    """

    trunk: TrunkConfig
    heads: dict[str, AnyHeadConfig]
    weights: str | None = None

    def check(self) -> None:
        """Raise ConfigError for settings that cannot work together."""
        self.trunk.check()
        if self.trunk.norm == "frozen" and self.trunk.weights is None and self.weights is None:
            raise ConfigError(
                "trunk.norm: found 'frozen' with trunk.weights null; frozen statistics need pretrained "
                "weights: set trunk.weights=imagenet, or trunk.norm=batch to train from random weights"
            )
        if self.weights is not None:
            if self.trunk.weights is not None:
                raise ConfigError(
                    "weights and trunk.weights: found both, expected one; weights fill the trunk too: set "
                    "trunk.weights=null"
                )
            check_weights(self.weights, self.trunk)
        if not self.heads:
            raise ConfigError("heads: found none, expected at least one, e.g. heads={objects: {type: fcos}}")
        for name, head in self.heads.items():
            if not name.isidentifier():
                raise ConfigError(f"heads: found the name {name!r}, expected letters, digits and _ only")
            if hasattr(nn.ModuleDict(), name):
                raise ConfigError(
                    f"heads: found the name {name!r}, which torch keeps for itself; choose another"
                )
            head.check(name)
        detectors = [name for name, head in self.heads.items() if head.label_source() is None]
        if len(detectors) > 1:
            raise ConfigError(
                f"heads: found {len(detectors)} detection heads ({', '.join(detectors)}), expected one"
            )


class MultiTaskModel(nn.Module):
    """Batches to losses or predictions, with one pass of the trunk for all heads.

    Args:
        trunk: images to features.
        heads: name -> head; the name is set on the head too.
    """

    def __init__(self, trunk: Trunk, heads: Mapping[str, Head]) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleDict(dict(heads))
        for name, head in heads.items():
            head.name = name

    def named_heads(self) -> dict[str, Head]:
        """Return the heads by name."""
        return dict(self.heads.items())  # type: ignore[arg-type]

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Features, dict[str, Outputs]]:
        """Return the features of (B, 3, H, W) uint8 images and every head's raw tensors."""
        features = self.trunk(images, sizes)
        return features, {name: head(features) for name, head in self.named_heads().items()}

    def losses(
        self, features: Features, outputs: dict[str, Outputs], batch: Batch
    ) -> dict[str, dict[str, Tensor]]:
        """Return head name -> term name -> loss (), each in fp32 whatever the network's precision."""
        return {name: head.loss(outputs[name], features, batch) for name, head in self.named_heads().items()}

    def decode(self, features: Features, outputs: dict[str, Outputs]) -> dict[str, Decoded]:
        """Return head name -> fixed-shape tensors."""
        return {name: head.decode(outputs[name], features) for name, head in self.named_heads().items()}

    def predict(
        self, decoded: dict[str, Decoded], metas: Sequence[ImageMeta]
    ) -> dict[str, Sequence[Prediction]]:
        """Return head name -> one prediction per image, in original pixels."""
        return {name: head.predict(decoded[name], metas) for name, head in self.named_heads().items()}

    def describe(self, predictions: dict[str, Prediction]) -> dict[str, Any]:
        """Return one image's predictions with names in place of numbers, ready for JSON."""
        heads = self.named_heads()
        return {name: heads[name].describe(prediction) for name, prediction in predictions.items()}


def build_model(config: ModelConfig, labels: dict[str, LabelInfo]) -> MultiTaskModel:
    """Return the network with random weights, in channels-last memory.

    Args:
        config: a checked config.
        labels: head name -> what it answers with.

    Raises:
        ConfigError: a head that does not fit the trunk or the data's classes.
    """
    trunk = Trunk(config.trunk)
    info = TrunkInfo(trunk.stage_channels, trunk.channels, tuple(trunk.strides))
    heads = {}
    for name, head in config.heads.items():
        try:
            heads[name] = head.build(info, labels[name])
        except ConfigError as error:
            raise ConfigError(f"heads.{name}: {error}") from error
    return MultiTaskModel(trunk, heads).to(memory_format=torch.channels_last)
