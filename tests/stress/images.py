"""Malformed and odd image files: each is decoded to the right pixels, or skipped with a reason.

    python -m tests.stress.images [--count 300] [--seed 0]

The files are read three times: by the decoder, in a process whose memory is measured; as a training set with
`data.bad_images=skip`; and by `tools/infer.py`. Real odd files join them where there are some.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from tests.data.image_files import ODD_IMAGES, REFUSED
from tests.stress.image_decodings import DECODINGS
from tests.stress.image_files import Seen, Skipped, Verdict
from tests.stress.image_refusals import REFUSALS
from tests.stress.tiny_model import write_checkpoint
from tests.stress.verdicts import Tally, command_parser
from tests.stress.workplace import ROOT, workplace
from vision_mtl.data.config import DataConfig, ResizeConfig, SourceConfig
from vision_mtl.data.dataset import Dataset
from vision_mtl.data.loader import EvaluationBatches, Loader
from vision_mtl.data.sources import open_evaluation

MEMORY = 512 * 2**20  # bytes above what the libraries need
SECONDS = 600.0
KINDS = {**REFUSALS, **DECODINGS}
PLAIN = {".jpg", ".jpeg", ".png", ".webp"}


@dataclass(frozen=True)
class File:
    """An image file and what must come of it; `size` is (height, width) where known."""

    path: Path
    kind: str
    verdict: Verdict
    size: tuple[int, int]


def write_files(folder: Path, count: int, seed: int) -> list[File]:
    """Write `count` files into a new folder, each kind in turn."""
    folder.mkdir()
    files = []
    for number in range(count):
        kind = list(KINDS)[number % len(KINDS)]
        path = folder / f"{number:04d}.jpg"  # the name says nothing of the content
        verdict = KINDS[kind](path, np.random.default_rng([seed, number]))
        size = verdict.pixels.shape[:2] if isinstance(verdict, Seen) else (48, 64)
        files.append(File(path, kind, verdict, size))
    return files


def odd_files() -> list[File]:
    """Return the real odd files. Their pixels are those that OpenCV sees, where it reads plain 8 bits."""
    if not ODD_IMAGES.is_dir():
        return []
    with (ODD_IMAGES / "index.csv").open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if (ODD_IMAGES / row["path"]).exists()]
    files = []
    for row in rows:
        path = ODD_IMAGES / row["path"]
        if path.name in REFUSED:
            files.append(File(path, "odd", Skipped(REFUSED[path.name]), (1, 1)))
            continue
        width, height = int(row["w"]), int(row["h"])
        is_turned = row["orientation"] in ("5", "6", "7", "8") and row["fmt"] != "TIFF"
        size = (width, height) if is_turned else (height, width)
        plain = path.suffix in PLAIN and row["mode"] in ("L", "RGB")
        plain = plain and (path.suffix == ".jpg" or not is_turned)  # OpenCV turns no WebP
        pixels = cv2.imread(str(path))[..., ::-1] if plain else np.zeros((*size, 3), np.uint8)
        # JPEG decoders may differ by a few levels; without a second opinion only the shape is known.
        files.append(File(path, "odd", Seen(pixels, 3 if plain else 255), size))
    return files


def read_alone(files: list[File], folder: Path, tally: Tally) -> int:
    """Decode the files in a process of its own and compare the pixels; return by how much it grew."""
    folder.mkdir()
    names = json.dumps([str(file.path) for file in files])
    command = [sys.executable, "-m", "tests.stress.image_reader", str(folder)]
    done = subprocess.run(command, input=names, capture_output=True, text=True, cwd=ROOT, timeout=SECONDS)
    if done.returncode != 0:
        tally.add("crashes", f"the decoder: exit code {done.returncode}: {done.stderr[-2000:]}")
        return 0
    report = json.loads((folder / "report.json").read_text())
    for number, file in enumerate(files):
        reason = report["refused"].get(str(number))
        seen = None if reason is not None else np.load(folder / f"{number}.npy")
        tally.add("skipped" if seen is None else "decoded", wrong_with(file, seen, reason))
    if report["grown"] > MEMORY:
        tally.problems.append(f"memory grew by {report['grown'] / 2**20:.0f} MiB")
    return report["grown"]


def wrong_with(file: File, seen: np.ndarray | None, reason: str | None) -> str | None:
    """Return what is wrong with what the decoder made of a file."""
    place = f"{file.path.name} ({file.kind})"
    if isinstance(file.verdict, Skipped):
        if seen is not None:
            return f"{place}: decoded to {seen.shape}, not refused with '{file.verdict.reason}'"
        assert reason is not None
        return None if file.verdict.reason in reason else f"{place}: '{reason}', not '{file.verdict.reason}'"
    if seen is None:
        return f"{place}: refused: {reason}"
    if seen.shape != file.verdict.pixels.shape or seen.dtype != np.uint8:
        return f"{place}: {seen.shape} {seen.dtype} instead of {file.verdict.pixels.shape}"
    off = int(np.abs(seen.astype(int) - file.verdict.pixels).max())
    return f"{place}: pixels are off by up to {off}" if off > file.verdict.tolerance else None


def load_as_data_set(files: list[File], folder: Path, tally: Tally) -> None:
    """Load the files as a data set that skips bad ones: exactly the good ones arrive.

    Every fifth good file is annotated with a wrong size, and must be left out.
    """
    good = [number for number, file in enumerate(files) if isinstance(file.verdict, Seen)]
    mislabelled = set(good[::5])
    images = [
        {
            "id": number,
            "file_name": file.path.name,
            "height": file.size[0] + (number in mislabelled),
            "width": file.size[1],
        }
        for number, file in enumerate(files)
    ]
    annotations = folder / "files.json"
    category = {"id": 1, "name": "thing"}
    annotations.write_text(json.dumps({"images": images, "annotations": [], "categories": [category]}))
    resize = ResizeConfig(shorter=32, longer=64)
    split = SourceConfig(images=str(files[0].path.parent), annotations=str(annotations))
    data = DataConfig(val=[split], resize=resize, bad_images="skip", follow_links=True)
    source = open_evaluation(data, "val", {"objects": None}, {}, None)
    dataset = Dataset([source], resize)
    loader = Loader(dataset, EvaluationBatches(dataset.sizes(), resize, 4), 0, 1, skip_bad=True)
    arrived = sorted(meta.image_id for batch in loader for meta in batch.metas)
    expected = [number for number in good if number not in mislabelled]
    if arrived != expected:
        wrong = [f"{files[n].path.name} ({files[n].kind})" for n in set(arrived) ^ set(expected)]
        tally.problems.append(f"the loader: {len(wrong)} files left out or let in wrongly: {wrong[:10]}")
    tally.counts["loaded"] = len(arrived)


def infer(files: list[File], folder: Path, tally: Tally) -> None:
    """Answer the folder of the files with `tools/infer.py`: all good ones, and a list of the others."""
    checkpoint = write_checkpoint(folder / "tiny.pt")
    output = folder / "answers"
    script = str(ROOT / "tools" / "infer.py")
    where = [str(files[0].path.parent), "--checkpoint", str(checkpoint), "--output", str(output), "--draw"]
    done = subprocess.run(
        [sys.executable, script, *where], capture_output=True, text=True, timeout=SECONDS, cwd=folder
    )
    if done.returncode != 3 or "Traceback" in done.stderr:
        tally.add("crashes", f"tools/infer.py: exit code {done.returncode}: {done.stderr[-2000:]}")
        return
    answers = json.loads((output / "predictions.json").read_text())
    sizes = {Path(entry["file"]).name: (entry["height"], entry["width"]) for entry in answers["images"]}
    expected = {file.path.name: file.size for file in files if isinstance(file.verdict, Seen)}
    if sizes != expected:
        tally.problems.append(f"tools/infer.py: {sorted(set(sizes.items()) ^ set(expected.items()))[:6]}")
    # A folder, a pipe and a link to nothing are no files: they are counted as ignored, or not at all.
    regular = {file.path.name for file in files if file.path.is_file()}
    skipped = {Path(entry["file"]).name for entry in answers["skipped"]}
    if skipped != regular - expected.keys() or not all(entry["reason"] for entry in answers["skipped"]):
        tally.problems.append(f"tools/infer.py skips {sorted(skipped ^ (regular - expected.keys()))[:6]}")
    tally.counts["answered"] = len(sizes)


def digests(files: list[File]) -> dict[str, str]:
    """Return the SHA-256 of all regular files, and the times of change of all."""
    found = {}
    for file in files:
        status = os.lstat(file.path)
        found[str(file.path)] = f"{status.st_mtime_ns} {status.st_size}"
        if stat.S_ISREG(status.st_mode):
            with file.path.open("rb") as stream:
                found[str(file.path)] += hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def read_images(count: int, seed: int, file: Path | None = None) -> int:
    """Write `count` files and read them in all ways; return the exit code."""
    tally = Tally(file)
    with workplace() as folder:
        made, odd = write_files(folder / "images", count, seed), odd_files()
        before = digests(made + odd)
        grown = read_alone(made + odd, folder / "pixels", tally)
        tally.progress(1, 3)
        load_as_data_set(made, folder, tally)
        tally.progress(2, 3)
        infer(made, folder, tally)
        if digests(made + odd) != before:
            tally.problems.append("source files were changed")
    expected = sum(isinstance(file.verdict, Skipped) for file in made + odd)
    if tally.counts["skipped"] != expected:
        tally.problems.append(f"{tally.counts['skipped']} files skipped, {expected} expected")
    counts = tally.counts
    return tally.finish(
        f"{count} files of {min(count, len(KINDS))} kinds and {len(odd)} odd ones: "
        f"{counts['decoded']} decoded, "
        f"{counts['skipped']} skipped (expected {expected}), {counts['loaded']} loaded, "
        f"{counts['answered']} answered, {counts['crashes']} crashes, {len(tally.problems)} wrong; "
        f"memory grew by {grown / 2**20:.0f} MiB",
        grown_mib=round(grown / 2**20),
    )


def main() -> int:
    parser = command_parser(__doc__ or "")
    parser.add_argument("--count", type=int, default=300, help="files to write (default: 300)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    return read_images(arguments.count, arguments.seed, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
