"""`tools/doctor.py`: whether this machine can train, and what to do where it cannot.

Every check gets the facts that it judges as arguments and imports what it needs when it runs: a broken torch
or torchvision is a finding here, no traceback.
"""

from __future__ import annotations

import math
import os
import platform
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vision_mtl.commands.doctor_facts import (
    chosen_format,
    convolution_times,
    free_space,
    gpu_names,
    installed_packages,
    normal_name,
    requirements,
    shared_memory,
    train_a_little,
    write_and_remove,
)
from vision_mtl.data.cache import cache_folder

OLDEST_PYTHON = (3, 10)
OPENCV_WHEELS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
SHARED_BYTES = 512 * 2**20  # a few prefetched batches of large images; Docker's default is an eighth of it
DISK_BYTES = 2 * 2**30  # checkpoints of a ResNet-50 with optimiser and averages, and caches
TRAINING_SECONDS = 10.0
REINSTALL = "python -m pip install -e . in the project's folder"


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: what was looked at.
        ok: whether it is as it should be.
        found: what was found.
        cure: what to do about it; empty where all is well.
    """

    name: str
    ok: bool
    found: str
    cure: str = ""


def check_python(version: tuple[int, int]) -> Check:
    """Judge the interpreter's (major, minor) version."""
    found = f"{version[0]}.{version[1]} on {platform.system()} {platform.machine()}"
    cure = f"make a virtual environment with Python {OLDEST_PYTHON[0]}.{OLDEST_PYTHON[1]} or newer"
    return _check("Python", version >= OLDEST_PYTHON, found, cure)


def check_packages(requirements: Iterable[str], installed: Mapping[str, str]) -> Check:
    """Judge the installed versions, name -> version, by requirements as pyproject.toml has them."""
    wrong, found = [], []
    for requirement in map(Requirement, requirements):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        version = installed.get(normal_name(requirement.name))
        found.append(f"{requirement.name} {version or 'missing'}")
        if version is None or not requirement.specifier.contains(version, prereleases=True):
            wrong.append(str(requirement))
    quoted = " ".join(f"'{requirement}'" for requirement in wrong)
    return _check("packages", not wrong, ", ".join(found), f"python -m pip install {quoted}")


def check_opencv(installed: Mapping[str, str]) -> Check:
    """Judge which OpenCV wheels there are: they own the same folder, and albumentations needs this one."""
    wheels = [name for name in OPENCV_WHEELS if name in installed]
    found = ", ".join(f"{name} {installed[name]}" for name in wheels) or "none"
    remove = f"python -m pip uninstall -y {' '.join(wheels)} && " if wheels else ""
    cure = f"{remove}python -m pip install opencv-python-headless"
    return _check("one OpenCV", wheels == ["opencv-python-headless"], found, cure)


def check_operators(suppress: Callable[[Any, Any, float], Any]) -> Check:
    """Judge torchvision's `nms` on three boxes, of which the second covers half of the first."""
    import torch

    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [20, 20, 30, 30]])
    kept = suppress(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5).tolist()
    cure = "install torch and torchvision of one release, from the same index"
    return _check("torchvision operators", kept == [0, 2], f"nms keeps {kept} of three boxes", cure)


def check_pycocotools(overlap: Callable[[Any, Any, Any], Any]) -> Check:
    """Judge pycocotools' compiled part on two squares that share half of themselves."""
    value = float(overlap([[0, 0, 2, 2]], [[1, 0, 2, 2]], [0])[0][0])
    right = math.isclose(value, 1 / 3)
    cure = "python -m pip install --force-reinstall pycocotools"
    return _check("pycocotools", right, f"IoU {value:.3f} of two half-shared squares", cure)


def check_gpu(names: Sequence[str], has_driver: bool) -> Check:
    """Judge the GPUs that torch sees beside whether an NVIDIA driver is loaded."""
    cure = "a driver is loaded, but torch sees no GPU: install a torch built for CUDA, see pytorch.org"
    found = ", ".join(names) or ("none, but an NVIDIA driver" if has_driver else "none: the processor trains")
    return _check("GPU", bool(names) or not has_driver, found, cure)


