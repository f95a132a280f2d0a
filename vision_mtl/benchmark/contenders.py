"""Detectors that are compared: torchvision's own models and our heads, on the same trunk.

All are trained by one loop, so each is wrapped to the same two calls: batch to loss, batch to detections.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models.detection import FCOS, FasterRCNN, RetinaNet
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool, LastLevelP6P7

from vision_mtl.heads.base import LabelInfo
from vision_mtl.heads.fcos import FcosConfig
from vision_mtl.heads.retinanet import RetinanetConfig
from vision_mtl.models.multitask import AnyHeadConfig, ModelConfig, MultiTaskModel, build_model
from vision_mtl.models.precision import mixed_precision
from vision_mtl.models.trunk import MEAN, STD, TrunkConfig
from vision_mtl.structures import Batch, Detections

HEAD = "objects"
PILOT = "ours fcos task-aligned"  # whose short runs choose the learning rate of all our heads


Loss = Callable[[nn.Module, Batch, torch.dtype], Tensor]
Detect = Callable[[nn.Module, Batch, torch.dtype], list[Detections]]


class Unresized(GeneralizedRCNNTransform):
    """torchvision's own normalisation and padding, for images that our loader has resized."""

    def __init__(self) -> None:
        super().__init__(min_size=1, max_size=1, image_mean=MEAN, image_std=STD)

    def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
        """Return both as they are."""
        return image, target


class Contender(nn.Module):
    """A detector under test: a network, and how its users call it.

    Args:
        network: the detector.
        loss: (network, batch, dtype) -> the loss () of a batch, the network running in `dtype`.
        detect: (network, batch, dtype) -> each image's detections in original pixels.
    """

    def __init__(self, network: nn.Module, loss: Loss, detect: Detect) -> None:
        super().__init__()
        self.network, self._loss, self._detect = network, loss, detect

    def loss(self, batch: Batch, dtype: torch.dtype) -> Tensor:
        return self._loss(self.network, batch, dtype)

    def detect(self, batch: Batch, dtype: torch.dtype) -> list[Detections]:
        return self._detect(self.network, batch, dtype)


def our_loss(network: nn.Module, batch: Batch, dtype: torch.dtype) -> Tensor:
    """Return the loss () of our network."""
    assert isinstance(network, MultiTaskModel)
    with mixed_precision(batch.images.device, dtype):
        features, outputs = network(batch.images, batch.sizes)
    return torch.stack(list(network.losses(features, outputs, batch)[HEAD].values())).sum()


def our_detections(network: nn.Module, batch: Batch, dtype: torch.dtype) -> list[Detections]:
    """Return the detections of our network, in original pixels."""
    assert isinstance(network, MultiTaskModel)
    with mixed_precision(batch.images.device, dtype):
        features, outputs = network(batch.images, batch.sizes)
    found = network.predict(network.decode(features, outputs), batch.metas)[HEAD]
    return list(found)  # type: ignore[arg-type]


def peer_images(batch: Batch) -> list[Tensor]:
    """Return each image without its padding, (3, H, W) float32 in 0..1, as torchvision takes them."""
    return [
        image[:, :height, :width].float() / 255
        for image, (height, width) in zip(batch.images, batch.sizes.tolist(), strict=True)
    ]


def peer_loss(network: nn.Module, batch: Batch, dtype: torch.dtype, offset: int) -> Tensor:
    """Return the loss () of a torchvision detector; crowds are left out, as its reference scripts do.

    `offset` is its label of our class 0: 1 where 0 is the background, else 0.
    """
    objects = (batch.classes >= 0) & ~batch.ignore
    targets = [
        {"boxes": boxes[kept], "labels": classes[kept] + offset}
        for boxes, classes, kept in zip(batch.boxes, batch.classes, objects, strict=True)
    ]
    with mixed_precision(batch.images.device, dtype):
        terms = network(peer_images(batch), targets)
    return torch.stack([term.float() for term in terms.values()]).sum()


