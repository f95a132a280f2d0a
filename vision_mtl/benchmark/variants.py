"""How each detector is run: the peer as its users run it and at its best, ours by default and in fp32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from vision_mtl.benchmark.contenders import HEAD
from vision_mtl.benchmark.detectors import DEFAULT_HEAD, PEER_TOWERS
from vision_mtl.benchmark.results import Figure, Target
from vision_mtl.models.precision import Precision, resolve_precision

PEER, PEER_BF16, PEER_LAST = "torchvision", "torchvision bf16", "torchvision bf16 channels-last"
KEPT = ", memory kept"  # the end of a variant's name
OURS, OURS_TOWERS = "ours", "ours, torchvision's towers"
NOTES = [
    "ours: head of 2 convolutions a tower, batch norm, distributions over 16 bins; by default channels-last, "
    "and bf16 where the machine computes in it",
    "ours, torchvision's towers: depth 4, norm group, bins 0, as torchvision's FCOS",
    "torchvision: fcos_resnet50_fpn with 91 classes (ours 80), fp32 unless said; bf16 is autocast",
    "on a CPU ours keeps freed memory, as its commands do; torchvision is run in processes of its own "
    "with the C library's allocator as it is, and beside ours where it says 'memory kept'",
    "all layers of all networks have random weights and train; all ResNets have batch norm",
]


class PeerVariant(NamedTuple):
    """How torchvision's detector is run.

    Attributes:
        channels_last: the network's memory format.
        dtype: what it runs in.
        untuned: with the C library's allocator as its users have it, which takes a process of its own.
    """

    channels_last: bool
    dtype: torch.dtype
    untuned: bool


class OurVariant(NamedTuple):
    """How ours is run: heads as in YAML, and the precision."""

    heads: dict[str, dict[str, Any]]
    precision: Precision


def peer_variants(device: torch.device) -> dict[str, PeerVariant]:
    """Return name -> torchvision's detector in a way; in bf16 only where the device computes in it."""
    ways = {PEER: (False, torch.float32)}
    if resolve_precision("auto", device) == torch.bfloat16:
        ways |= {PEER_BF16: (False, torch.bfloat16), PEER_LAST: (True, torch.bfloat16)}
    if device.type == "cuda":  # there the allocator is torch's own, for all
        return {name: PeerVariant(*way, untuned=False) for name, way in ways.items()}
    as_used = {name: PeerVariant(*way, untuned=True) for name, way in ways.items()}
    kept = {f"{name}{KEPT}": PeerVariant(*way, untuned=False) for name, way in ways.items()}
    return {**as_used, **kept}


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
