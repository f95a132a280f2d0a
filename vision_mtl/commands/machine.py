"""Where something was measured."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch
import torchvision


def machine() -> str:
    """Return the processor, how many of its cores this process may use, and the GPU if torch sees one."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass  # not Linux: the platform's name has to do
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return f"{cores} cores of {name}{gpu}"


def versions() -> dict[str, str]:
    """Return the versions that decide speed and accuracy."""
    return {"torch": str(torch.__version__), "torchvision": str(torchvision.__version__)}
