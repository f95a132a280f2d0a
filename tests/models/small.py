"""A small network with every kind of answer, and a batch for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from vision_mtl.heads.base import LabelInfo
from vision_mtl.heads.classification import ClassificationConfig
from vision_mtl.heads.fcos import FcosConfig
from vision_mtl.heads.multilabel import MultilabelConfig
from vision_mtl.heads.regression import RegressionConfig
from vision_mtl.models.multitask import MultiTaskModel
from vision_mtl.models.trunk import TrunkConfig
from vision_mtl.structures import Batch, ImageMeta

TRUNK = TrunkConfig(name="resnet18", channels=32, extra="none")
HEADS: dict[str, Any] = {
    "objects": FcosConfig(depth=1, score_threshold=0.0),
    "presence": MultilabelConfig(),
    "state": ClassificationConfig(source="attribute", field="kind"),
    "number": RegressionConfig(source="count"),
}
LABELS = {
    "objects": LabelInfo(("bolt", "nut"), (3, 7)),
    "presence": LabelInfo(("bolt", "nut")),
    "state": LabelInfo(("clean", "dirty", "wet")),
    "number": LabelInfo(mean=2.0, std=1.5),
}
GENERATOR = torch.Generator().manual_seed(0)
BATCH = Batch(
    images=torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8, generator=GENERATOR),
    sizes=torch.tensor([[64, 96], [48, 80]]),
    boxes=torch.tensor([[[8.0, 8, 50, 50]], [[0.0, 0, 0, 0]]]),
    classes=torch.tensor([[1], [-1]]),
    ignore=torch.zeros(2, 1, dtype=torch.bool),
    has_boxes=torch.tensor([True, True]),
    labels={
        "presence": torch.tensor([[0.0, 1.0], [0.0, 0.0]]),
        "state": torch.tensor([2, -1]),
        "number": torch.tensor([1.0, 0.0]),
    },
    metas=[
        ImageMeta(5, "5.png", (64, 96), (1.0, 1.0)),
        ImageMeta(6, "6.png", (96, 160), (2.0, 2.0)),
    ],
)


@torch.no_grad()
def predictions_of(model: MultiTaskModel) -> dict[str, Sequence[Any]]:
    """Return head -> its answers to the images of `BATCH`."""
    features, outputs = model(BATCH.images, BATCH.sizes)
    return model.predict(model.decode(features, outputs), BATCH.metas)
