"""Index: an annotation file of train2017's size, first read, read again, and held by workers."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

from vision_mtl.benchmark.annotation_file import write_annotations
from vision_mtl.benchmark.process import Usage, in_fresh_process
from vision_mtl.benchmark.readers import read_ours, read_peer, worker_of_ours, worker_of_peer
from vision_mtl.benchmark.results import Side, Table, Target, figure
from vision_mtl.commands.timing import timing_of

PEER, FIRST, AGAIN, OURS = "pycocotools.COCO", "ours, first read", "ours, from the cache", "ours"
SIDES: dict[str, Side] = {PEER: "peer", FIRST: "ours", AGAIN: "ours", OURS: "ours"}
Alone = Callable[..., Any]


@dataclass(frozen=True)
class IndexSizes:
    """How large the file is, and how often it is read; by default train2017's numbers.

    Attributes:
        images: how many.
        annotations: how many, polygons included.
        rounds: of each reader.
    """

    images: int = 118_287
    annotations: int = 860_001
    rounds: int = 5


def measure_index(
    sizes: IndexSizes, device: torch.device, folder: Path, alone: Alone = in_fresh_process
) -> list[Table]:
    """Read the file with either side in turn, every time in a process of its own.

    Args:
        sizes: of the file, and how often.
        device: not used: annotations are read on the CPU.
        folder: for the file and the cache; a file of these sizes that is there is used again.
        alone: calls a function with keywords in a process of its own.
    """
    path = folder / f"annotations-{sizes.images}-{sizes.annotations}.json"
    if not path.exists():
        write_annotations(path, sizes.images, sizes.annotations)
    with path.open("rb") as file:  # into the system's cache, for both sides alike
        while file.read(1 << 24):
            pass
    cache = folder / "index-cache"
    usages: dict[str, list[Usage]] = {PEER: [], FIRST: [], AGAIN: []}
    own: dict[str, list[float]] = {PEER: [], OURS: []}
    for _ in range(sizes.rounds):
        shutil.rmtree(cache, ignore_errors=True)
        ours = {"path": str(path), "cache": str(cache)}
        usages[PEER].append(msgspec.convert(alone(read_peer, path=str(path)), Usage))
        usages[FIRST].append(msgspec.convert(alone(read_ours, **ours), Usage))
        usages[AGAIN].append(msgspec.convert(alone(read_ours, **ours), Usage))
        own[PEER].append(alone(worker_of_peer, path=str(path)))
        own[OURS].append(alone(worker_of_ours, **ours))
    return _tables(path.stat().st_size / 1e6, sizes, usages, own)


def _tables(
    megabytes: float, sizes: IndexSizes, usages: dict[str, list[Usage]], own: dict[str, list[float]]
) -> list[Table]:
    what = f"{sizes.images:,} images, {sizes.annotations:,} annotations, {megabytes:.0f} MB"
    seconds = {name: timing_of([usage.seconds for usage in found]) for name, found in usages.items()}
    peaks = {name: timing_of([usage.megabytes for usage in found]) for name, found in usages.items()}
    owned = {name: timing_of(found) for name, found in own.items()}
    notes = ["each in a process of its own, imports left out; ours validates, packs and writes its cache too"]
    return [
        Table(
            "time",
            f"index: seconds to read {what}",
            "s",
            [figure(name, SIDES[name], timing) for name, timing in seconds.items()],
            [Target(FIRST, PEER, at_least=5.0), Target(AGAIN, at_most=0.3)],
            notes,
        ),
        Table(
            "peak memory",
            f"index: peak memory of reading {what}",
            "MB",
            [figure(name, SIDES[name], timing) for name, timing in peaks.items()],
            [Target(FIRST, PEER, at_least=3.0)],
            notes,
        ),
        Table(
            "worker",
            "index: memory of its own of a forked worker that has seen every annotation",
            "MB",
            [figure(name, SIDES[name], timing) for name, timing in owned.items()],
            [Target(OURS, at_most=20.0)],
            ["private dirty pages; files mapped and pages still shared with the main process are left out"],
        ),
    ]
