"""Packed arrays in one safetensors file: written atomically, read back memory-mapped and checked."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

import msgspec
import numpy as np
import safetensors.numpy

from vision_mtl.files import whole

_DTYPES = {
    "I64": np.int64,
    "I32": np.int32,
    "F64": np.float64,
    "F32": np.float32,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


class DamagedCacheError(Exception):
    """The file is not what `write_packed` wrote."""


class _Tensor(msgspec.Struct):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def write_packed(file: Path, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write `arrays` and `metadata` to `file`, which appears whole or not at all.

    Raises:
        OSError: the folder cannot be made or written to.
    """
    solid = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    content = safetensors.numpy.save(solid, {**metadata, "crc32": _checksum(solid, metadata)})
    with whole(file) as temporary:
        temporary.write_bytes(content)


def read_packed(file: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the arrays, read-only views of the mapped file, and the metadata.

    Raises:
        OSError: the file is missing or unreadable.
        DamagedCacheError: it is cut short or altered.
    """
    if file.stat().st_size < 8:
        raise DamagedCacheError(f"{file}: shorter than a safetensors header")
    mapped = np.asarray(np.memmap(file, np.uint8, mode="r"))
    try:
        start = 8 + int.from_bytes(mapped[:8].tobytes(), "little")
        header = msgspec.json.decode(mapped[8:start].tobytes(), type=dict[str, msgspec.Raw])
        metadata = msgspec.json.decode(header.pop("__metadata__"), type=dict[str, str])
        arrays = {name: _view(mapped[start:], raw) for name, raw in header.items()}
        expected = metadata.pop("crc32")
    except (msgspec.DecodeError, KeyError, ValueError, OverflowError) as error:
        raise DamagedCacheError(f"{file}: {error}") from error
    if _checksum(arrays, metadata) != expected:
        raise DamagedCacheError(f"{file}: the checksum does not match")
    return arrays, metadata


def _view(data: np.ndarray, raw: msgspec.Raw) -> np.ndarray:
    tensor = msgspec.json.decode(raw, type=_Tensor)
    begin, end = tensor.data_offsets
    return data[begin:end].view(_DTYPES[tensor.dtype]).reshape(tensor.shape)


def _checksum(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> str:
    value = zlib.crc32(msgspec.json.encode(metadata, order="deterministic"))
    for name, array in sorted(arrays.items()):
        value = zlib.crc32(f"{name} {array.dtype} {array.shape}".encode(), value)
        value = zlib.crc32(array.reshape(-1).view(np.uint8).data, value)
    return str(value)
