"""Inference: images in memory to detections, NMS included, against torchvision's FCOS."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch

from vision_mtl.benchmark.contenders import HEAD
from vision_mtl.benchmark.convolutions import record_convolutions, replay
from vision_mtl.benchmark.detectors import (
    DEFAULT_HEAD,
    Ours,
    Setting,
    build_ours,
    first_images,
    inference_model,
    open_ours,
    our_answer,
    prepare_ours,
)
from vision_mtl.benchmark.process import Apart, Call, apart
from vision_mtl.benchmark.profiling import profile_call
from vision_mtl.benchmark.results import Figure, Profile, Side, Table, Target, figure
from vision_mtl.benchmark.torchvision_peer import peer_calls, peer_inference
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
from vision_mtl.models.multitask import MultiTaskModel
from vision_mtl.models.precision import mixed_precision, resolve_precision
from vision_mtl.structures import Batch

COMPILED = ", compiled"  # the end of a variant's name


@dataclass(frozen=True)
class InferSizes:
    """What answers, and how often that is timed.

    Attributes:
        height: of the images, in pixels.
        width: of the images, in pixels.
        batches: images at once, a table for each.
        candidates: (point, class) pairs an image that reach the score threshold and go into NMS.
        trunk: which ResNet.
        channels: of the pyramid and the towers.
        warm_up: answers that are not counted.
        rounds: answers that are.
        compiled: also measure ours compiled.
    """

    height: int = 512
    width: int = 512
    batches: tuple[int, ...] = (1, 8)
    candidates: int = 200
    trunk: str = "resnet50"
    channels: int = 256
    warm_up: int = 2
    rounds: int = 15
    compiled: bool = True

    def setting(self, folder: Path) -> Setting:
        """Return the networks' setting, with pictures for the largest batch in the folder."""
        largest = max(*self.batches, 2)  # batch norms are given the statistics of several images
        setting = Setting(folder, self.height, self.width, largest, self.trunk, self.channels)
        setting.write_images(objects=8)
        return setting


def compiled_name(name: str) -> str:
    """Return what one of ours is called when it is compiled."""
    return f"{name}{COMPILED}"


def targets_on(device: torch.device) -> list[Target]:
    """Return what is to be reached on a CPU, or on a GPU."""
    if device.type == "cuda":
        return [Target(name, PEER_BF16, at_least=3.0) for name in (OURS, OURS_TOWERS)]
    return [
        Target(ours, peer, at_least=times)
        for name in (OURS, OURS_TOWERS)
        for ours, peer, times in (
            (name, PEER, 4.0),
            (name, PEER_BF16, 3.0),
            (compiled_name(name), PEER, 6.0),
        )
    ]


def measure_infer(
    sizes: InferSizes, device: torch.device, folder: Path, elsewhere: Apart = apart
) -> list[Table]:
    """Time the answers of every variant in turn, and the convolutions alone; a table per batch size.

    Args:
        sizes: what and how often.
        device: where.
        folder: an empty one, for the pictures.
        elsewhere: makes a call of a process of its own.
    """
    setting = sizes.setting(folder)
    batch = open_ours(setting, {HEAD: DEFAULT_HEAD}, device).batch
    ours: dict[str, Ours] = {}
    for name, variant in our_variants(device).items():
        ours[name] = build_ours(setting, variant.heads, device, variant.precision)
        prepare_ours(ours[name], device, sizes.candidates)
    models: dict[str, tuple[MultiTaskModel, torch.dtype]] = {}
    for name, each in ours.items():
        dtype = dtype_of(each, device)
        models[name] = inference_model(deepcopy(each.model), dtype), dtype
        if sizes.compiled and name in (OURS, OURS_TOWERS):
            models[compiled_name(name)] = inference_model(deepcopy(each.model), dtype, True), dtype
    tables = []
    for count in sizes.batches:
        part = first_images(batch, count)
        calls: dict[str, Call] = {}
        sides: dict[str, Side] = {}
        notes = []
        for name, (model, dtype) in models.items():
            calls[name], sides[name] = our_answer(model, part, device, dtype), "ours"
            if name.endswith(COMPILED):
                started = time.perf_counter()
                calls[name](0)
                notes.append(f"{name}: {time.perf_counter() - started:.0f} s for its first answer")
        for name in (OURS, OURS_TOWERS):
            limit, (model, dtype) = limit_of(name), models[name]
            calls[limit], sides[limit] = convolutions_alone(model, part, device, dtype), "limit"
        given = (setting, sizes.candidates, count)
        with peer_calls(peer_inference, device, *given, elsewhere=elsewhere) as peers:
            timings = measure_in_turn({**peers, **calls}, device, sizes.warm_up, sizes.rounds)
        figures: list[Figure] = [
            figure(
                name,
                sides.get(name, "peer"),
                timing,
                1000,
                limit_of(name) if limit_of(name) in calls else None,
            )
            for name, timing in timings.items()
        ]
        tables.append(_table(sizes, count, figures, targets_on(device), notes))
    return tables


def _table(
    sizes: InferSizes, count: int, figures: list[Figure], targets: list[Target], more: list[str]
) -> Table:
    title = f"infer: FCOS {sizes.trunk}, {sizes.height}x{sizes.width}, batch {count}, NMS included"
    notes = [
        *NOTES,
        f"class biases are set so that about {sizes.candidates} candidates an image reach each network's "
        "score threshold and go into NMS",
        "ours reads uint8 and normalises; torchvision is given float images, which its transforms make",
        "limit: the convolutions of ours alone",
        *more,
    ]
    return Table(f"batch {count}", title, "ms", figures, measured_targets(targets, figures), notes)


def dtype_of(ours: Ours, device: torch.device) -> torch.dtype:
    """Return what our network's forward pass runs in."""
    return resolve_precision(ours.config.training.precision, device)


def convolutions_alone(
    model: MultiTaskModel, batch: Batch, device: torch.device, dtype: torch.dtype
) -> Callable[[int], None]:
    """Return a call of nothing but the convolutions of our network's forward pass."""
    moved = batch.to(device)

    @torch.no_grad()
    def forward() -> None:
        with mixed_precision(device, dtype):
            model(moved.images, moved.sizes)

    return replay(record_convolutions(forward))


def profile_infer(sizes: InferSizes, device: torch.device, folder: Path, trace: Path) -> list[Profile]:
    """Return where an answer of ours to the largest batch spends its time; `trace` is written."""
    ours = build_ours(sizes.setting(folder), {HEAD: DEFAULT_HEAD}, device)
    prepare_ours(ours, device, sizes.candidates)
    batch = first_images(ours.batch, max(sizes.batches))
    dtype = dtype_of(ours, device)
    answer = our_answer(inference_model(ours.model, dtype), batch, device, dtype)
    return [profile_call(f"infer: ours, batch {max(sizes.batches)}", answer, device, trace)]
