"""Nothing contacts the network: not the import, not training, evaluation or inference."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CODE = """
import socket, sys

def refuse(*arguments, **options):
    raise AssertionError(f"the network was used: {arguments[1:]}")

for name in ("connect", "connect_ex", "sendto", "bind"):
    setattr(socket.socket, name, refuse)
for name in ("create_connection", "getaddrinfo", "gethostbyname"):
    setattr(socket, name, refuse)

import importlib, pathlib
folder = pathlib.Path(sys.argv[1])
for path in sorted(pathlib.Path("vision_mtl").rglob("*.py")):
    importlib.import_module(".".join(path.with_suffix("").parts).removesuffix(".__init__"))

from tests.commands.helpers import write_config
from tests.conftest import write_tiny_coco
from vision_mtl.commands.evaluate import evaluate_checkpoint
from vision_mtl.commands.export import export_safetensors
from vision_mtl.commands.infer import infer_with_checkpoint
from vision_mtl.commands.train import train_from_config

data = write_tiny_coco(folder / "tiny")
run = folder / "run"
train_from_config(write_config(folder, data.root), ["training.max_steps=1", "data.workers=0"], run)
best = str(run / "checkpoints" / "best.pt")
evaluate_checkpoint(best, [], "val", folder / "evaluation")
export_safetensors(best, folder / "shared.safetensors")
assert infer_with_checkpoint([str(data.images)], best, folder / "answers", 0.3, True, False) == 0
try:
    socket.create_connection(("localhost", 80))
except AssertionError:
    print("no network, and none was missed")
"""


def test_no_network(tmp_path: Path) -> None:
    """In a fresh interpreter, where all imports still happen."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, timeout=540
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "no network, and none was missed"
