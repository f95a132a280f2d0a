"""Reads image files in a process of its own, whose memory is measured: `python -m tests.stress.image_reader`.

Reads a JSON list of files from standard input; writes the pixels as `<number>.npy` into the folder that is
its argument, and there `report.json`: the reasons of those that were refused, by number, and by how many
bytes the process grew.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from tests.stress.verdicts import peak_memory
from vision_mtl.data.images import BadImageError, read_image


def main(output: Path) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(output / "good.png")
    read_image(output / "good.png")  # what the libraries load on first use
    cv2.setNumThreads(1)
    before = peak_memory()
    refused: dict[int, str] = {}
    for number, path in enumerate(json.load(sys.stdin)):
        try:
            np.save(output / f"{number}.npy", read_image(path))
        except BadImageError as error:
            refused[number] = error.reason
    report = {"refused": refused, "grown": peak_memory() - before}
    (output / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
