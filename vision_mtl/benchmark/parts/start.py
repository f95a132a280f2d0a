"""How long commands take to begin: a help text, and the first prediction."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from vision_mtl.benchmark.contenders import HEAD
from vision_mtl.benchmark.detectors import DEFAULT_HEAD, Setting, build_ours, our_run
from vision_mtl.benchmark.process import ROOT
from vision_mtl.benchmark.results import Table, Target, figure
from vision_mtl.commands.timing import timing_of
from vision_mtl.errors import VisionMTLError

HELP, FIRST = "train.py --help", "infer.py, to its first prediction"
LOOK_EVERY = 0.002  # seconds between looks for the file


@dataclass(frozen=True)
class StartSizes:
    """What answers, and how often it is started.

    Attributes:
        height: of the image, in pixels.
        width: of the image, in pixels.
        shorter: side of the network's input, in pixels.
        trunk: which ResNet.
        channels: of the pyramid and the towers.
        rounds: starts of each command.
    """

    height: int = 480
    width: int = 640
    shorter: int = 800
    trunk: str = "resnet50"
    channels: int = 256
    rounds: int = 5


def measure_start(sizes: StartSizes, device: torch.device, folder: Path) -> list[Table]:
    """Start both commands in turn, each in a fresh process, and time them from the start of the process.

    Args:
        sizes: what and how often.
        device: where the network answers.
        folder: an empty one, for the checkpoint, the image and the answers.

    Raises:
        VisionMTLError: a command fails.
    """
    setting = Setting(folder, sizes.height, sizes.width, 1, sizes.trunk, sizes.channels)
    setting.write_images(objects=8)
    checkpoint = write_checkpoint(setting, device)
    seconds: dict[str, list[float]] = {HELP: [], FIRST: []}
    for i in range(sizes.rounds):
        output = folder / f"answers-{i}"
        infer = ["infer.py", str(folder / "images"), "--checkpoint", str(checkpoint), "--output", str(output)]
        resize = f"data.resize={{shorter: {sizes.shorter}, longer: {sizes.shorter * 5 // 3}}}"
        infer += ["--set", resize, "--set", f"training.device={device.type}"]
        seconds[HELP].append(seconds_of(["train.py", "--help"], None))
        seconds[FIRST].append(seconds_of(infer, output / "predictions.json"))
    figures = [figure(name, "ours", timing_of(values)) for name, values in seconds.items()]
    targets = [Target(HELP, at_most=1.5), Target(FIRST, at_most=6.0)]
    title = f"start: seconds from the start of a process, FCOS {sizes.trunk} at {sizes.shorter} pixels"
    notes = ["infer.py: one image, until predictions.json is there; files are in the system's cache"]
    return [Table("start", title, "s", figures, targets, notes)]


def write_checkpoint(setting: Setting, device: torch.device) -> Path:
    """Write `checkpoints/best.pt` of an untrained detector and return its path."""
    run = our_run(build_ours(setting, {HEAD: DEFAULT_HEAD}, device), device)
    run.folder = setting.folder
    run.save_best({})
    return setting.folder / "checkpoints" / "best.pt"


def seconds_of(tool: Sequence[str], file: Path | None) -> float:
    """Run one of the tools and return the seconds until `file` appears, or until it ends if that is None.

    Raises:
        VisionMTLError: it fails, or does not write the file.
    """
    command = [sys.executable, str(ROOT / "tools" / tool[0]), *tool[1:]]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    written = None
    while file is not None and process.poll() is None and written is None:
        if file.exists():
            written = time.perf_counter() - started
        time.sleep(LOOK_EVERY)
    printed, _ = process.communicate()
    ended = time.perf_counter() - started
    if process.returncode or (file is not None and not file.exists()):
        raise VisionMTLError(
            f"tools/{tool[0]} ended with code {process.returncode} in place of answering:\n{printed}"
        )
    return ended if written is None else written
