"""torchvision's FCOS as its builder makes it, trained and asked as its references do."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection import FCOS
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from vision_mtl.benchmark.contenders import HEAD, torchvision_backbone
from vision_mtl.benchmark.detectors import (
    DEFAULT_HEAD,
    LEARNING_RATE,
    Setting,
    first_images,
    open_ours,
    set_candidates,
    settle,
)
from vision_mtl.benchmark.process import Apart, Call, apart
from vision_mtl.benchmark.variants import PeerVariant, peer_variants
from vision_mtl.commands.train import seed_everything
from vision_mtl.errors import NumericsError
from vision_mtl.models.precision import mixed_precision
from vision_mtl.models.trunk import TrunkConfig
from vision_mtl.structures import Batch

PEER_CLASSES = 91  # COCO's ids, unused ones included, as torchvision counts them; ours are the 80


@contextmanager
def peer_calls(
    make: Callable[..., Call], device: torch.device, *arguments: Any, elsewhere: Apart = apart
) -> Iterator[dict[str, Call]]:
    """Yield name -> a call of each of the peer's ways.

    Args:
        make: returns the call; gets the way, the device and the arguments.
        device: where the networks are.
        arguments: picklable.
        elsewhere: makes a call of a process of its own.
    """
    with ExitStack() as stack:
        calls = {}
        for name, variant in peer_variants(device).items():
            given = (variant, device, *arguments)
            calls[name] = stack.enter_context(elsewhere(make, *given)) if variant.untuned else make(*given)
        yield calls


def peer_training(variant: PeerVariant, device: torch.device, setting: Setting) -> Call:
    """Return a call that takes one training step on the setting's images."""
    batch = open_ours(setting, {HEAD: DEFAULT_HEAD}, device).batch
    return peer_step(build_peer(setting, device, variant.channels_last), batch, device, variant.dtype)


def peer_inference(
    variant: PeerVariant, device: torch.device, setting: Setting, wanted: int, count: int
) -> Call:
    """Return a call that answers the setting's first `count` images, with `wanted` candidates in each."""
    batch = open_ours(setting, {HEAD: DEFAULT_HEAD}, device).batch
    network = build_peer(setting, device, variant.channels_last)
    prepare_peer(network, batch, device, wanted)
    return peer_answer(network, first_images(batch, count), device, variant.dtype)


def build_peer(setting: Setting, device: torch.device, channels_last: bool = False) -> FCOS:
    """Return torchvision's `fcos_resnet50_fpn` with random weights: all layers train, with batch norm.

    Without weights its builder freezes nothing, as ours does not by default.
    """
    seed_everything(0)
    trunk = TrunkConfig(name=setting.trunk, channels=setting.channels)  # type: ignore[arg-type]
    backbone = torchvision_backbone(trunk, 3, LastLevelP6P7(setting.channels, setting.channels))
    shorter, longer = sorted((setting.height, setting.width))
    network = FCOS(backbone, PEER_CLASSES, min_size=shorter, max_size=longer).to(device)
    return network.to(memory_format=torch.channels_last) if channels_last else network


def peer_images(batch: Batch) -> list[Tensor]:
    """Return the images as torchvision's transforms hand them over: (3, H, W) float32 in 0..1."""
    return [image.contiguous().float() / 255 for image in batch.images]


def peer_targets(batch: Batch) -> list[dict[str, Tensor]]:
    """Return the boxes as torchvision's detectors take them."""
    return [
        {"boxes": boxes[classes >= 0], "labels": classes[classes >= 0] + 1}
        for boxes, classes in zip(batch.boxes, batch.classes, strict=True)
    ]


def peer_step(network: nn.Module, batch: Batch, device: torch.device, dtype: torch.dtype) -> Call:
    """Return a call that takes one step as torchvision's `references/detection/engine.py` does, with SGD."""
    network.train()
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=LEARNING_RATE, momentum=0.9, weight_decay=1e-4)
    images, targets = peer_images(batch), peer_targets(batch)

    def step(_: int) -> None:
        moved = [image.to(device) for image in images]
        truth = [{key: value.to(device) for key, value in target.items()} for target in targets]
        with mixed_precision(device, dtype):
            terms = network(moved, truth)
            loss = reduce(torch.add, terms.values())
        if not math.isfinite(loss.item()):
            raise NumericsError("the loss of torchvision's network is not finite; run the part again")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def peer_answer(network: nn.Module, batch: Batch, device: torch.device, dtype: torch.dtype) -> Call:
    """Return a call that answers a batch of float images, NMS included."""
    network.eval()
    images = peer_images(batch)

    @torch.inference_mode()
    def answer(_: int) -> None:
        with mixed_precision(device, dtype):
            found = network([image.to(device) for image in images])
        for each in found:
            each["boxes"].cpu()

    return answer


@torch.no_grad()
def prepare_peer(network: FCOS, batch: Batch, device: torch.device, wanted: int) -> None:
    """Do to torchvision's detector what `prepare_ours` does to ours; first boxes are of our size too."""
    images = network.transform.eval()([image.to(device) for image in peer_images(batch)])[0].tensors
    settle(network.backbone, lambda: network.backbone(images))
    # Ours start with boxes of two strides to each side; the peer's would start without area.
    nn.init.constant_(network.head.regression_head.bbox_reg.bias, 2.0)
    network.eval()
    outputs = network.head(list(network.backbone(images).values()))
    layer = network.head.classification_head.cls_logits
    quality = outputs["bbox_ctrness"][..., 0]
    set_candidates(layer, outputs["cls_logits"], quality, network.score_thresh, wanted)
