"""Pairs of idx files for tests, byte by byte."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np

UBYTE = 0x08  # the type of unsigned bytes


def idx_bytes(array: np.ndarray, kind: int = UBYTE, shape: tuple[int, ...] | None = None) -> bytes:
    """Return an idx file of the array's bytes; `shape` is what the header says, if that is not the truth."""
    lengths = array.shape if shape is None else shape
    return bytes([0, 0, kind, len(lengths)]) + struct.pack(f">{len(lengths)}I", *lengths) + array.tobytes()


def write_idx(path: Path, content: bytes) -> Path:
    """Write the content, gzipped if the name says so."""
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def write_pair(
    folder: Path, pixels: np.ndarray, labels: np.ndarray, end: str = ".idx.gz"
) -> tuple[Path, Path]:
    """Write pixels (I, H, W[, 3]) and labels (I,), both uint8, as `pixels` and `labels`; return the paths."""
    folder.mkdir(exist_ok=True)
    return (
        write_idx(folder / f"pixels{end}", idx_bytes(pixels)),
        write_idx(folder / f"labels{end}", idx_bytes(labels)),
    )
