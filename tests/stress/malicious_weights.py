"""Checkpoints and other files of weights that try to run code or to read elsewhere."""

from __future__ import annotations

import builtins
import hashlib
import io
import json
import os
import pickle
import runpy
import shutil
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vision_mtl.commands.shared import open_checkpoint
from vision_mtl.errors import CheckpointError
from vision_mtl.heads.base import LabelInfo
from vision_mtl.models.shared_file import FORMAT as FORMAT_SHARED
from vision_mtl.models.shared_file import PARTS, write_shared
from vision_mtl.models.weight_files import read_weights
from vision_mtl.training.checkpoint import FORMAT, SEAL, load_checkpoint

# Writes a file into an empty folder and hands it to the project, which raises one of its errors or makes
# something harmless of it. Whoever runs what is in the file makes the other path: the canary.
Attack = Callable[[Path, str], None]


class Payload:
    """Something that calls a function when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def payloads(canary: str) -> dict[str, Payload]:
    """Return objects that make the file `canary` when they are unpickled."""
    code = f"open({canary!r}, 'w').close()"
    return {
        "os.system": Payload(os.system, f"touch {canary}"),
        "eval": Payload(builtins.eval, code),
        "exec": Payload(builtins.exec, code),
        "Popen": Payload(subprocess.Popen, ["touch", canary]),
        "open": Payload(builtins.open, canary, "w"),
        "runpy": Payload(runpy._run_code, code, {}),  # type: ignore[attr-defined]
        "copy": Payload(shutil.copy, "/etc/hostname", canary),
        "torch.load": Payload(partial(torch.load, weights_only=False), canary),
        "getattr": Payload(builtins.getattr, "text", "upper"),
        "tensor file": Payload(torch.from_file, canary, True, 16),
    }


def seal(path: Path) -> None:
    """End a file as checkpoints end, whatever it holds: anyone can."""
    content = path.read_bytes()
    path.write_bytes(content + SEAL + hashlib.sha256(content).digest())


def in_zip(path: Path, content: Any) -> None:
    torch.save({"format": FORMAT, "model": content}, path)


def in_legacy(path: Path, content: Any) -> None:
    torch.save({"format": FORMAT, "model": content}, path, _use_new_zipfile_serialization=False)


def in_pickle(path: Path, content: Any) -> None:
    path.write_bytes(pickle.dumps(content))


def in_hand_made_zip(path: Path, content: Any) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({"format": FORMAT, "model": content}, protocol=2))
        file.writestr("archive/version", "3")
        file.writestr("archive/byteorder", "little")


def in_tar(path: Path, content: Any) -> None:
    """Write the format of torch before 0.2: a tar whose members are pickles."""
    with tarfile.open(path, "w") as file:
        for name in ("sys_info", "storages", "tensors", "pickle"):
            data = pickle.dumps(content)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            file.addfile(member, io.BytesIO(data))


CONTAINERS: dict[str, Callable[[Path, Any], None]] = {
    "zip": in_zip,
    "legacy": in_legacy,
    "pickle": in_pickle,
    "hand-made zip": in_hand_made_zip,
    "tar": in_tar,
}


def checkpoint(payload: str, container: str) -> Attack:
    """Offer a checkpoint with a payload where a run's checkpoint is read, and where weights are."""

    def attack(folder: Path, canary: str) -> None:
        path = folder / "best.pt"
        CONTAINERS[container](path, payloads(canary)[payload])
        for sealed in (False, True):
            if sealed:
                seal(path)
            with suppress(CheckpointError):
                read_weights(str(path), "objects", LabelInfo(("a",), (1,)))
                raise AssertionError("read_weights accepted it")
        load_checkpoint(path)

    return attack


def plain_checkpoint(**state: Any) -> Attack:
    """Offer a checkpoint of plain types that is not what a run saves."""

    def attack(folder: Path, canary: str) -> None:
        torch.save({"format": FORMAT, **state}, folder / "best.pt")
        seal(folder / "best.pt")
        open_checkpoint(folder / "best.pt")

    return attack


