"""Files of pretrained weights: where they come from, and their tensors under the names of our network."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor

from vision_mtl.errors import CheckpointError
from vision_mtl.heads.base import LabelInfo
from vision_mtl.models.published import DETECTORS, PREFIX, coco_slots, published
from vision_mtl.models.shared_file import is_shared, read_shared

FORMS = (
    f"{PREFIX}<builder>/<WEIGHTS>, e.g. {PREFIX}fcos_resnet50_fpn/COCO_V1, or the path of a torchvision "
    "detector's state dict (.pth) or of a checkpoint of this project (.pt, .safetensors)"
)
# Settings of our own heads and trunk that decide what their tensors mean.
_OWN_TRUNK = ("name", "norm_eps", "channels", "finest", "extra", "pyramid_norm")
_OWN_HEADS = ("points", "quality", "bins", "anchor_scale", "anchor_sizes", "features", "pool")


class FileHead(NamedTuple):
    """What a file has for one head.

    Attributes:
        kind: the type of head that the tensors belong to.
        labels: what its class rows stand for; a two-stage head's background is left out.
        settings: as `Detector.head`.
    """

    kind: str
    labels: LabelInfo
    settings: Mapping[str, Any]


@dataclass(frozen=True)
class WeightsFile:
    """A file's tensors under the names of our network, and what is known of them.

    Attributes:
        state: name -> tensor; what the network has no name for keeps its own.
        heads: head name -> what there is for it.
        trunk: as `Detector.trunk`, as far as known.
        example: the config of the file's architecture, if known.
        notes: what a person should know.
    """

    state: Mapping[str, Tensor]
    heads: Mapping[str, FileHead]
    trunk: Mapping[str, Any] = field(default_factory=dict)
    example: str | None = None
    notes: tuple[str, ...] = ()


def read_weights(weights: str, detector: str | None, wanted: LabelInfo) -> WeightsFile:
    """Return what `weights` names; nothing but tensors and plain types is ever unpickled.

    Args:
        weights: `torchvision:<builder>/<WEIGHTS>`, or the path of a torchvision detector's state dict, of
            what torchvision's reference training saves, or of a checkpoint of this project.
        detector: name of the head that gets a torchvision head's tensors; None if there is no detection head.
        wanted: the detection head's classes, to guess those of a file that does not name them.

    Raises:
        ConfigError: weights that torchvision has not published.
        CheckpointError: no such file, no network, or a file of something else.
    """
    known = published(weights)
    content: Any
    if known and weights.startswith(PREFIX):
        content = download(known[1], "weights")
    elif is_shared(weights) and Path(weights).is_file():
        content = read_shared(weights)
    else:
        content = read_torch_file(weights, "weights", FORMS)
    if isinstance(content, dict) and {"average", "labels", "config"} <= content.keys():
        return _from_checkpoint(content, weights)
    if isinstance(content, dict) and isinstance(content.get("model"), dict):
        content = content["model"]  # as torchvision's references/detection/train.py saves it
    if not is_state_dict(content):
        raise CheckpointError(
            f"weights: found no tensors by name at the top of '{weights}'; expected {FORMS}"
        )
    if not any(key.startswith("backbone.body.") for key in content):
        hint = "; a plain ResNet's weights go into trunk.weights" if "conv1.weight" in content else ""
        raise CheckpointError(
            f"weights: '{weights}' is no torchvision detector with a ResNet and a pyramid: found the names "
            f"{list(content)[:3]}, expected some like backbone.body.conv1.weight{hint}"
        )
    file = _from_torchvision(content, detector, wanted)
    return replace(file, trunk=known[0].trunk, notes=()) if known else file


def download(weights: Any, setting: str) -> dict[str, Tensor]:
    """Return the state dict of a member of a torchvision weights enum, from the network or torch's cache.

    Raises:
        CheckpointError: no network, a wrong hash, or a damaged file in the cache.
    """
    try:
        return weights.get_state_dict(progress=True, check_hash=True, map_location="cpu", weights_only=True)
    except Exception as error:  # of the network, the hash, the disk or torch's reader
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise CheckpointError(
            f"{setting}: cannot load {weights}: {first_line(error)}. Without a network, download "
            f"{weights.url} on another machine and set {setting}=<path of the file>, or place it in "
            f"'{folder}', in place of a damaged one"
        ) from error


def read_torch_file(path: str, setting: str, expected: str) -> Any:
    """Return what `torch.save` wrote to `path`, on the CPU.

    Raises:
        CheckpointError: no such file, or one that torch cannot read.
    """
    if not Path(path).is_file():
        raise CheckpointError(f"{setting}: no file '{path}'; expected {expected}")
    try:
        # torchvision's reference training saves its arguments too.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a file that is not its own
        raise CheckpointError(
            f"{setting}: cannot read '{path}': {first_line(error)}; it is damaged or of something else; "
            f"expected {expected}"
        ) from error


def first_line(error: Exception) -> str:
    """Return what an error says, without torch's colours and the explanations after its first sentence."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    return text.splitlines()[0] if text else type(error).__name__


def is_counter(key: str) -> bool:
    """Return whether a tensor counts a batch norm's batches: no weight, and frozen norms have none."""
    return key.endswith(".num_batches_tracked")


def is_state_dict(content: Any) -> bool:
    """Return whether `content` is tensors by name."""
    return isinstance(content, dict) and all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()
    )


