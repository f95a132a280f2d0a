"""Many images through `tools/infer.py`, killed and resumed: none is lost or doubled, and memory stays flat.

    python -m tests.stress.inference [--count 100000] [--kills 1] [--seed 0]

The images are hard links to a few. Every run is a process of its own, of which the resident memory is sampled
ten times a second from its first answers on. Flat: over the last three quarters of these samples the main
process grows by less than 32 MiB, the medians of the first and the last tenth of them compared.
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from tests.stress.tiny_model import write_checkpoint
from tests.stress.verdicts import Tally, command_parser
from tests.stress.workplace import ROOT, workplace

GROWTH = 32 * 2**20  # bytes
ORIGINALS = 8
IN_FOLDER = 10_000  # links in one folder
PAUSE = 0.1  # seconds between samples


@dataclass
class Watched:
    """A process that has ended: its exit code, and its resident memory while it ran, in bytes."""

    code: int
    memory: list[int] = field(default_factory=list)

    def growth(self) -> int:
        """Return by how much it grew after it had warmed up; 0 for a run too short, of 6 seconds, to tell."""
        settled = self.memory[len(self.memory) // 4 :]
        part = len(settled) // 10
        if len(self.memory) < 6 / PAUSE:
            return 0
        return round(statistics.median(settled[-part:]) - statistics.median(settled[:part]))


def write_links(folder: Path, count: int) -> None:
    """Write a few images of two shapes and `count` hard links to them, in folders inside `folder`."""
    originals = folder.with_name("originals")
    originals.mkdir()
    for number in range(ORIGINALS):
        pixels = np.random.default_rng(number).integers(0, 256, (*size_of(number), 3), np.uint8)
        assert cv2.imwrite(str(originals / f"{number}.jpg"), pixels)
    for number in range(count):
        link = folder / f"{number // IN_FOLDER:03d}" / f"{number:07d}.jpg"
        link.parent.mkdir(parents=True, exist_ok=True)
        os.link(originals / f"{number % ORIGINALS}.jpg", link)


def size_of(number: int) -> tuple[int, int]:
    """Return the (height, width) of an original: no two have the same."""
    return (48 + number, 64) if number % 2 else (64, 48 + number)


def watch(command: list[str], errors: Path, record: Path, kill_at: int | None) -> Watched:
    """Run a command; end it with SIGKILL as soon as its record has `kill_at` bytes."""
    with errors.open("ab") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True)
        seen, before = Watched(0), record.stat().st_size if record.exists() else 0
        while process.poll() is None:
            size = record.stat().st_size if record.exists() else 0
            if size > before:  # it has started to answer
                seen.memory.append(resident(process.pid))
            if kill_at is not None and size >= kill_at:
                os.killpg(process.pid, signal.SIGKILL)
                kill_at = None
            time.sleep(PAUSE)
    seen.code = process.returncode
    seen.memory = [size for size in seen.memory if size]
    return seen


def resident(pid: int) -> int:
    """Return a process's resident memory in bytes; 0 where it has ended, or Linux does not say."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0


def wrong_lines(record: Path, folder: Path, count: int) -> list[str]:
    """Return what is wrong with a record: files lost, doubled or unknown, or with the answers to others."""
    files: Counter[str] = Counter()
    wrong = []
    with record.open(encoding="utf-8") as lines:
        for line in lines:
            entry = json.loads(line)
            path = Path(entry["file"])
            files[path.relative_to(folder).as_posix()] += 1
            if (entry.get("height"), entry.get("width")) != size_of(int(path.stem) % ORIGINALS):
                wrong.append(f"{path}: another image's answers: {line[:200]}")
    expected = {f"{n // IN_FOLDER:03d}/{n:07d}.jpg" for n in range(count)}
    wrong += [f"{name} is lost" for name in sorted(expected - files.keys())]
    wrong += [f"{name} is there {number} times" for name, number in files.items() if number > 1]
    wrong += [f"{name} is no input" for name in files.keys() - expected]
    return wrong


def infer_and_resume(count: int, kills: int, seed: int, workers: int = 1, file: Path | None = None) -> int:
    """Answer `count` images, killed `kills` times; return the exit code of the command."""
    tally, draw = Tally(file), random.Random(seed)
    with workplace() as place:
        folder, output = place / "images", place / "answers"
        write_links(folder, count)
        checkpoint, record = write_checkpoint(place / "tiny.pt"), output / "predictions.jsonl"
        tool = [sys.executable, str(ROOT / "tools" / "infer.py"), str(folder), "--recursive"]
        command = [*tool, "--checkpoint", str(checkpoint), "--output", str(output), "--format", "jsonl"]
        command += ["--set", f"data.workers={workers}", "--set", "data.eval_batch_size=16", "--resume"]
        command += ["--set", "data.resize={shorter: 32, longer: 64}"]
        one_line = 100  # bytes at least, by which the moment of the kill is found
        growth, peak, torn = 0, 0, 0
        for run in range(kills + 1):
            share = (run + draw.uniform(0.4, 0.6)) / (kills + 1)
            kill_at = round(count * share) * one_line if run < kills else None
            seen = watch(command, place / "errors.txt", record, kill_at)
            if seen.code != (0 if kill_at is None else -signal.SIGKILL):
                said = (place / "errors.txt").read_text(errors="replace")[-1000:]
                tally.add("failed", f"run {run}: exit code {seen.code}: {said}")
                break
            growth = max(growth, seen.growth())
            peak = max([peak, *seen.memory])
            if kill_at is not None:  # a kill seldom finds a line half written
                with record.open("ab") as file:
                    file.write(b'{"file": "half a li')
                torn += 1
        else:
            tally.problems += wrong_lines(record, folder, count)
        if growth > GROWTH:
            tally.problems.append(f"memory grew by {growth / 2**20:.0f} MiB")
        summary = json.loads((output / "inference.json").read_text()).get("summary", {})
    rate = summary.get("images_per_second", 0.0)
    return tally.finish(
        f"{count} images, {kills} kills, {torn} torn lines: {len(tally.problems)} wrong; memory grew by "
        f"{growth / 2**20:.1f} MiB (peak {peak / 2**20:.0f} MiB); {rate:.0f} images/s after the last",
        images=count,
        kills=kills,
        growth_mib=round(growth / 2**20, 1),
        peak_mib=round(peak / 2**20),
        images_per_second=round(rate, 1),
    )


def main() -> int:
    parser = command_parser(__doc__ or "")
    parser.add_argument("--count", type=int, default=100_000, help="images (default: 100000)")
    parser.add_argument("--kills", type=int, default=1, help="how often (default: 1)")
    parser.add_argument("--workers", type=int, default=1, help="decoding processes (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills (default: 0)")
    given = parser.parse_args()
    return infer_and_resume(given.count, given.kills, given.seed, given.workers, given.json)


if __name__ == "__main__":
    sys.exit(main())
