"""Which heads read one another's answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from vision_mtl.errors import ConfigError, nearest
from vision_mtl.heads.base import Head, HeadConfig
from vision_mtl.heads.detection import DetectionConfig
from vision_mtl.heads.fcos import FcosConfig
from vision_mtl.heads.image_head import ImageHeadConfig
from vision_mtl.heads.multilabel import MultilabelConfig
from vision_mtl.heads.retinanet import RetinanetConfig
from vision_mtl.models.class_slots import match_classes

# Ends of the names of the tensors that a link adds to a head; they start as if there were no link.
LINK_TENSORS = (".context_temperature", ".from_detections.linear.weight")


class Context(NamedTuple):
    """What re-scores a detection head's boxes.

    Attributes:
        head: name of the multi-label head.
        slots: (K,) int64, each detection class's place among its labels; -1 for a class that has none.
    """

    head: str
    slots: Tensor


def check_links(heads: Mapping[str, HeadConfig]) -> None:
    """Raise ConfigError for a head that reads one that is not there, or has not what it reads."""
    several, dense = (MultilabelConfig,), (FcosConfig, RetinanetConfig)
    for name, config in heads.items():
        if isinstance(config, DetectionConfig) and config.context is not None:
            _check_link(heads, f"heads.{name}.context", config.context, several, "a multilabel head")
        if isinstance(config, ImageHeadConfig) and config.detections is not None:
            expected = "a dense detection head (fcos or retinanet)"
            _check_link(heads, f"heads.{name}.detections", config.detections, dense, expected)


def _check_link(
    heads: Mapping[str, HeadConfig], key: str, wanted: str, kinds: tuple[type[HeadConfig], ...], expected: str
) -> None:
    """Raise ConfigError unless the head `wanted` is of one of the `kinds`, which are `expected` in words."""
    if isinstance(heads.get(wanted), kinds):
        return
    found = f"a {heads[wanted].__struct_config__.tag} head" if wanted in heads else "which is no head here"
    fit = [name for name, config in heads.items() if isinstance(config, kinds)]
    raise ConfigError(
        f"{key}: found '{wanted}', {found}; expected the name of {expected}: "
        f"{', '.join(fit) or 'none is here'}. Add it, or set {key}=null{nearest(wanted, fit)}"
    )


def contexts(heads: Mapping[str, Head]) -> dict[str, Context]:
    """Return detection head -> what re-scores its boxes.

    Raises:
        ConfigError: the two heads have no class in common.
    """
    found = {}
    for name, head in heads.items():
        if not isinstance(head.config, DetectionConfig) or head.config.context is None:
            continue
        labels = heads[head.config.context].labels
        places = match_classes(head.labels, labels)
        if all(place is None for place in places):
            raise ConfigError(
                f"heads.{name}.context: found '{head.config.context}' with the labels "
                f"{', '.join(labels.names[:10])}, expected one with names of the classes that are detected: "
                f"{', '.join(head.labels.names[:10])}; set heads.{name}.context=null"
            )
        slots = torch.tensor([-1 if place is None else place for place in places])
        found[name] = Context(head.config.context, slots)
    return found


def evidence_of(config: HeadConfig) -> str | None:
    """Return the name of the detection head whose evidence a head reads; None if it reads none."""
    return config.detections if isinstance(config, ImageHeadConfig) else None
