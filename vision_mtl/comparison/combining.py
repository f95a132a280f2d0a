"""Single-task models to one model with all their heads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vision_mtl.config import Config, to_tree
from vision_mtl.training.checkpoint import load_checkpoint, save_checkpoint


def combine(config: Config, parts: Mapping[str, Path], path: Path) -> Path:
    """Write a checkpoint that joint training can start from, and return its path.

    The trunk is that of the detection head's model, else of the first one that has all of it: a model whose
    head reads no pyramid has none. Every head has its own model's tensors. The other trunks are lost, and
    their heads have to get used to this one: the result is fine-tuned.

    Args:
        config: of the joint model.
        parts: head -> checkpoint of its single-task model; all with the same trunk settings.
        path: the file to write.

    Raises:
        CheckpointError: a checkpoint that cannot be read, or a file that cannot be written.
    """
    states = {name: load_checkpoint(part) for name, part in parts.items()}
    detectors = [name for name, head in config.heads.items() if head.label_source() is None]
    trunks = [states[name] for name in detectors or states]
    trunk = max(trunks, key=lambda state: len(_tensors(state, "trunk.")))  # of equal ones the first
    average = _tensors(trunk, "trunk.")
    for name, state in states.items():
        average |= _tensors(state, f"heads.{name}.")
    combined = {
        **{key: trunk[key] for key in ("versions", "fingerprints", "progress")},
        "config": to_tree(config),
        "labels": {name: state["labels"][name] for name, state in states.items()},
        "average": average,
    }
    save_checkpoint(combined, path)
    return path


def _tensors(state: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {key: tensor for key, tensor in state["average"].items() if key.startswith(prefix)}
