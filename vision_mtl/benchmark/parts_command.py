"""`tools/benchmark.py` but for `accuracy`: run parts, print their tables, keep their figures."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import torch
import yaml

from vision_mtl.allocator import keep_freed_memory
from vision_mtl.benchmark.parts.eval import EvalSizes, measure_eval
from vision_mtl.benchmark.parts.index import IndexSizes, measure_index
from vision_mtl.benchmark.parts.infer import InferSizes, measure_infer, profile_infer
from vision_mtl.benchmark.parts.input import InputSizes, measure_input, profile_input
from vision_mtl.benchmark.parts.joint import JointSizes, measure_joint
from vision_mtl.benchmark.parts.memory import MemorySizes, measure_memory
from vision_mtl.benchmark.parts.start import StartSizes, measure_start
from vision_mtl.benchmark.parts.train import TrainSizes, measure_train, profile_train
from vision_mtl.benchmark.ratio_plot import draw_ratios
from vision_mtl.benchmark.report import part_text
from vision_mtl.benchmark.results import Part, Profile, Table, read_results, update_results
from vision_mtl.commands.machine import machine, versions
from vision_mtl.errors import ConfigError, nearest
from vision_mtl.training.log import start_logging

logger = logging.getLogger(__name__)

PACKAGES = ("pycocotools", "albumentations", "opencv-python-headless", "numpy", "pillow")


class Job(NamedTuple):
    """How a part is run.

    Attributes:
        measure: (sizes, device, folder) -> tables.
        full: the sizes that figures are quoted for.
        quick: sizes that only show that it works.
        profile: (sizes, device, folder, trace) -> profiles; None where there is nothing to profile.
    """

    measure: Callable[..., list[Table]]
    full: Any
    quick: Any
    profile: Callable[..., list[Profile]] | None = None


def jobs(device: torch.device) -> dict[str, Job]:
    """Return name -> part, in the order in which `all` runs them; networks get more to do on a GPU."""
    coco: dict[str, Any] = {"height": 800, "width": 1333} if device.type == "cuda" else {}
    images: dict[str, Any] = {**coco, "batch": 16} if device.type == "cuda" else {}
    small: dict[str, Any] = {"trunk": "resnet18", "channels": 32}
    few: dict[str, Any] = {"warm_up": 1, "rounds": 2}
    return {
        "index": Job(measure_index, IndexSizes(), IndexSizes(100, 500, rounds=1)),
        "input": Job(
            measure_input,
            InputSizes(),
            InputSizes(120, 160, 4, batch=2, shorter=200, longer=333, sides=(150, 200), batches=2, **few),
            profile_input,
        ),
        "train": Job(
            measure_train, TrainSizes(**images), TrainSizes(64, 64, 2, 3, **small, **few), profile_train
        ),
        "infer": Job(
            measure_infer,
            InferSizes(**coco),
            InferSizes(64, 64, (2,), 20, **small, **few, compiled=False),
            profile_infer,
        ),
        "joint": Job(measure_joint, JointSizes(), JointSizes(64, 64, 2, (2,), 20, **small, **few)),
        "eval": Job(measure_eval, EvalSizes(), EvalSizes(20, 100, 10, rounds=1)),
        "memory": Job(measure_memory, MemorySizes(**images), MemorySizes(64, 96, steps=1, rounds=1, **small)),
        "start": Job(measure_start, StartSizes(), StartSizes(64, 96, 64, rounds=1, **small)),
    }


@dataclass(frozen=True)
class Request:
    """What the command line asks for.

    Attributes:
        part: one part's name, or `all`.
        device: `cpu` or `cuda`.
        json: results file; the other parts in it stay.
        profile: also profile what can be.
        plot: where to draw the file's ratios; None for nowhere.
        quick: tiny sizes.
        folder: where the part `index` keeps its annotation file; None for a temporary folder.
        command: as it was typed.
        overrides: `key=value` changes to the part's sizes; empty for `all`.
    """

    part: str
    device: Literal["cpu", "cuda"]
    json: Path
    profile: bool
    plot: Path | None
    quick: bool
    folder: Path | None
    command: str
    overrides: Sequence[str] = ()


def benchmark(request: Request) -> None:
    """Measure one part or all, print each table as it is done, and put it into the results file.

    Raises:
        VisionMTLError: no such device, a file that is none of ours, or a part that cannot be measured.
    """
    start_logging()
    if request.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device: found cuda, but torch sees no GPU; use --device cpu")
    device = torch.device(request.device)
    results = read_results(request.json)  # an error now, and not after an hour
    keep_freed_memory(device)
    known = jobs(device)
    for name in known if request.part == "all" else [request.part]:
        with warnings_only("vision_mtl.data"):  # it would list every data set made up here
            part = run_part(name, known[name], request, device)
        results = update_results(request.json, name, part)
        logger.info("%s", part_text(name, part))
    logger.info("all figures are in %s", request.json)
    if request.plot is not None:
        draw_ratios(results, request.plot)
        logger.info("the plot is in %s", request.plot)


@contextmanager
def warnings_only(name: str) -> Iterator[None]:
    """Keep what a logger has to say below a warning to itself."""
    quieted = logging.getLogger(name)
    before = quieted.level
    quieted.setLevel(logging.WARNING)
    try:
        yield
    finally:
        quieted.setLevel(before)


def run_part(name: str, job: Job, request: Request, device: torch.device) -> Part:
    """Measure one part, and profile it if that is asked for."""
    sizes = changed_sizes(job.quick if request.quick else job.full, request.overrides)
    profiles: list[Profile] = []
    with workspace() as folder:
        kept = request.folder.resolve() if request.folder is not None and name == "index" else folder / "data"
        kept.mkdir(parents=True, exist_ok=True)
        tables = job.measure(sizes, device, kept)
        if request.profile and job.profile is not None:
            trace = request.json.with_name(f"{request.json.stem}_{name}_trace.json.gz")
            profiles = job.profile(sizes, device, folder / "profiled", trace)
    return Part(
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        command=request.command,
        machine=machine(),
        versions={**versions(), **{package: version(package) for package in PACKAGES}},
        device=device.type,
        threads=torch.get_num_threads(),
        quick=request.quick,
        tables=tables,
        profiles=profiles,
    )


def changed_sizes(sizes: Any, overrides: Sequence[str]) -> Any:
    """Return a part's sizes with `key=value` changes, the values being YAML.

    Raises:
        ConfigError: a key that the part does not have, or a value of another type.
    """
    tree = asdict(sizes)
    for override in overrides:
        key, _, text = override.partition("=")
        if key not in tree:
            hint = nearest(key, tree) or "."
            raise ConfigError(f"--set {override}: unknown key '{key}'{hint} Known: {', '.join(tree)}")
        tree[key] = yaml.safe_load(text)
    try:
        return msgspec.convert(tree, type(sizes))
    except msgspec.ValidationError as error:
        raise ConfigError(f"--set {' '.join(overrides)}: {error}") from error


@contextmanager
def workspace() -> Iterator[Path]:
    """Yield a folder that is removed afterwards, and keep caches in it, those of started processes too."""
    before = os.environ.get("VISION_MTL_CACHE")
    with tempfile.TemporaryDirectory(prefix="vision-mtl-benchmark-") as folder:
        os.environ["VISION_MTL_CACHE"] = str(Path(folder) / "cache")
        try:
            yield Path(folder)
        finally:
            if before is None:
                del os.environ["VISION_MTL_CACHE"]
            else:
                os.environ["VISION_MTL_CACHE"] = before
