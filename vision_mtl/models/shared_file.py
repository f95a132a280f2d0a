"""A network in one safetensors file, to be shared: weights, and as text what it takes to build it again.

The format holds tensors and text only, so no code (https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from vision_mtl.errors import CheckpointError
from vision_mtl.files import whole

SUFFIX = ".safetensors"
FORMAT = "vision_mtl network 1"
PARTS = ("config", "labels", "progress", "operating_points")
LONGEST_HEADER = 16 * 2**20  # bytes: a large network's names and places take a tenth of one


def is_shared(path: str | Path) -> bool:
    """Return whether a file's name says that it is a safetensors file."""
    return Path(path).suffix == SUFFIX


def write_shared(path: Path, weights: Mapping[str, Tensor], parts: Mapping[str, Any]) -> None:
    """Write a network, whole or not at all.

    Args:
        path: ends in `.safetensors`.
        weights: name -> tensor.
        parts: plain types under the names `PARTS`; numbers must be finite.

    Raises:
        CheckpointError: the file cannot be written, or its name ends otherwise.
    """
    if not is_shared(path):
        raise CheckpointError(f"--output '{path}': expected a name that ends in {SUFFIX}")
    solid = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in weights.items()
    }
    texts = {"format": FORMAT, **{name: json.dumps(parts[name], allow_nan=False) for name in PARTS}}
    content = safetensors.torch.save(solid, {**texts, "sha256": _digest(solid, texts)})
    try:
        with whole(path, durable=True) as temporary:
            temporary.write_bytes(content)
    except OSError as error:
        raise CheckpointError(
            f"cannot write '{path}': {error}; free some space or choose another --output"
        ) from error


def read_shared(path: str | Path) -> dict[str, Any]:
    """Return what `write_shared` wrote: the weights as `average`, and the `PARTS`.

    Raises:
        CheckpointError: damaged, too large a header, or not a network of this project.
    """
    try:
        content = Path(path).read_bytes()
        _check_header(content)
        metadata = msgspec.json.decode(_header(content)["__metadata__"], type=dict[str, str])
        weights = safetensors.torch.load(content)
        found = metadata.pop("sha256")
        if metadata.pop("format") != FORMAT or metadata.keys() != set(PARTS):
            raise ValueError(f"its metadata are not those of a '{FORMAT}'")
        if found != _digest(weights, {"format": FORMAT, **metadata}):
            raise ValueError("its content is not what its SHA-256 was made of")
        parts = {name: msgspec.json.decode(text) for name, text in metadata.items()}
    except (
        safetensors.SafetensorError,
        OSError,
        ValueError,
        KeyError,
        OverflowError,
        RecursionError,
        RuntimeError,
    ) as error:
        problem = f"it has no {error} in its metadata" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(
            f"cannot read '{path}': {problem[:300]}. It is damaged or no network of this project; expected a "
            "file that tools/export.py wrote"
        ) from error
    return {"average": weights, **parts}


def _check_header(content: bytes) -> None:
    """Raise ValueError where the header is longer than the file, or than any of ours could be."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or length > len(content) - 8:
        raise ValueError("it is shorter than its header says")
    if length > LONGEST_HEADER:
        raise ValueError(f"its header has {length} bytes, expected at most {LONGEST_HEADER}")


def _header(content: bytes) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(
        content[8 : 8 + int.from_bytes(content[:8], "little")], type=dict[str, msgspec.Raw]
    )


def _digest(weights: Mapping[str, Tensor], texts: Mapping[str, str]) -> str:
    """Return the SHA-256 of texts and tensors, in the order of their names."""
    digest = hashlib.sha256(json.dumps(sorted(texts.items())).encode())
    for name, tensor in sorted(weights.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
