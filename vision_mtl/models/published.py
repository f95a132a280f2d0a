"""The detectors that torchvision has published weights of, and the settings that these need."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from torchvision.models import get_model_weights

from vision_mtl.errors import ConfigError, nearest
from vision_mtl.heads.base import LabelInfo
from vision_mtl.models.trunk import TrunkConfig

PREFIX = "torchvision:"


class Detector(NamedTuple):
    """A torchvision builder whose network ours can be.

    Attributes:
        kind: the type of head that has its head's tensors.
        example: the config of its architecture.
        trunk: setting of the trunk -> the value, or values, that its published weights need.
        head: the same for those settings of the head that its answers rest on and its tensors do not show.
    """

    kind: str
    example: str
    trunk: dict[str, Any]
    head: dict[str, Any]


_TRUNK = {"name": "resnet50", "norm": ("frozen", "batch"), "channels": 256, "norm_eps": 1e-5}
_DENSE = _TRUNK | {"finest": 3, "extra": "p6p7_from_p5", "pyramid_norm": "none"}
_TWO_STAGE = _TRUNK | {"finest": 2, "extra": "p6", "pyramid_norm": "none"}
# The first COCO weights were trained before torchvision's frozen batch norm added an eps, so its builders set
# it to 0 with them (`overwrite_eps` in torchvision/models/detection/_utils.py). A state dict does not tell.
_FIRST = {"norm_eps": 0.0}
_FCOS = {"points": "corner", "quality": "centreness"}
_RETINANET = {"anchor_scale": 4.0}
_FASTER_RCNN = {"anchor_sizes": (None, (32, 64, 128, 256, 512))}
DETECTORS = {
    "fcos_resnet50_fpn": Detector("fcos", "configs/torchvision_fcos.yaml", _DENSE, _FCOS),
    "retinanet_resnet50_fpn": Detector(
        "retinanet", "configs/torchvision_retinanet.yaml", _DENSE | _FIRST, _RETINANET
    ),
    "retinanet_resnet50_fpn_v2": Detector(
        "retinanet",
        "configs/torchvision_retinanet_v2.yaml",
        _DENSE | {"extra": "p6p7_from_c5"},
        _RETINANET,
    ),
    "fasterrcnn_resnet50_fpn": Detector(
        "faster_rcnn", "configs/torchvision_fasterrcnn.yaml", _TWO_STAGE | _FIRST, _FASTER_RCNN
    ),
    "fasterrcnn_resnet50_fpn_v2": Detector(
        "faster_rcnn",
        "configs/torchvision_fasterrcnn_v2.yaml",
        _TWO_STAGE | {"pyramid_norm": "batch"},
        _FASTER_RCNN,
    ),
}


def coco_slots() -> list[str]:
    """Return what torchvision's COCO weights call their 91 classes; slot i is the category id i."""
    return get_model_weights("fcos_resnet50_fpn").COCO_V1.meta["categories"]


def coco_classes() -> LabelInfo:
    """Return COCO's 80 categories, which are the slots but for the background and the unused ones."""
    used = [(i, name) for i, name in enumerate(coco_slots()) if i and name != "N/A"]
    return LabelInfo(tuple(name for _, name in used), tuple(i for i, _ in used))


def published(weights: str) -> tuple[Detector, Any] | None:
    """Return the detector, and torchvision's enum member, whose published weights `weights` names.

    That is `torchvision:<builder>/<WEIGHTS>`, or a path with the published file's name; None for other paths.

    Raises:
        ConfigError: a builder or weights that are not known.
    """
    members = {builder: dict(get_model_weights(builder).__members__) for builder in DETECTORS}
    if not weights.startswith(PREFIX):
        name = Path(weights).name
        files = {Path(m.url).name: (DETECTORS[b], m) for b, known in members.items() for m in known.values()}
        return files.get(name)
    builder, _, version = weights.removeprefix(PREFIX).partition("/")
    if builder not in DETECTORS:
        plain = (
            "; the weights of a plain ResNet go into trunk.weights" if builder.startswith("resnet") else ""
        )
        raise ConfigError(
            f"weights: found '{weights}', expected {PREFIX}<builder>/<WEIGHTS> with a builder of "
            f"{', '.join(DETECTORS)}{plain or nearest(builder, DETECTORS)}"
        )
    if version not in members[builder]:
        known = ", ".join(f"{PREFIX}{builder}/{member}" for member in members[builder])
        raise ConfigError(f"weights: found '{weights}', expected one of {known}")
    return DETECTORS[builder], members[builder][version]


def unlike(part: msgspec.Struct, needed: Mapping[str, Any], place: str) -> list[str]:
    """Return what to set for each setting of a part of the config that is not the needed one.

    Args:
        part: the trunk's or a head's config.
        needed: setting -> value, or tuple of values.
        place: where the part is in the config.
    """
    lines = []
    for key, values in needed.items():
        known = values if isinstance(values, tuple) else (values,)
        if (found := getattr(part, key)) not in known:
            lines.append(f"set {place}.{key}={' or '.join(map(str, known))} (found {found})")
    return lines


def check_weights(weights: str, trunk: TrunkConfig) -> None:
    """Raise ConfigError for published weights that are not known, or that need another trunk.

    Files are opened only when they are loaded.
    """
    known = published(weights)
    if known and (lines := unlike(trunk, known[0].trunk, "trunk")):
        raise ConfigError(
            f"weights={weights} need another trunk: {', '.join(lines)}; {known[0].example} has it all"
        )
