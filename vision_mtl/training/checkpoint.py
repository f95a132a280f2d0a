"""Checkpoints: plain types and tensors, written whole or not at all."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch

from vision_mtl.errors import CheckpointError
from vision_mtl.files import whole

FORMAT = 1


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write `state` to `path`: to a temporary file first, synced, then renamed.

    Raises:
        CheckpointError: the file cannot be written; what was there before is untouched.
    """
    try:
        with whole(path) as temporary, temporary.open("wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"cannot write '{path}': {error}; free some space or choose another --output"
        ) from error


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU; nothing but tensors and plain types is ever unpickled.

    Raises:
        CheckpointError: no such file, damaged, or not a checkpoint of this project.
    """
    if not Path(path).is_file():
        raise CheckpointError(
            f"no checkpoint '{path}'; expected a file like runs/shapes-1/checkpoints/best.pt"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a damaged file, with no common base
        # torch colours its messages for terminals, and explains itself at length after the first sentence.
        problem = re.sub(r"\x1b\[[0-9;]*m", "", str(error) or "it is empty").splitlines()[0]
        raise CheckpointError(
            f"cannot read '{path}': {type(error).__name__}: {problem}. It is damaged or no checkpoint; use "
            "another one of the run"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(f"'{path}' is no checkpoint of this version: format {found}, expected {FORMAT}")
    return state
