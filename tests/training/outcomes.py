"""All that a training run leaves behind, for comparing it with another to the last bit."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from torch import Tensor

from vision_mtl.training.checkpoint import load_checkpoint

CLOCK = {"seconds", "training_seconds", "images_per_second", "memory_mb"}


def outcome(run: Path) -> dict[str, Any]:
    """Return a run's checkpoints, lines of metrics and final metrics, without clock readings and without how
    many processes loaded its data."""
    checkpoints = {}
    for name in ("last", "best"):
        checkpoints[name] = load_checkpoint(run / f"checkpoints/{name}.pt")
        checkpoints[name]["config"]["data"].pop("workers")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    metrics = json.loads((run / "metrics.json").read_text())
    return _timeless({**checkpoints, "lines": lines, "metrics": metrics})


def _timeless(value: Any) -> Any:
    if isinstance(value, Tensor):
        content = hashlib.sha256(value.contiguous().numpy().tobytes()).hexdigest()
        return [str(value.dtype), list(value.shape), content]
    if isinstance(value, dict):
        return {str(key): _timeless(part) for key, part in value.items() if key not in CLOCK}
    return [_timeless(part) for part in value] if isinstance(value, (list, tuple)) else value
