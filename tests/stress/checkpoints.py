"""Damaged checkpoints: every truncation and every flipped bit is found, and the checkpoint before is taken.

python -m tests.stress.checkpoints [--count 1000] [--seed 0]
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import torch

from tests.stress.verdicts import Tally, command_parser
from tests.stress.workplace import workplace
from vision_mtl.errors import CheckpointError
from vision_mtl.training.checkpoint import newest_intact, save_checkpoint


def damage(content: bytes, draw: random.Random) -> tuple[str, bytes]:
    """Return what was done to a file's content, and the content after it."""
    at = draw.randrange(len(content))
    if draw.random() < 0.5:
        return f"cut to {at} bytes", content[:at]
    bit = draw.randrange(8)
    return f"bit {bit} of byte {at} flipped", content[:at] + bytes([content[at] ^ 1 << bit]) + content[
        at + 1 :
    ]


def judge(path: Path, content: bytes) -> str | None:
    """Return what is wrong with how a run's checkpoints are read when the newest one has this content."""
    path.write_bytes(content)
    try:
        state, found, wrong = newest_intact(path)
    except CheckpointError as error:
        return f"none was taken: {error}"
    if found == path:
        return "not found"
    if state["step"] != 1 or len(wrong) != 1 or str(path) not in wrong[0]:
        return f"step {state['step']} was taken, and {wrong} reported"
    return None


def read_damaged(count: int, seed: int, file: Path | None = None) -> int:
    """Damage a checkpoint `count` times; return the exit code of the command."""
    draw, tally = random.Random(seed), Tally(file)
    with workplace() as place:
        path = place / "last.pt"
        weights = {f"layer{i}.weight": torch.randn(64, 64) for i in range(20)}
        for step in (1, 2):
            save_checkpoint({"step": step, "model": weights, "config": {"lr": 0.1}}, path, keep=2)
        content = path.read_bytes()
        for number in range(count):
            tally.progress(number, count)
            what, damaged = damage(content, draw)
            problem = judge(path, damaged)
            tally.add(what.split()[0], problem and f"{what}: {problem}")
        kinds = f"{tally.counts['cut']} cut, {tally.counts['bit']} with a flipped bit"
        found = count - len(tally.problems)
        return tally.finish(
            f"{count} damaged checkpoints ({kinds}): {found} found and the one before taken", found=found
        )


def main() -> int:
    parser = command_parser(__doc__ or "")
    parser.add_argument("--count", type=int, default=1000, help="default: 1000")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    return read_damaged(arguments.count, arguments.seed, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
