"""Files as torchvision's detectors leave them, with weights that tests can tell apart."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models import detection, get_model_weights
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from vision_mtl.config import load_config
from vision_mtl.heads.base import LabelInfo
from vision_mtl.models.multitask import ModelConfig, MultiTaskModel, build_model
from vision_mtl.models.weights import WeightsReport, load_weights

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
EXAMPLES = {
    "fcos_resnet50_fpn": "torchvision_fcos.yaml",
    "retinanet_resnet50_fpn": "torchvision_retinanet.yaml",
    "retinanet_resnet50_fpn_v2": "torchvision_retinanet_v2.yaml",
    "fasterrcnn_resnet50_fpn": "torchvision_fasterrcnn.yaml",
    "fasterrcnn_resnet50_fpn_v2": "torchvision_fasterrcnn_v2.yaml",
}
SLOTS: list[str] = get_model_weights("fcos_resnet50_fpn").COCO_V1.meta["categories"]
CATEGORIES = [i for i, name in enumerate(SLOTS) if i and name != "N/A"]  # COCO's 80 category ids
COCO = LabelInfo(tuple(SLOTS[i] for i in CATEGORIES), tuple(CATEGORIES))
IMAGE_LABELS = {"presence": LabelInfo(("a", "b")), "dominant": LabelInfo(("a", "b", "c"))}


def randomised(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state with a random value in place of every number, so that no two tensors are equal."""
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.randn(value.shape, generator=generator) if value.is_floating_point() else value + 7
        for key, value in state.items()
    }


@cache
def builder_state(builder: str) -> dict[str, Tensor]:
    """Return a random state of one of torchvision's builders with 91 classes; only to be read."""
    network = getattr(detection, builder)(weights=None, weights_backbone=None)
    return randomised(network.state_dict())


def small_backbone() -> Any:
    """Return a ResNet-18 with a pyramid P3 to P7, for torchvision's dense detectors."""
    return resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        norm_layer=torch.nn.BatchNorm2d,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )


@cache
def small_fcos(slots: int = 91) -> dict[str, Tensor]:
    """Return a random state of a small FCOS; only to be read."""
    return randomised(detection.FCOS(small_backbone(), slots).state_dict())


SMALL = """
trunk: {name: resnet18}
heads:
  objects: {type: fcos, depth: 4, norm: group, points: corner, quality: centreness, bins: 0}
"""


def small_config(folder: Path, weights: Path | str, *overrides: str) -> ModelConfig:
    """Return a config of what `small_fcos` fits."""
    path = folder / "small.yaml"
    path.write_text(SMALL)
    return load_config(path, [f"weights={weights}", *overrides]).model()


def example(builder: str, weights: Path | str, *overrides: str) -> ModelConfig:
    """Return the config of a builder's architecture, loading from `weights`."""
    return load_config(CONFIGS / EXAMPLES[builder], [f"weights={weights}", *overrides]).model()


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def started(config: ModelConfig, labels: LabelInfo) -> tuple[MultiTaskModel, WeightsReport]:
    """Return the network of a config, with its weights, for a data set of such classes."""
    infos = {"objects": labels, **IMAGE_LABELS}
    model = build_model(config, infos)
    return model, load_weights(model, config, infos)


def our_name(key: str) -> str:
    """Return our name of a torchvision detector's tensor."""
    for old, new in (("backbone.", "trunk."), ("head.", "heads.objects.")):
        if key.startswith(old):
            return new + key.removeprefix(old)
    return f"heads.objects.{key}"