def peer_detections(network: nn.Module, batch: Batch, dtype: torch.dtype, offset: int) -> list[Detections]:
    """Return the detections of a torchvision detector, in original pixels; `offset` as in `peer_loss`."""
    with mixed_precision(batch.images.device, dtype):
        answers = network(peer_images(batch))
    return [
        Detections(
            answer["boxes"].float().cpu() * torch.tensor(meta.scale * 2),
            answer["scores"].float().cpu(),
            answer["labels"].cpu() - offset,
        )
        for answer, meta in zip(answers, batch.metas, strict=True)
    ]


def peer(network: nn.Module, offset: int) -> Contender:
    """Return a torchvision detector as a contender: it normalises and pads, but does not resize."""
    network.transform = Unresized()
    return Contender(network, partial(peer_loss, offset=offset), partial(peer_detections, offset=offset))


def torchvision_backbone(trunk: TrunkConfig, finest: int, extra: nn.Module) -> BackboneWithFPN:
    """Return torchvision's ResNet-FPN of our trunk's depth and width, from random weights, all trainable."""
    body = getattr(resnet, trunk.name)(weights=None)
    width = body.inplanes // 8
    stages = range(finest - 1, 5)
    layers = OrderedDict((f"layer{stage}", str(i)) for i, stage in enumerate(stages))
    channels = [width * 2 ** (stage - 1) for stage in stages]
    return BackboneWithFPN(body, layers, channels, trunk.channels, extra_blocks=extra)


def build_peer(kind: str, trunk: TrunkConfig, classes: int, head: FcosConfig) -> Contender:
    """Return torchvision's `fcos`, `retinanet` or `faster_rcnn`, as its builders put it together.

    Two of its settings are ours: the score threshold (its own, up to 0.2, would cut its AP short) and the
    detections per image.
    """
    if kind == "faster_rcnn":
        backbone = torchvision_backbone(trunk, 2, LastLevelMaxPool())
        scores = {"box_score_thresh": head.score_threshold, "box_detections_per_img": head.max_detections}
        return peer(FasterRCNN(backbone, classes + 1, **scores), 1)
    backbone = torchvision_backbone(trunk, 3, LastLevelP6P7(trunk.channels, trunk.channels))
    model = {"fcos": FCOS, "retinanet": RetinaNet}[kind]
    scores = {"score_thresh": head.score_threshold, "detections_per_img": head.max_detections}
    return peer(model(backbone, classes, **scores), 0)


def build_ours(head: AnyHeadConfig, trunk: TrunkConfig, labels: LabelInfo) -> Contender:
    """Return one of our heads on our trunk, from random weights."""
    network = build_model(ModelConfig(trunk=trunk, heads={HEAD: head}), {HEAD: labels})
    return Contender(network, our_loss, our_detections)


def contenders(trunk: TrunkConfig, head: FcosConfig, labels: LabelInfo) -> dict[str, Callable[[], Contender]]:
    """Return what is compared: name -> a function that builds it with fresh weights.

    Args:
        trunk: the trunk of all of them, without pretrained weights.
        head: our dense detector as the recipe has it; what the name says is put in its place.
        labels: the classes.
    """
    # Each assigner with the loss and the third branch of its paper, and the one that won with plain BCE too.
    hard = msgspec.structs.replace(head, class_loss="focal", quality="centreness")
    ours: dict[str, AnyHeadConfig] = {
        "fcos atss": msgspec.structs.replace(hard, assigner="atss"),
        "fcos atss bce": msgspec.structs.replace(hard, assigner="atss", class_loss="bce"),
        "fcos task-aligned": msgspec.structs.replace(
            head, assigner="task_aligned", class_loss="bce", quality="none"
        ),
        "fcos centre": msgspec.structs.replace(hard, assigner="centre", bins=0, box_weight=1.0),
        "retinanet": RetinanetConfig(
            score_threshold=head.score_threshold, max_detections=head.max_detections
        ),
    }
    build: dict[str, Callable[[], Contender]] = {
        f"ours {name}": partial(build_ours, config, trunk, labels) for name, config in ours.items()
    }
    for kind in ("fcos", "retinanet", "faster_rcnn"):
        build[f"torchvision {kind}"] = partial(build_peer, kind, trunk, len(labels.names), head)
    return build
