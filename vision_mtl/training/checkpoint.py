"""Checkpoints: plain types and tensors, written whole or not at all, proved intact before they are read."""

from __future__ import annotations

import hashlib
import io
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from vision_mtl.errors import CheckpointError
from vision_mtl.files import synchronise, whole
from vision_mtl.models.shared_file import is_shared, read_shared

FORMAT = 2
SEAL = b"vision_mtl sha256 "  # and the digest of all that stands before it: the end of every file
DIGEST = hashlib.sha256().digest_size


def save_checkpoint(state: dict[str, Any], path: Path, keep: int = 1) -> None:
    """Write `state` and its SHA-256 to `path`: to a temporary file first, synced, then renamed.

    Args:
        state: plain types and tensors.
        path: the file.
        keep: how many of these files to keep: `path`, and what it was before, `<stem>.1.pt` and so on.

    Raises:
        CheckpointError: the file cannot be written; what was there before is untouched.
    """
    buffer = io.BytesIO()
    try:
        torch.save({"format": FORMAT, **state}, buffer)
        content = buffer.getbuffer()
        with whole(path, durable=True) as temporary:
            with temporary.open("wb") as file:
                file.write(content)
                file.write(SEAL + hashlib.sha256(content).digest())
            synchronise(temporary)  # a disk that is full may say so only now; the others stay as they are
            files = [path, *(path.with_name(f"{path.stem}.{i}{path.suffix}") for i in range(1, keep))]
            for newer, older in reversed(list(pairwise(files))):
                if newer.exists():
                    newer.replace(older)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"cannot write '{path}': {error}; free some space or choose another --output"
        ) from error


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint, or what `write_shared` made of one, onto the CPU.

    Nothing but tensors and plain types is ever unpickled.

    Raises:
        CheckpointError: no such file, damaged, or not a checkpoint of this project.
    """
    if not Path(path).is_file():
        raise CheckpointError(
            f"no checkpoint '{path}'; expected a file like runs/shapes-1/checkpoints/best.pt"
        )
    if is_shared(path):
        return read_shared(path)
    try:
        state = torch.load(io.BytesIO(_proved(path)), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types for a damaged file, with no common base
        if isinstance(error, CheckpointError):
            raise
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


def _proved(path: str | Path) -> bytes:
    """Return a checkpoint's content without its seal, which it was compared with."""
    content = Path(path).read_bytes()
    seal, end = content[-len(SEAL) - DIGEST :], len(content) - len(SEAL) - DIGEST
    if not seal.startswith(SEAL):
        raise CheckpointError(
            f"cannot read '{path}': it does not end with the SHA-256 that every checkpoint ends with. It is "
            "damaged, of an older version or no checkpoint; use another one of the run"
        )
    content = content[:end]
    if hashlib.sha256(content).digest() != seal[len(SEAL) :]:
        raise CheckpointError(
            f"cannot read '{path}': its content is not what its SHA-256 was made of. It is damaged; use "
            "another one of the run"
        )
    return content


def kept_checkpoints(path: Path) -> list[Path]:
    """Return what there is of `path` and of what `save_checkpoint` keeps of it, the newest first."""
    pattern = re.compile(rf"{re.escape(path.stem)}(?:\.(\d+))?{re.escape(path.suffix)}")
    files = list(path.parent.iterdir()) if path.parent.is_dir() else []
    found = {int(match.group(1) or 0): file for file in files if (match := pattern.fullmatch(file.name))}
    return [file for _, file in sorted(found.items())]


def newest_intact(path: Path) -> tuple[dict[str, Any], Path, list[str]]:
    """Return the newest checkpoint that can be read among `path` and what is kept of it.

    Returns:
        its state, its file, and what is wrong with each newer one.

    Raises:
        CheckpointError: there is none.
    """
    wrong: list[str] = []
    for file in kept_checkpoints(path) or [path]:
        try:
            return load_checkpoint(file), file, wrong
        except CheckpointError as error:
            wrong.append(str(error))
    raise CheckpointError("; ".join(wrong))
