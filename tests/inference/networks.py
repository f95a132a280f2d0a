"""A tiny untrained network with all kinds of heads, pictures for it, and the tool with its narrow trunk."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import msgspec
import numpy as np
import torch

from vision_mtl.commands.shared import open_checkpoint
from vision_mtl.config import config_from_tree, to_tree
from vision_mtl.heads.base import LabelInfo
from vision_mtl.inference.pipeline import Pipeline
from vision_mtl.inference.thresholds import Thresholds
from vision_mtl.models.multitask import build_model
from vision_mtl.training.checkpoint import save_checkpoint

INFER = [
    sys.executable,
    "-c",
    "import runpy\nfrom tests.training.narrow import narrow_trunk\n"
    "with narrow_trunk():\n    runpy.run_path('tools/infer.py', run_name='__main__')",
]
HEADS = {
    "objects": {"type": "fcos", "depth": 1},
    "kind": {"type": "classification", "source": "attribute", "field": "kind"},
    "presence": {"type": "multilabel", "source": "boxes"},
    "count": {"type": "regression", "source": "count"},
}
LABELS = {
    "objects": LabelInfo(("bolt", "nut"), (3, 7)),
    "kind": LabelInfo(("clean", "dirty")),
    "presence": LabelInfo(("bolt", "nut")),
    "count": LabelInfo(mean=2.0, std=1.5),
}


def write_checkpoint(path: Path, heads: tuple[str, ...] = tuple(HEADS)) -> str:
    """Save the network as a run would; return its path."""
    config = config_from_tree(
        {
            "data": {"resize": {"shorter": 64, "longer": 96}, "eval_batch_size": 2, "workers": 0},
            "trunk": {"name": "resnet18", "channels": 32},
            "heads": {name: HEADS[name] for name in heads},
            "training": {"precision": "fp32"},
        },
        "test",
    )
    labels = {name: LABELS[name] for name in heads}
    torch.manual_seed(0)
    model = build_model(config.model(), labels)
    state = {
        "config": to_tree(config),
        "labels": msgspec.to_builtins(labels),
        "progress": {"step": 1, "epoch": 1, "best": 0.0, "best_step": 1, "since_best": 0},
        "average": model.state_dict(),
    }
    save_checkpoint(state, path)
    return str(path)


def picture(path: Path, height: int, width: int, seed: int = 0) -> Path:
    """Write a picture of noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))
    return path


def pipeline(checkpoint: str, **settings: object) -> Pipeline:
    """Return a checkpoint's network with all of its detections."""
    trained = open_checkpoint(checkpoint)
    values = {"batch_size": 2, "workers": 0, "thresholds": Thresholds(0.0), **settings}
    resize = trained.config.data.resize
    return Pipeline(trained.model, resize, torch.device("cpu"), torch.float32, **values)  # type: ignore[arg-type]
