"""SIGKILL at any moment: a run that is killed and resumed ends as if nothing had been, to the last bit.

python -m tests.stress.kill [--count 50] [--seed 0]

A third of the kills come while a checkpoint is being written: in the middle of its bytes, before it is on the
disk, between the renamings that make room for it. The others come after a random time. A run may be killed
up to three times; the number of loader processes (0, 2 or 4) changes each time. A kill counts as survived
where the run that it hit ends with the same bits as one that nobody disturbed.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a process that has started threads cannot fork

from tests.conftest import write_tiny_coco
from tests.stress.verdicts import Tally, command_parser
from tests.stress.workplace import workplace
from tests.training.narrow import narrow_trunk
from tests.training.outcomes import outcome
from tests.training.test_resume import config_of
from vision_mtl import files
from vision_mtl.commands.train import train_from_config
from vision_mtl.training.run import differences

FORK = multiprocessing.get_context("fork")  # what takes long, the imports, is done once
WORKERS = (0, 2, 4)
LONGEST = 120.0  # seconds of a run
WRITES = ("synchronise", "replace", "torn")


def train(config: str, run: Path, workers: int, resume: bool, death: Callable[[], None] | None) -> None:
    """Train in a process of its own, which may die by itself."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    warnings.filterwarnings("ignore", message="This DataLoader will create 4 worker processes")
    if death is not None:
        death()
    with narrow_trunk():
        train_from_config(config, [f"data.workers={workers}"], run, resume)


def die_writing(kind: str, call: int) -> Callable[[], None]:
    """Return what lets a process die at the `call`-th time that a checkpoint's writing comes to a place."""

    def prepare() -> None:
        calls = 0
        place: Any = Path if kind == "replace" else files
        name = "replace" if kind == "replace" else "synchronise"
        original = getattr(place, name)

        def dying(path: Path, *arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == call:
                if kind == "torn" and path.is_file():
                    os.truncate(path, path.stat().st_size // 2)
                os.kill(os.getpid(), signal.SIGKILL)
            return original(path, *arguments)

        setattr(place, name, dying)

    return prepare


def run_once(
    config: str, run: Path, workers: int, resume: bool, death: Callable[[], None] | None, after: float | None
) -> int:
    """Train until the end or death, at the latest `after` seconds; return the process's exit code."""
    process = FORK.Process(target=train, args=(config, run, workers, resume, death))
    process.start()
    process.join(LONGEST if after is None else after)
    if process.is_alive():
        process.kill()
        process.join()
    assert process.exitcode is not None
    return process.exitcode


def kill_and_resume(count: int, seed: int, file: Path | None = None) -> int:
    """Kill runs `count` times in all; return the exit code of the command."""
    draw, tally = random.Random(seed), Tally(file)
    kills = dict.fromkeys(("at a random moment", *(f"while writing: {kind}" for kind in WRITES)), 0)
    with workplace() as place:
        config = config_of(place, write_tiny_coco(place / "tiny").root)
        started = time.perf_counter()
        assert run_once(config, place / "whole", 0, False, None, None) == 0
        length = time.perf_counter() - started
        expected = outcome(place / "whole")
        runs, survived = 0, 0
        while (done := sum(kills.values())) < count:
            tally.progress(done, count)
            run, runs = place / f"run{runs}", runs + 1
            for _ in range(min(draw.randint(1, 3), count - done)):
                writing = sum(kills.values()) % 3 == 0
                kind = f"while writing: {draw.choice(WRITES)}" if writing else "at a random moment"
                death = die_writing(kind.rpartition(" ")[2], draw.randint(1, 12)) if writing else None
                after = None if writing else draw.uniform(0.02, length)
                resume = (run / "config.yaml").exists()
                code = run_once(config, run, draw.choice(WORKERS), resume, death, after)
                if code == -signal.SIGKILL:
                    kills[kind] += 1
                elif code:
                    tally.add("failed", f"{run.name}: exit code {code} where it was to die {kind}")
            resume = (run / "config.yaml").exists()
            code = run_once(config, run, draw.choice(WORKERS), resume, None, None)
            wrong = differences(expected, outcome(run)) if code == 0 else [f"exit code {code}"]
            survived += 0 if wrong else sum(kills.values()) - done
            problem = f"{run.name}: {'; '.join(wrong)[:1000]}" if wrong else None
            tally.add("different" if wrong else "same", problem)
        kinds = ", ".join(f"{number} {kind}" for kind, number in kills.items())
        return tally.finish(
            f"{count} kills ({kinds}) of {runs} runs: after {survived} of {count} kills, resumed and "
            "bit-identical at the end",
            kills=kills,
            survived=survived,
            runs=runs,
        )


def main() -> int:
    parser = command_parser(__doc__ or "")
    parser.add_argument("--count", type=int, default=50, help="kills (default: 50)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    return kill_and_resume(arguments.count, arguments.seed, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
