"""Where a report's numbers come from: command, versions, data fingerprints, checkpoint hash, config."""

from __future__ import annotations

import importlib.metadata
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from vision_mtl.data.dataset import Source
from vision_mtl.files import file_sha256

PACKAGES = ("torch", "torchvision", "numpy", "opencv-python-headless", "pycocotools", "albumentations")


@dataclass(frozen=True)
class Provenance:
    """What is needed to make the numbers again.

    Attributes:
        command: as it was typed.
        checkpoint: the file; None where weights were evaluated as they are.
        sha256: of that file, in hexadecimal.
        time: when the report was made, UTC.
        machine: system and processor.
        versions: package -> version.
        fingerprints: (split, annotation file, SHA-256 of its content).
        config: the resolved config as YAML.
    """

    command: str
    checkpoint: str | None
    sha256: str | None
    time: str
    machine: str
    versions: dict[str, str]
    fingerprints: list[tuple[str, str, str]]
    config: str


def provenance(checkpoint: Path | None, config: str, splits: Mapping[str, Sequence[Source]]) -> Provenance:
    """Return this command's provenance.

    Args:
        checkpoint: the file whose weights were judged.
        config: YAML.
        splits: name -> sources that were read.
    """
    names = {"python": platform.python_version()}
    for package in ("vision-mtl", *PACKAGES):
        names[package] = _version(package)
    return Provenance(
        command=shlex.join(["python", *sys.argv]),
        checkpoint=None if checkpoint is None else str(checkpoint),
        sha256=None if checkpoint is None else file_sha256(checkpoint),
        time=datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        machine=f"{platform.system()} {platform.machine()}",
        versions=names,
        fingerprints=[
            (split, s.index.path, s.index.fingerprint) for split, own in splits.items() for s in own
        ],
        config=config,
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # a source tree that is not installed
        return "not installed"
