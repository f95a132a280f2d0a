"""Peak memory of training FCOS at COCO's size, each network in a process of its own."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from vision_mtl.allocator import keep_freed_memory
from vision_mtl.benchmark.detectors import (
    Setting,
    build_ours,
    our_step,
)
from vision_mtl.benchmark.process import MB, in_fresh_process, measured
from vision_mtl.benchmark.results import Figure, Table, Target, figure
from vision_mtl.benchmark.torchvision_peer import peer_training
from vision_mtl.benchmark.variants import (
    KEPT,
    NOTES,
    OURS,
    OURS_TOWERS,
    PEER,
    measured_targets,
    our_variants,
    peer_variants,
)
from vision_mtl.commands.timing import timing_of


@dataclass(frozen=True)
class MemorySizes:
    """What is trained, and how often a process is started.

    Attributes:
        height: of the images, in pixels.
        width: of the images, in pixels.
        batch: images per step.
        objects: boxes in each.
        trunk: which ResNet.
        channels: of the pyramid and the towers.
        steps: in each process.
        rounds: processes for each network.
    """

    height: int = 800
    width: int = 1333
    batch: int = 2
    objects: int = 8
    trunk: str = "resnet50"
    channels: int = 256
    steps: int = 3
    rounds: int = 3


def measure_memory(
    sizes: MemorySizes,
    device: torch.device,
    folder: Path,
    alone: Callable[..., float] = in_fresh_process,
) -> list[Table]:
    """Train each network for some steps in processes of its own and table by how much these grow.

    Args:
        sizes: what and how often.
        device: where.
        folder: an empty one, for the pictures.
        alone: calls a function with keywords in a process of its own.
    """
    setting = Setting(folder, sizes.height, sizes.width, sizes.batch, sizes.trunk, sizes.channels)
    setting.write_images(sizes.objects)
    peers = [name for name in peer_variants(device) if not name.endswith(KEPT)]
    names = [*peers, *(name for name in our_variants(device) if not name.endswith("fp32"))]
    taken: dict[str, list[float]] = {name: [] for name in names}
    plain = {**asdict(setting), "folder": str(folder)}
    for _ in range(sizes.rounds):
        for name in names:
            megabytes = alone(train_alone, name=name, setting=plain, device=device.type, steps=sizes.steps)
            taken[name].append(megabytes)
    figures: list[Figure] = [
        figure(name, "ours" if name in our_variants(device) else "peer", timing_of(values))
        for name, values in taken.items()
    ]
    title = (
        f"memory: peak of training FCOS {sizes.trunk}, {sizes.height}x{sizes.width}, batch {sizes.batch}, "
        "beyond what imports take"
    )
    targets = [Target(ours, PEER, at_most=0.7) for ours in (OURS, OURS_TOWERS)]
    where = "torch.cuda.max_memory_allocated" if device.type == "cuda" else "resident memory, at its largest"
    notes = [*NOTES[:2], "ours keeps freed memory, as it does in training; torchvision does not"]
    notes += [f"{where}; networks, optimisers, averaged weights of ours, and {sizes.steps} steps"]
    return [Table("training", title, "MB", figures, measured_targets(targets, figures), notes)]


def train_alone(name: str, setting: dict[str, Any], device: str, steps: int) -> float:
    """Return the megabytes by which this process grows when it trains one variant."""
    importlib.import_module("torch._dynamo")  # by an optimiser's first step; not the training's memory
    where = torch.device(device)
    read = Setting(**{**setting, "folder": Path(setting["folder"])})
    # Whoever trains ours gets this allocator, and whoever trains the peer does not.
    if name in our_variants(where):
        keep_freed_memory(where)

    def train() -> None:
        step = _step_of(name, read, where)
        for i in range(steps):
            step(i)

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        train()
        return torch.cuda.max_memory_allocated() / MB
    return measured(train).megabytes


def _step_of(name: str, setting: Setting, device: torch.device) -> Callable[[int], object]:
    if name in our_variants(device):
        variant = our_variants(device)[name]
        return our_step(build_ours(setting, variant.heads, device, variant.precision), device)
    return peer_training(peer_variants(device)[name], device, setting)