def check_speed(milliseconds: Mapping[tuple[str, str], float], chosen: str) -> Check:
    """Judge the times of a convolution by (number format, layout): the format that `training.precision=auto`
    chooses must not be much slower than fp32."""
    found = ", ".join(f"{kind} {layout} {ms:.1f} ms" for (kind, layout), ms in milliseconds.items())
    fast = {kind: min(ms for (k, _), ms in milliseconds.items() if k == kind) for kind in ("fp32", "bf16")}
    right = fast[chosen] <= 1.5 * fast["fp32"]
    return _check("convolution", right, f"{found}; auto takes {chosen}", "set training.precision=fp32")


def check_shared_memory(size: int | None) -> Check:
    """Judge the bytes of /dev/shm, through which loader processes hand over batches; None without one."""
    if size is None:
        return Check("shared memory", True, "no /dev/shm on this system")
    cure = "enlarge it (docker run --shm-size=8g, mount -o remount,size=8g /dev/shm), or set data.workers=0"
    return _check("shared memory", size >= SHARED_BYTES, f"{size / 2**20:,.0f} MiB in /dev/shm", cure)


def check_disk(free: Mapping[str, int]) -> Check:
    """Judge the free bytes by place."""
    short = [place for place, size in free.items() if size < DISK_BYTES]
    found = ", ".join(f"{size / 2**30:.1f} GiB free in {place}" for place, size in free.items())
    cure = f"free some space in {', '.join(short)}, or use --output and VISION_MTL_CACHE for other disks"
    return _check("disk", not short, found, cure)


def check_cache(folder: Path, write: Callable[[Path], None]) -> Check:
    """Judge whether the cache folder takes a file; `write` makes one in it and removes it again."""
    try:
        write(folder)
    except OSError as error:
        return Check("cache", False, f"{folder}: {error.strerror}", "set VISION_MTL_CACHE to another folder")
    return Check("cache", True, f"{folder} takes files")


def check_training(train: Callable[[float], tuple[int, float, float]]) -> Check:
    """Judge some training steps; `train` gets the seconds that they may take and returns how many there were,
    how long they took, and the last loss."""
    steps, seconds, loss = train(TRAINING_SECONDS)
    right = steps > 0 and math.isfinite(loss)
    found = f"{steps} steps of a small detector in {seconds:.1f} s, loss {loss:.3f}"
    return _check(
        "training", right, found, f"set training.precision=fp32; if that does not help, {REINSTALL}"
    )


def _check(name: str, ok: bool, found: str, cure: str) -> Check:
    return Check(name, ok, found, "" if ok else cure)


def _operators() -> Check:
    from torchvision.ops import nms

    return check_operators(nms)


def _pycocotools() -> Check:
    from pycocotools.mask import iou

    return check_pycocotools(iou)


CHECKS: dict[str, Callable[[], Check]] = {
    "Python": lambda: check_python((sys.version_info.major, sys.version_info.minor)),
    "packages": lambda: check_packages(requirements(), installed_packages()),
    "one OpenCV": lambda: check_opencv(installed_packages()),
    "torchvision operators": _operators,
    "pycocotools": _pycocotools,
    "GPU": lambda: check_gpu(gpu_names(), Path("/proc/driver/nvidia/version").exists()),
    "convolution": lambda: check_speed(convolution_times(), chosen_format()),
    "shared memory": lambda: check_shared_memory(shared_memory()),
    "disk": lambda: check_disk(free_space()),
    "cache": lambda: check_cache(cache_folder(), write_and_remove),
    "training": lambda: check_training(train_a_little),
}


def examine(checks: Mapping[str, Callable[[], Check]]) -> list[Check]:
    """Carry out all checks; one that ends in an exception has failed."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    findings = []
    for name, check in checks.items():
        try:
            findings.append(check())
        except Exception as error:  # of whatever is broken: to say so is the purpose
            first = (str(error).splitlines() or [""])[0]
            findings.append(Check(name, False, f"{type(error).__name__}: {first}", REINSTALL))
    return findings


def findings_table(findings: Sequence[Check]) -> Table:
    """Return one row per finding."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in ("", "check", "found and cure"):
        table.add_column(column)
    for finding in findings:
        mark = Text("ok", "green") if finding.ok else Text("FAIL", "bold red")
        words = Text(finding.found)
        if finding.cure:
            words.append(f"\n{finding.cure}", "bold")
        table.add_row(mark, finding.name, words)
    return table


def run_doctor() -> int:
    """Print all findings; return 1 where one has failed."""
    findings = examine(CHECKS)
    Console().print(findings_table(findings))
    failed = sum(not finding.ok for finding in findings)
    print(f"{failed} of {len(findings)} checks failed" if failed else "all is well")
    return 1 if failed else 0
