"""Training: a whole step of FCOS, optimiser included, against torchvision's in its reference loop."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from vision_mtl.benchmark.contenders import HEAD
from vision_mtl.benchmark.convolutions import record_convolutions, replay
from vision_mtl.benchmark.detectors import (
    DEFAULT_HEAD,
    Setting,
    build_ours,
    our_step,
)
from vision_mtl.benchmark.process import Apart, Call, apart
from vision_mtl.benchmark.profiling import ASSIGNMENT, profile_call, region
from vision_mtl.benchmark.results import Figure, Profile, Side, Table, Target, figure
from vision_mtl.benchmark.torchvision_peer import peer_calls, peer_training
from vision_mtl.benchmark.variants import (
    NOTES,
    OURS,
    OURS_TOWERS,
    PEER,
    PEER_BF16,
    limit_of,
    measured_targets,
    our_variants,
)
from vision_mtl.commands.timing import measure_in_turn


@dataclass(frozen=True)
class TrainSizes:
    """What is trained, and how often a step is timed.

    Attributes:
        height: of the images, in pixels.
        width: of the images, in pixels.
        batch: images per step.
        objects: boxes in each.
        trunk: which ResNet.
        channels: of the pyramid and the towers.
        warm_up: steps that are not counted.
        rounds: steps that are.
    """

    height: int = 512
    width: int = 512
    batch: int = 4
    objects: int = 8
    trunk: str = "resnet50"
    channels: int = 256
    warm_up: int = 2
    rounds: int = 10

    def setting(self, folder: Path) -> Setting:
        """Return the networks' setting, its pictures written into the folder."""
        setting = Setting(folder, self.height, self.width, self.batch, self.trunk, self.channels)
        setting.write_images(self.objects)
        return setting


def targets_on(device: torch.device) -> list[Target]:
    """Return what is to be reached on a CPU, or on a GPU."""
    times = {PEER_BF16: 2.0} if device.type == "cuda" else {PEER: 3.0, PEER_BF16: 2.3}
    return [
        Target(ours, peer, at_least=factor) for ours in (OURS, OURS_TOWERS) for peer, factor in times.items()
    ]


def measure_train(
    sizes: TrainSizes, device: torch.device, folder: Path, elsewhere: Apart = apart
) -> list[Table]:
    """Time the training step of every variant in turn, and that of the convolutions alone.

    Args:
        sizes: what and how often.
        device: where.
        folder: an empty one, for the pictures.
        elsewhere: makes a call of a process of its own.
    """
    setting = sizes.setting(folder)
    calls: dict[str, Call] = {}
    sides: dict[str, Side] = {}
    for name, variant in our_variants(device).items():
        step = our_step(build_ours(setting, variant.heads, device, variant.precision), device)
        calls[name], sides[name] = step, "ours"
        if variant.precision == "auto":
            limit = limit_of(name)
            calls[limit], sides[limit] = replay(record_convolutions(partial(step, 0))), "limit"
    with peer_calls(peer_training, device, setting, elsewhere=elsewhere) as peers:
        timings = measure_in_turn({**peers, **calls}, device, sizes.warm_up, sizes.rounds)
    figures: list[Figure] = [
        figure(
            name, sides.get(name, "peer"), timing, 1000, limit_of(name) if limit_of(name) in calls else None
        )
        for name, timing in timings.items()
    ]
    title = (
        f"train: a step of FCOS {sizes.trunk}, {sizes.height}x{sizes.width}, batch {sizes.batch}, "
        f"{sizes.objects} boxes an image"
    )
    notes = [
        *NOTES,
        "ours: AdamW, clipping and averaged weights; torchvision: SGD with momentum, its reference's "
        "check of the loss; images are in memory",
        "limit: the convolutions of ours, forward and backward, alone",
    ]
    targets = measured_targets(targets_on(device), figures)
    return [Table(f"batch {sizes.batch}", title, "ms", figures, targets, notes)]


def profile_train(sizes: TrainSizes, device: torch.device, folder: Path, trace: Path) -> list[Profile]:
    """Return where a step of ours spends its time; its trace is written to `trace`."""
    ours = build_ours(sizes.setting(folder), {HEAD: DEFAULT_HEAD}, device)
    step = our_step(ours, device)
    with region(ASSIGNMENT, ours.model.named_heads()[HEAD], "assign"):
        return [profile_call("train: a step of ours", step, device, trace)]
