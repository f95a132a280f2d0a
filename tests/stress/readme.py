"""Run the commands of README.md, in order, in one folder, on tiny stand-ins of the data that they name.

    python -m tests.stress.readme

What installs, checks the code, or needs weights from the network is not run, and named at the end.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import cv2

from tests.conftest import write_tiny_coco
from tests.readme import PAGES, blocks, commands, is_tool
from tests.stress.workplace import ROOT, workplace
from vision_mtl.data.images import read_image
from vision_mtl.inference.video import VideoFile

SHORT = ["training.max_steps=1", "training.precision=fp32", "data.workers=0"]
SMALL = ["trunk={name: resnet18, norm: batch, channels: 32}", "data.resize={shorter: 64, longer: 96}"]
SECONDS = 600  # for one command


def write_stand_ins(folder: Path) -> None:
    """Write what README.md speaks of: tools, configs, `data/parts`, `parts.yaml`, images and a video."""
    for name in ("tools", "configs"):
        (folder / name).symlink_to(ROOT / name)
    parts = write_tiny_coco(folder / "data" / "parts")
    annotations = parts.root / "annotations"
    annotations.mkdir()
    for split in ("train", "val"):
        shutil.copy(parts.annotations, annotations / f"{split}.json")
    parts.annotations.unlink()
    rows = [
        f"{path.name},{'ok' if i % 2 else 'worn'},{i / 4}"
        for i, path in enumerate(sorted(parts.images.iterdir()))
    ]
    (parts.root / "labels.csv").write_text("\n".join(["file_name,verdict,wear", *rows]) + "\n")
    for name in ("new_images", "val"):
        shutil.copytree(parts.images, folder / name)
    shutil.copy(annotations / "val.json", folder / "val.json")
    (folder / "best.pt").symlink_to("runs/parts-1/checkpoints/best.pt")  # which is trained first
    with VideoFile(folder / "clip.mp4", rate=10) as video:
        for path in sorted(parts.images.iterdir()):
            video.add(cv2.resize(read_image(str(path)), (96, 64)))
    (folder / "parts.yaml").write_text(blocks(PAGES[0], "yaml")[0].text)


def shortened(words: list[str]) -> list[str] | None:
    """Return a tool's command with small sizes; None for what is not run here."""
    if not is_tool(words) or any("torchvision_" in word for word in words):
        return None
    more = SHORT if words[1] == "tools/train.py" else []
    if "--data" in words or "parts.yaml" in words:
        more = [*more, *SMALL]
    return [sys.executable, *words[1:], *more]


def main() -> int:
    left_out, wrong, ran = [], 0, 0
    with workplace() as folder:
        write_stand_ins(folder)
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        for block in blocks(PAGES[0], "bash"):
            for words in commands(block.text):
                command = shortened(words)
                if command is None:
                    left_out.append(shlex.join(words))
                    continue
                start = time.monotonic()
                done = subprocess.run(
                    command,
                    cwd=folder,
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=SECONDS,
                    check=False,
                )
                ran += 1
                wrong += done.returncode != 0
                verdict = (
                    "ok" if done.returncode == 0 else f"WRONG, exit code {done.returncode}\n{done.stderr}"
                )
                print(
                    f"{block.place} ({time.monotonic() - start:.0f} s) {shlex.join(words)}: {verdict}",
                    flush=True,
                )
    for text in left_out:
        print(f"not run: {text}")
    print(f"{ran} commands, {wrong} wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
