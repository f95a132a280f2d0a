"""torchvision's FCOS and both RetinaNets on our trunk and heads: same weights, detections and losses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection

from tests.heads.torchvision_weights import (
    Size,
    as_batch,
    assert_same_detections,
    enliven_dense,
    random_images,
    skip_resize,
    trunk_state,
    with_area,
)
from vision_mtl.heads.base import LabelInfo, TrunkInfo
from vision_mtl.heads.fcos import FcosConfig, FcosHead
from vision_mtl.heads.retinanet import RetinanetConfig, RetinanetHead
from vision_mtl.models.trunk import Trunk, TrunkConfig
from vision_mtl.structures import Detections

SLOTS = 91  # torchvision's COCO labels, unused ones included
LABELS = LabelInfo(tuple(f"class {i}" for i in range(SLOTS)), tuple(range(SLOTS)))
CONFIGS = {
    "fcos_resnet50_fpn": FcosConfig(
        depth=4,
        norm="group",
        points="corner",
        assigner="centre",
        class_loss="focal",
        quality="centreness",
        bins=0,
        box_weight=1.0,
        candidates_per_level=True,
        score_threshold=0.2,
    ),
    "retinanet_resnet50_fpn": RetinanetConfig(
        norm="none", box_loss="l1", candidates_per_level=True, max_detections=300
    ),
    "retinanet_resnet50_fpn_v2": RetinanetConfig(candidates_per_level=True, max_detections=300),
}
TERMS = {"class": "classification", "box": "bbox_regression", "quality": "bbox_ctrness"}


@dataclass(frozen=True)
class Pair:
    """torchvision's detector and ours, of the same weights and in evaluation mode."""

    theirs: Any
    trunk: Trunk
    head: FcosHead | RetinanetHead
    limit: int  # torchvision's detections per image, which `theirs` has no more


@pytest.fixture(scope="module", params=list(CONFIGS))
def pair(request: pytest.FixtureRequest) -> Pair:
    torch.manual_seed(0)
    builder, config = request.param, CONFIGS[request.param]
    theirs = getattr(detection, builder)(weights=None, weights_backbone=None, num_classes=SLOTS)
    skip_resize(theirs)
    enliven_dense(theirs.eval(), torch.Generator().manual_seed(0))
    extra = "p6p7_from_c5" if builder.endswith("v2") else "p6p7_from_p5"
    trunk = Trunk(TrunkConfig(name="resnet50", extra=extra))
    trunk.load_state_dict(trunk_state(theirs))
    for backbone in (theirs.backbone, trunk):
        backbone.requires_grad_(False)  # only the heads' gradients are compared
    head = config.build(TrunkInfo(trunk.stage_channels, trunk.channels, tuple(trunk.strides)), LABELS)
    head.load_state_dict(theirs.head.state_dict())
    limit, theirs.detections_per_img = theirs.detections_per_img, 100_000
    return Pair(theirs, trunk.eval(), head.eval(), limit)


def test_settings_are_torchvisions(pair: Pair) -> None:
    config, theirs = pair.head.config, pair.theirs
    assert (config.score_threshold, config.nms_threshold) == (theirs.score_thresh, theirs.nms_thresh)
    assert (config.candidates, config.max_detections) == (theirs.topk_candidates, pair.limit)


@torch.no_grad()
def answers(pair: Pair, sizes: list[Size]) -> list[tuple[Detections, dict[str, Tensor]]]:
    """Return ours and torchvision's answer to random images, one pair per image."""
    images = random_images(sizes, torch.Generator().manual_seed(sum(map(sum, sizes))))
    batch, limit = as_batch(images), pair.head.config.max_detections
    features = pair.trunk(batch.images, batch.sizes)
    ours = pair.head.predict(pair.head.decode(pair.head(features), features), batch.metas)
    theirs = [with_area(answer, limit) for answer in pair.theirs([image / 255 for image in images])]
    return list(zip(ours, theirs, strict=True))


@pytest.mark.parametrize(
    "sizes",
    [[(192, 256)], [(96, 160)], [(96, 96)], [(160, 96), (192, 224)]],
    ids=["192x256", "96x160", "96x96", "two sizes"],
)
def test_detections_are_torchvisions(pair: Pair, sizes: list[Size]) -> None:
    for ours, theirs in answers(pair, sizes):
        assert_same_detections(ours, theirs, 0)
        assert len(ours.scores) >= 50
        assert len(ours.classes.unique()) > 5


def test_candidates_of_every_level_are_torchvisions(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a threshold and without NMS, all that there is of P6 and P7 is compared too, whose cells stick
    out of an image of this size."""
    size = (96, 160)
    for name, value in {"score_threshold": 0.0, "nms_threshold": 1.0, "max_detections": 100_000}.items():
        monkeypatch.setattr(pair.head.config, name, value)
    monkeypatch.setattr(pair.theirs, "score_thresh", 0.0)
    monkeypatch.setattr(pair.theirs, "nms_thresh", 1.0)
    ((ours, theirs),) = answers(pair, [size])
    assert_same_detections(ours, theirs, 0)
    assert len(ours.scores) > 3000  # 1000 of each fine level and what the coarse ones have


def random_boxes(sizes: list[Size], count: int, generator: torch.Generator) -> list[Tensor]:
    """Return (count, 4) xyxy boxes of every scale inside each image."""
    images = []
    for height, width in sizes:
        limits = torch.tensor([width, height])
        sides = limits * torch.logspace(-1.2, -0.05, count)[:, None]
        corners = (limits - sides) * torch.rand(count, 2, generator=generator)
        images.append(torch.cat([corners, corners + sides], 1))
    return images


def test_losses_and_gradients_are_torchvisions(pair: Pair) -> None:
    """Of three images, one without boxes. Gradients are of the last layers, which all outputs come from."""
    generator = torch.Generator().manual_seed(1)
    sizes = [(160, 192), (96, 160), (128, 128)]
    images = random_images(sizes, generator)
    boxes = [*random_boxes(sizes[:2], 7, generator), torch.zeros(0, 4)]
    classes = [torch.randint(0, SLOTS, (len(part),), generator=generator) for part in boxes]
    batch = as_batch(images, boxes, classes)

    features = pair.trunk(batch.images, batch.sizes)
    ours = pair.head.loss(pair.head(features), features, batch)
    pair.theirs.train()
    for module in pair.theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    theirs = pair.theirs(
        [image / 255 for image in images],
        [{"boxes": part, "labels": labels} for part, labels in zip(boxes, classes, strict=True)],
    )
    pair.theirs.eval()

    assert {TERMS[name] for name in ours} == theirs.keys()
    for name, term in ours.items():
        assert term > 0.01
        torch.testing.assert_close(term, theirs[TERMS[name]], rtol=1e-4, atol=0)
    gradients = []
    for head, losses in ((pair.head, ours), (pair.theirs.head, theirs)):
        last = dict(head.named_parameters())
        weights = [last["classification_head.cls_logits.weight"], last["regression_head.bbox_reg.weight"]]
        gradients.append(torch.autograd.grad(torch.stack(list(losses.values())).sum(), weights))
    for mine, reference in zip(*gradients, strict=True):
        assert reference.any()
        torch.testing.assert_close(mine, reference, rtol=1e-3, atol=1e-4 * float(reference.abs().max()))
