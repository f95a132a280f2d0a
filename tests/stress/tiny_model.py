"""A small untrained checkpoint, for commands that need some model."""

from __future__ import annotations

from pathlib import Path

import msgspec
import torch

from vision_mtl.config import config_from_tree, to_tree
from vision_mtl.heads.base import LabelInfo
from vision_mtl.models.multitask import build_model
from vision_mtl.training.checkpoint import save_checkpoint
from vision_mtl.training.run import Progress

TREE = {
    "data": {"resize": {"shorter": 64, "longer": 96}, "eval_batch_size": 4, "workers": 0},
    "trunk": {"name": "resnet18", "channels": 32},
    "heads": {"objects": {"type": "fcos", "depth": 1, "norm": "group"}},
    "training": {"precision": "fp32"},
}


def write_checkpoint(path: Path, names: tuple[str, ...] = ("bolt", "nut")) -> Path:
    """Write a checkpoint of a detector of the classes `names`; return its path."""
    torch.manual_seed(0)
    config = config_from_tree(TREE, "a tiny model")
    labels = {"objects": LabelInfo(names, tuple(range(1, len(names) + 1)))}
    model = build_model(config.model(), labels)
    state = {
        "config": to_tree(config),
        "labels": {name: msgspec.to_builtins(info) for name, info in labels.items()},
        "average": model.state_dict(),
        "progress": msgspec.to_builtins(Progress()),
    }
    save_checkpoint(state, path)
    return path
