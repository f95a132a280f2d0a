"""How each detector is run: the peer as its users run it and at its best, ours by default and in fp32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from vision_mtl.benchmark.contenders import HEAD
from vision_mtl.benchmark.detectors import DEFAULT_HEAD, PEER_TOWERS
from vision_mtl.benchmark.results import Figure, Target
from vision_mtl.models.precision import Precision, resolve_precision

PEER, PEER_BF16, PEER_BEST = "torchvision", "torchvision bf16", "torchvision bf16 channels-last"
OURS, OURS_TOWERS = "ours", "ours, torchvision's towers"
NOTES = [
    "ours: head of 2 convolutions a tower, batch norm, distributions over 16 bins; by default channels-last, "
    "and bf16 where the machine computes in it",
    "ours, torchvision's towers: depth 4, norm group, bins 0, as torchvision's FCOS",
    "torchvision: fcos_resnet50_fpn with 91 classes (ours 80), fp32 unless said; bf16 is autocast",
    "on a CPU all keep freed memory, as ours does in training; torchvision's users would have to know of it",
    "all layers of all networks have random weights and train; all ResNets have batch norm",
]


class PeerVariant(NamedTuple):
    """How torchvision's detector is run."""

    channels_last: bool
    dtype: torch.dtype


class OurVariant(NamedTuple):
    """How ours is run: heads as in YAML, and the precision."""

    heads: dict[str, dict[str, Any]]
    precision: Precision


def peer_variants(device: torch.device) -> dict[str, PeerVariant]:
    """Return name -> torchvision's detector in a way; in bf16 only where the device computes in it."""
    variants = {PEER: PeerVariant(False, torch.float32)}
    if resolve_precision("auto", device) == torch.bfloat16:
        variants[PEER_BF16] = PeerVariant(False, torch.bfloat16)
        variants[PEER_BEST] = PeerVariant(True, torch.bfloat16)
    return variants


def our_variants(device: torch.device) -> dict[str, OurVariant]:
    """Return name -> ours in a way; fp32 apart only where it is not the default."""
    found: dict[str, OurVariant] = {}
    for name, head in ((OURS, DEFAULT_HEAD), (OURS_TOWERS, PEER_TOWERS)):
        found[name] = OurVariant({HEAD: head}, "auto")
        if resolve_precision("auto", device) == torch.bfloat16:
            found[f"{name}, fp32"] = OurVariant({HEAD: head}, "fp32")
    return found


def limit_of(name: str) -> str:
    """Return what the limit of one of ours is called."""
    return f"convolutions of {name}"


def measured_targets(targets: Sequence[Target], figures: Sequence[Figure]) -> list[Target]:
    """Return the targets whose figures there are."""
    names = {figure.name for figure in figures}
    return [t for t in targets if t.ours in names and (t.against is None or t.against in names)]
