"""`tools/export.py`: a checkpoint to a file that others can load without trusting it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from vision_mtl.commands.operating_points import KEY
from vision_mtl.commands.shared import open_checkpoint
from vision_mtl.config import to_tree
from vision_mtl.models.shared_file import write_shared


def export_safetensors(checkpoint: str, output: Path) -> None:
    """Write a checkpoint's averaged weights, its config, labels and thresholds as safetensors.

    Without the optimiser's state: it can be evaluated, asked and started from, not resumed.

    Args:
        checkpoint: `best.pt` or `last.pt` of a run.
        output: a name that ends in `.safetensors`.

    Raises:
        CheckpointError: a wrong checkpoint, or an output that cannot be written.
    """
    trained = open_checkpoint(checkpoint)
    progress = {"step": trained.progress.step, "epoch": trained.progress.epoch}
    labels = {name: msgspec.to_builtins(info) for name, info in trained.labels.items()}
    points = msgspec.to_builtins(trained.points)
    parts = {"config": to_tree(trained.config), "labels": labels, "progress": progress, KEY: points}
    write_shared(output, trained.model.state_dict(), parts)
    print(f"{output}: {output.stat().st_size / 2**20:.1f} MiB, heads {', '.join(labels)}")
