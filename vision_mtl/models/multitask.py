"""The network: one trunk, any heads by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from vision_mtl.errors import ConfigError
from vision_mtl.heads.base import Decoded, Head, LabelInfo, Outputs, TrunkInfo
from vision_mtl.heads.classification import ClassificationConfig
from vision_mtl.heads.context import rescore_images
from vision_mtl.heads.faster_rcnn import FasterRcnnConfig
from vision_mtl.heads.fcos import FcosConfig
from vision_mtl.heads.multilabel import MultilabelConfig
from vision_mtl.heads.regression import RegressionConfig
from vision_mtl.heads.retinanet import RetinanetConfig
from vision_mtl.models.freezing import check_frozen
from vision_mtl.models.links import check_links, contexts, evidence_of
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
            if not head.weight > 0:
                raise ConfigError(f"heads.{name}.weight: found {head.weight}, expected more than 0")
            if head.lr_factor < 0:
                raise ConfigError(f"heads.{name}.lr_factor: found {head.lr_factor}, expected 0 or more")
            head.check(name)
        check_frozen(self.trunk, self.heads, self.weights)
        check_links(self.heads)
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

    Attributes:
        contexts: detection head -> what re-scores its boxes.
        sources: image-level head -> the detection head whose evidence it reads.

    Raises:
        ConfigError: a head that reads one which is not among them, or of which it knows no class.
    """

    def __init__(self, trunk: Trunk, heads: Mapping[str, Head]) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleDict(dict(heads))
        for name, head in heads.items():
            head.name = name
        configs = {name: head.config for name, head in heads.items()}
        check_links(configs)
        self.contexts = contexts(heads)
        self.sources = {name: source for name, config in configs.items() if (source := evidence_of(config))}

    def named_heads(self) -> dict[str, Head]:
        """Return the heads by name."""
        return dict(self.heads.items())  # type: ignore[arg-type]

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Features, dict[str, Outputs]]:
        """Return the features of (B, 3, H, W) uint8 images and every head's raw tensors.

        A head that reads another's evidence comes after it. In training mode frozen heads are left out:
        nothing would be done with their answers, unless a head reads their evidence.
        """
        features = self.trunk(images, sizes)
        heads, sources = self.named_heads(), self.sources
        asked = [name for name, head in heads.items() if not (self.training and head.frozen)]
        read = {sources[name] for name in asked if name in sources}
        outputs: dict[str, Outputs] = {}
        for name in sorted(heads, key=sources.__contains__):
            if name in asked and name in sources:
                evidence = heads[sources[name]].evidence(outputs[sources[name]], features)
                # Detached: the detector learns nothing from it.
                outputs[name] = heads[name](features, evidence.detach())
            elif name in asked or name in read:
                outputs[name] = heads[name](features)
        return features, {name: outputs[name] for name in asked}

    def losses(
        self, features: Features, outputs: dict[str, Outputs], batch: Batch
    ) -> dict[str, dict[str, Tensor]]:
        """Return head name -> term name -> loss () of the heads in `outputs`, each in fp32 whatever the
        network's precision."""
        heads = self.named_heads()
        return {name: heads[name].loss(output, features, batch) for name, output in outputs.items()}

    def decode(self, features: Features, outputs: dict[str, Outputs]) -> dict[str, Decoded]:
        """Return head name -> fixed-shape tensors."""
        return {name: head.decode(outputs[name], features) for name, head in self.named_heads().items()}

    def predict(
        self, decoded: dict[str, Decoded], metas: Sequence[ImageMeta]
    ) -> dict[str, Sequence[Prediction]]:
        """Return head name -> one prediction per image, in original pixels.

        Detections are re-scored by the head that is their context, if there is one, after both have answered.
        """
        heads = self.named_heads()
        found: dict[str, Sequence[Prediction]] = {
            name: head.predict(decoded[name], metas) for name, head in heads.items()
        }
        for name, context in self.contexts.items():
            temperature = float(heads[name].get_buffer("context_temperature"))
            found[name] = rescore_images(found[name], found[context.head], context.slots, temperature)
        return found

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
    trunk = Trunk(config.trunk, pyramid=any(head.reads_pyramid() for head in config.heads.values()))
    info = TrunkInfo(trunk.stage_channels, trunk.channels, tuple(trunk.strides))
    heads = {}
    for name, head in config.heads.items():
        source = evidence_of(head)
        evidence = 0 if source is None else len(labels[source].names)
        try:
            heads[name] = head.build(msgspec.structs.replace(info, evidence=evidence), labels[name])
        except ConfigError as error:
            raise ConfigError(f"heads.{name}: {error}") from error
        if head.frozen:
            heads[name].freeze()
    return MultiTaskModel(trunk, heads).to(memory_format=torch.channels_last)