def torchscript(folder: Path, canary: str) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Identity()), folder / "best.pt")
    load_checkpoint(folder / "best.pt")


def refused_everywhere(path: Path) -> None:
    """Offer a file where weights are read, then where a run's checkpoint is."""
    with suppress(CheckpointError):
        read_weights(str(path), "objects", LabelInfo(("a",), (1,)))
        raise AssertionError("read_weights accepted it")
    open_checkpoint(path)


def message(field: int, content: bytes) -> bytes:
    """Return a field of a protobuf message that holds bytes or a message (wire type 2), below 16 KiB."""
    high, low = divmod(len(content), 128)
    length = bytes([low | 128, high]) if high else bytes([low])
    return bytes([field << 3 | 2]) + length + content


def onnx(location: str) -> Attack:
    """Offer an ONNX model with a tensor whose data are in another file (onnx.proto3, `external_data`)."""

    def attack(folder: Path, canary: str) -> None:
        where = message(1, b"location") + message(2, location.replace("CANARY", canary).encode())
        tensor = message(8, b"weight") + message(13, where) + bytes([14 << 3, 1])
        model = bytes([1 << 3, 8]) + message(7, message(5, tensor))
        for name in ("model.onnx", "best.pt", "shared.safetensors"):
            (folder / name).write_bytes(model)
            with suppress(CheckpointError):
                refused_everywhere(folder / name)
                raise AssertionError(f"{name} was accepted")
        refused_everywhere(folder / "model.onnx")

    return attack


def shared(header: bytes, data: bytes = bytes(64)) -> Attack:
    """Offer a safetensors file that is no network of ours."""

    def attack(folder: Path, canary: str) -> None:
        path = folder / "shared.safetensors"
        path.write_bytes(struct.pack("<Q", len(header)) + header + data)
        refused_everywhere(path)

    return attack


def shared_pickle(folder: Path, canary: str) -> None:
    """Offer a pickle by a name that says safetensors."""
    (folder / "shared.safetensors").write_bytes(pickle.dumps(payloads(canary)["eval"]))
    refused_everywhere(folder / "shared.safetensors")


def shared_config(folder: Path, canary: str) -> None:
    """Offer a network whose config asks for something else, its checksum right."""
    config = {"heads": {"a": {"type": f"!!python/object/apply:os.system ['touch {canary}']"}}}
    parts = {**dict.fromkeys(PARTS), "config": config, "labels": {}, "progress": {"step": 1}}
    write_shared(folder / "shared.safetensors", {}, parts)
    refused_everywhere(folder / "shared.safetensors")


def metadata(**texts: str) -> bytes:
    return json.dumps({"__metadata__": texts}).encode()


# What must be refused by an error of the project.
WEIGHTS: dict[str, Attack] = {
    **{f"pickle {name} in a zip": checkpoint(name, "zip") for name in payloads("")},
    **{f"pickle os.system in {kind}": checkpoint("os.system", kind) for kind in list(CONTAINERS)[1:]},
    **{f"pickle eval in {kind}": checkpoint("eval", kind) for kind in list(CONTAINERS)[1:]},
    "TorchScript": torchscript,
    "checkpoint of nothing": plain_checkpoint(),
    "checkpoint of lists": plain_checkpoint(config=[], labels=[], average=[], progress=[]),
    "checkpoint with a wrong config": plain_checkpoint(
        config={"heads": {"a": {"type": "os.system"}}}, labels={}, average={}, progress={"step": 1}
    ),
    "ONNX data upwards": onnx("../guarded/secret"),
    "ONNX data absolute": onnx("/etc/passwd"),
    "ONNX data to be made": onnx("CANARY"),
    "shared file of others": shared(metadata(format="pt")),
    "shared file with a long header": shared(b" " * (17 * 2**20)),
    "shared file with deep metadata": shared(b'{"__metadata__": ' + b"[" * 100_000),
    "shared file with a wrong checksum": shared(
        metadata(**{"format": FORMAT_SHARED, **dict.fromkeys(PARTS, "{}"), "sha256": "0"})
    ),
    "shared file of a pickle": shared_pickle,
    "shared file with another config": shared_config,
}