def _from_checkpoint(content: dict[str, Any], path: str) -> WeightsFile:
    """Return the averaged weights of a checkpoint of this project."""
    try:
        config = content["config"]
        heads = {}
        for name, head in config["heads"].items():
            values = {key: head[key] for key in _OWN_HEADS if key in head}
            settings = {key: (tuple(v) if isinstance(v, list) else v,) for key, v in values.items()}
            labels = msgspec.convert(content["labels"][name], LabelInfo)
            heads[name] = FileHead(head["type"], labels, settings)
        trunk = {key: config["trunk"][key] for key in _OWN_TRUNK if key in config["trunk"]}
        trunk["norm"] = ("group",) if config["trunk"]["norm"] == "group" else ("batch", "frozen")
        return WeightsFile(content["average"], heads, trunk)
    except (KeyError, TypeError, AttributeError, msgspec.ValidationError) as error:
        raise CheckpointError(f"weights: '{path}' is no checkpoint of this version: {error!r}") from error


def _from_torchvision(state: Mapping[str, Tensor], detector: str | None, wanted: LabelInfo) -> WeightsFile:
    """Return a torchvision detector's tensors under our names; its head goes to the head `detector`."""
    builder = recognise(state)
    state = renamed(state, retinanet=builder.startswith("retinanet"))
    if not builder:
        return WeightsFile(_moved(state, None), {}, notes=("it has a head of a type that we have not",))
    kind, example, trunk, settings = DETECTORS[builder]
    notes = []
    if trunk["norm_eps"] == 0:
        notes.append(
            "tensors do not tell the eps of their norms: torchvision's own COCO weights of this architecture "
            "need trunk.norm_eps=0, what was trained later its default"
        )
    if detector is None:
        return WeightsFile(_moved(state, None), {}, {}, example, tuple(notes))
    labels, note = _slots(state, wanted)
    heads = {detector: FileHead(kind, labels, settings)}
    return WeightsFile(_moved(state, detector), heads, {}, example, (*notes, note))


def recognise(state: Mapping[str, Tensor]) -> str:
    """Return the builder whose heads a torchvision detector's tensors are; "" if it is none of ours."""
    if "head.regression_head.bbox_ctrness.weight" in state:
        return "fcos_resnet50_fpn"
    if {"head.classification_head.cls_logits.weight", "head.regression_head.bbox_reg.weight"} <= state.keys():
        has_norms = "head.classification_head.conv.0.1.weight" in state
        return "retinanet_resnet50_fpn_v2" if has_norms else "retinanet_resnet50_fpn"
    if "roi_heads.box_predictor.cls_score.weight" in state:
        has_convolutions = "roi_heads.box_head.0.0.weight" in state
        return "fasterrcnn_resnet50_fpn_v2" if has_convolutions else "fasterrcnn_resnet50_fpn"
    return ""


def renamed(state: Mapping[str, Tensor], retinanet: bool) -> dict[str, Tensor]:
    """Return a torchvision detector's tensors under torchvision's names of today.

    The published files are older than the modules: see `_load_from_state_dict` of FeaturePyramidNetwork,
    RPNHead and `_v1_to_v2_weights` of RetinaNet in torchvision.
    """

    def today(key: str) -> str:
        key = re.sub(r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d+)\.(weight|bias)$", r"\1.0.\2", key)
        key = re.sub(r"^(rpn\.head\.conv)\.(weight|bias)$", r"\1.0.0.\2", key)
        old = re.match(r"^(head\.\w+_head\.conv)\.(\d+)\.(weight|bias)$", key)
        if retinanet and old:  # of a plain sequence of convolutions and ReLUs; FCOS still is one
            return f"{old[1]}.{int(old[2]) // 2}.0.{old[3]}"
        return key

    return {today(key): value for key, value in state.items()}


def _moved(state: Mapping[str, Tensor], detector: str | None) -> dict[str, Tensor]:
    """Return the tensors under our names; without a detection head its tensors keep theirs."""
    moves = {"backbone.": "trunk."}
    if detector is not None:
        to = f"heads.{detector}."
        moves |= {"head.": to, "rpn.": f"{to}rpn.", "roi_heads.": f"{to}roi_heads."}
    return {
        next((new + key.removeprefix(old) for old, new in moves.items() if key.startswith(old)), key): value
        for key, value in state.items()
    }


def _slots(state: Mapping[str, Tensor], wanted: LabelInfo) -> tuple[LabelInfo, str]:
    """Return what the class rows of a torchvision detector stand for, and how that was found.

    A softmax's row 0 is the background and is left out. Of sigmoids, slot 0 is a row like all others.
    """
    if (rows := state.get("roi_heads.box_predictor.cls_score.weight")) is not None:
        count, first = len(rows), 1
    else:
        anchors = len(state["head.regression_head.bbox_reg.weight"]) // 4
        count, first = len(state["head.classification_head.cls_logits.weight"]) // anchors, 0
    names: Sequence[str]
    ids: Sequence[int]
    coco = coco_slots()
    if count == len(coco):
        names, ids = coco, range(count)
        note = f"its {count} class slots are taken for those of torchvision's COCO weights"
    elif count == len(wanted.names) + 1:
        names, ids = ("__background__", *wanted.names), (-1, *wanted.ids)
        note = f"it names no classes: its {count} slots are taken for a background and our classes, in order"
    else:
        names, ids = ("",) * count, range(count)
        note = (
            f"it has {count} class slots and names none: all classes start fresh. Slots are understood if "
            f"there are {len(coco)} (COCO's) or {len(wanted.names) + 1} (a background and our classes)"
        )
    return LabelInfo(tuple(names[first:]), tuple(ids[first:])), note
