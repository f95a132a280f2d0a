"""The two-stage head with torchvision's weights: its detections and losses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import fasterrcnn_resnet50_fpn, fasterrcnn_resnet50_fpn_v2

from tests.heads.torchvision_weights import (
    as_batch,
    assert_same_detections,
    enliven_two_stage,
    random_images,
    skip_resize,
    trunk_state,
)
from tests.heads.two_stage import STRIDES
from vision_mtl.heads.base import LabelInfo, TrunkInfo
from vision_mtl.heads.faster_rcnn import FasterRcnnConfig
from vision_mtl.models.trunk import Trunk, TrunkConfig
from vision_mtl.structures import Features


class Pair:
    """torchvision's detector and ours with the same weights, in evaluation mode."""

    def __init__(self, second: bool) -> None:
        generator = torch.Generator().manual_seed(0)
        torch.manual_seed(0)
        builder = fasterrcnn_resnet50_fpn_v2 if second else fasterrcnn_resnet50_fpn
        options: dict[str, int] = {}
        variant = FasterRcnnConfig()
        if second:  # its convolutions on a thousand proposals take their time
            options = {
                f"rpn_{place}_nms_top_n_{mode}": 150
                for place in ("pre", "post")
                for mode in ("test", "train")
            }
            variant = FasterRcnnConfig(rpn_depth=2, box_head="conv", proposals=150, proposals_train=150)
        self.theirs = builder(weights=None, weights_backbone=None, num_classes=91, **options).eval()
        skip_resize(self.theirs)
        enliven_two_stage(self.theirs, generator)
        norm = "batch" if second else "none"
        config = TrunkConfig(name="resnet50", norm="batch", finest=2, extra="p6", pyramid_norm=norm)
        self.trunk = Trunk(config).eval()
        self.trunk.load_state_dict(trunk_state(self.theirs))
        names = tuple(f"class {i}" for i in range(90))
        info = TrunkInfo(self.trunk.stage_channels, self.trunk.channels, tuple(self.trunk.strides))
        self.head = variant.build(info, LabelInfo(names, tuple(range(90)))).eval()
        own = {key: value for key, value in self.theirs.state_dict().items() if "backbone" not in key}
        self.head.load_state_dict(own)


@pytest.fixture(scope="module", params=[False, True], ids=["v1", "v2"])
def pair(request: pytest.FixtureRequest) -> Pair:
    return Pair(request.param)


@pytest.mark.parametrize("sizes", [[(167, 130)], [(192, 256), (160, 224)]], ids=["one", "two of two sizes"])
@torch.no_grad()
def test_detections_are_torchvisions(pair: Pair, sizes: list[tuple[int, int]]) -> None:
    images = random_images(sizes, torch.Generator().manual_seed(3))
    expected = pair.theirs([image / 255 for image in images])
    batch = as_batch(images)
    features = pair.trunk(batch.images, batch.sizes)
    found = pair.head.predict(pair.head.decode(pair.head(features), features), batch.metas)
    for ours, theirs in zip(found, expected, strict=True):
        assert len(theirs["scores"]) >= 50
        assert len(theirs["labels"].unique()) >= 10
        assert_same_detections(ours, theirs, label_offset=1)


def test_losses_are_torchvisions(pair: Pair) -> None:
    """Of the same draw, as both draw the same numbers; the second image has no boxes."""
    images = random_images([(128, 160), (96, 128)], torch.Generator().manual_seed(2))
    boxes = [
        torch.tensor([[20.0, 30, 120, 110], [90.0, 20, 150, 100], [5.0, 95, 40, 120]]),
        torch.zeros(0, 4),
    ]
    classes = [torch.tensor([0, 89, 17]), torch.zeros(0, dtype=torch.int64)]
    batch = as_batch(images, boxes, classes)
    for model in (pair.theirs, pair.head):
        model.train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()  # both have the same statistics
    # Rounding swaps proposals that nearly tie, and then others are drawn: ours gets the very same pyramid.
    pyramids: list[dict[str, Tensor]] = []
    hook = pair.theirs.backbone.register_forward_hook(lambda _, args, pyramid: pyramids.append(pyramid))
    try:
        with torch.no_grad():
            torch.manual_seed(3)
            expected = pair.theirs(
                [image / 255 for image in images],
                [{"boxes": box, "labels": label + 1} for box, label in zip(boxes, classes, strict=True)],
            )
            features = Features({}, list(pyramids[0].values()), list(STRIDES), (128, 160), batch.sizes)
            torch.manual_seed(3)
            terms = pair.head.loss(pair.head(features), features, batch)
    finally:
        hook.remove()
        pair.theirs.eval()
        pair.head.eval()
    names = {
        "objectness": "loss_objectness",
        "rpn_box": "loss_rpn_box_reg",
        "class": "loss_classifier",
        "box": "loss_box_reg",
    }
    for name, term in terms.items():
        assert term > 0.01
        torch.testing.assert_close(term, expected[names[name]], rtol=1e-4, atol=0)
