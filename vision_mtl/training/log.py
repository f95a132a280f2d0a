"""What a run leaves behind while it goes: a log, metrics by line, TensorBoard."""

from __future__ import annotations

import importlib.util
import json
import logging
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vision_mtl.files import whole


def start_logging(file: Path | None = None) -> None:
    """Send the package's log to the terminal and, if given, to a file with times."""
    logger = logging.getLogger("vision_mtl")
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        handler.close()
    logger.setLevel(logging.INFO)
    logger.propagate = False
    terminal = logging.StreamHandler(sys.stdout)
    terminal.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(terminal)
    if file is not None:
        written = _StrictHandler(file, encoding="utf-8")
        written.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(written)


class _StrictHandler(logging.FileHandler):
    """A log file that must be written: by itself logging prints a traceback and goes on."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        raise  # it is called where the error is handled


def peak_memory(device: torch.device) -> float | None:
    """Return the most MiB held so far, by tensors on a GPU, else by this process; None where unknown."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    if importlib.util.find_spec("resource") is None:  # Windows
        return None
    import resource

    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes there, KiB elsewhere
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


class MetricsLog:
    """Lines of `metrics.jsonl`, and TensorBoard events where the extra is installed.

    Args:
        folder: the run folder.
        lines: when a run resumes, those that its checkpoint knows of: later ones will be written again.
        step: optimiser steps that it has done.

    Attributes:
        path: the file.
        lines: that it has.
    """

    def __init__(self, folder: Path, lines: int = 0, step: int = 0) -> None:
        self.path = folder / "metrics.jsonl"
        kept = []
        if lines and self.path.exists():
            kept = self.path.read_text(encoding="utf-8").splitlines()[:lines]
        with whole(self.path) as file:
            file.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        self.lines = len(kept)
        self.events: Any = None
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self.events = SummaryWriter(str(folder / "tensorboard"), purge_step=step or None)

    def write(self, step: int, kind: str, values: Mapping[str, Any]) -> None:
        """Append one line; numbers that are not finite are written as null."""
        line = {"step": step, "kind": kind, **_finite(values)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self.lines += 1
        if self.events is not None:
            for name, value in _flat(values):
                self.events.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Flush what TensorBoard still holds."""
        if self.events is not None:
            self.events.close()


def _finite(values: Any) -> Any:
    if isinstance(values, Mapping):
        return {key: _finite(value) for key, value in values.items()}
    return None if isinstance(values, float) and not math.isfinite(values) else values


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    flat = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat += _flat(value, f"{prefix}{key}/")
        elif isinstance(value, (int, float)):
            flat.append((prefix + key, float(value)))
    return flat
