"""SIGTERM or Ctrl-C in every phase of a run: it ends in time, no process is left, and its last step is saved.

python -m tests.stress.terminate [--times 5] [--signal TERM]

The signal reaches the run and its loader processes, as that of a scheduler or a terminal does. The exit code
must be 128 and its number, and the run, resumed, must end with the bits of one that nobody disturbed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.conftest import write_tiny_coco
from tests.stress.kill import FORK, WORKERS, run_once
from tests.stress.verdicts import Tally, command_parser
from tests.stress.workplace import workplace
from tests.training.narrow import narrow_trunk
from tests.training.outcomes import outcome
from tests.training.test_resume import config_of
from vision_mtl.commands import train as command
from vision_mtl.data.loader import Loader
from vision_mtl.errors import run_command
from vision_mtl.structures import Batch
from vision_mtl.training import checkpoint, engine
from vision_mtl.training.checkpoint import load_checkpoint
from vision_mtl.training.run import LAST, Run

LONGEST = 25.0  # seconds from the signal to the end
RUN = 300.0  # that a run may take in all
PHASES: dict[str, tuple[Any, str]] = {  # -> the function in which the signal comes
    "opening the data": (command, "open_data"),
    "building the network": (command, "build_model"),
    "reading a batch": (Loader, "__iter__"),
    "taking a step": (engine, "optimizer_step"),
    "writing a checkpoint": (checkpoint, "whole"),
    "evaluating": (engine, "evaluate"),
    "keeping the best": (Run, "save_best"),
    "reporting": (engine, "report_conflict"),
}


def train(config: str, run: Path, workers: int, phase: str, call: int, number: int) -> None:
    """Train in a session of its own, to all of whose processes a signal comes in a phase."""
    os.setsid()
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts with `&` ignores it
    engine.optimizer_step = counting(engine.optimizer_step, steps_file(run))
    place, name = PHASES[phase]
    setattr(place, name, signalling(getattr(place, name), call, number, time_file(run)))
    with narrow_trunk():
        run_command(lambda: command.train_from_config(config, [f"data.workers={workers}"], run) and None)


def steps_file(run: Path) -> Path:
    """Return the file in which a run leaves a byte for every step that it takes."""
    return run.with_name(f"steps of {run.name}")


def time_file(run: Path) -> Path:
    """Return the file that says when a run was sent a signal, by the clock that all processes share."""
    return run.with_name(f"time of {run.name}")


def counting(function: Callable[..., Any], file: Path) -> Callable[..., Any]:
    """Return a function that leaves a byte in a file whenever it has done its work."""

    def counted(*arguments: Any, **named: Any) -> Any:
        result = function(*arguments, **named)
        with file.open("ab") as bytes_:
            bytes_.write(b".")
        return result

    return counted


def steps_lost(run: Path) -> int:
    """Return how many of the steps that a run took are not in its last checkpoint."""
    file, last = steps_file(run), run / LAST
    taken = file.stat().st_size if file.exists() else 0
    return taken - (load_checkpoint(last)["progress"]["step"] if last.exists() else 0)


def signalling(function: Callable[..., Any], call: int, number: int, file: Path) -> Callable[..., Any]:
    """Return a function in whose `call`-th call its process group is sent a signal; `file` says when.

    Another process sends it, as a scheduler does: a SIGTERM of the run itself ends its loader processes.
    """
    calls = 0

    def due() -> None:
        nonlocal calls
        calls += 1
        if calls == call:
            file.write_text(str(time.monotonic()))
            kill = ["kill", "-s", str(number), "--", f"-{os.getpgid(0)}"]
            subprocess.run(kill, check=True, start_new_session=True)

    if function is Loader.__iter__:

        def batches(self: Loader) -> Iterator[Batch]:
            for batch in function(self):
                due()
                yield batch

        return batches

    def sending(*arguments: Any, **named: Any) -> Any:
        due()
        return function(*arguments, **named)

    return sending


def session_of(leader: int) -> list[int]:
    """Return the processes of a session that are still there; Linux alone says so."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue  # it has ended meanwhile
        if int(session) == leader and state != "Z":
            found.append(int(stat.parent.name))
    return found


def terminate(times: int, number: int, file: Path | None = None) -> int:
    """Send each phase a signal `times` times; return the exit code of the command."""
    tally, lost, slowest, count = Tally(file), 0, 0.0, times * len(PHASES)
    with workplace() as place:
        config = config_of(place, write_tiny_coco(place / "tiny").root)
        assert run_once(config, place / "whole", 0, False, None, None) == 0
        expected = outcome(place / "whole")
        for i, phase in enumerate(phase for phase in PHASES for _ in range(times)):
            tally.progress(i, count)
            run, workers = place / f"run{i}", WORKERS[i % len(WORKERS)]
            once = phase in ("opening the data", "building the network", "reporting")
            call = 1 if once else 1 + i % times % 2
            process = FORK.Process(target=train, args=(config, run, workers, phase, call, number))
            process.start()
            process.join(RUN)
            ended, sent = time.monotonic(), time_file(run)
            seconds = ended - float(sent.read_text()) if sent.exists() else 0.0
            slowest, problem = max(slowest, seconds), None
            alive = process.is_alive()
            if alive:
                process.kill()
            if not sent.exists():
                problem = "it was never sent a signal"
            elif alive or seconds > LONGEST:
                problem = f"not ended after {LONGEST:g} s"
            elif process.exitcode != 128 + number:
                problem = f"exit code {process.exitcode}"
            elif left := session_of(process.pid or 0):
                problem = f"{len(left)} processes are left"
            elif (steps := steps_lost(run)) > 1:
                problem = f"{steps} steps are lost"
            else:
                lost = max(lost, steps)
                resume = (run / "config.yaml").exists()
                if run_once(config, run, workers, resume, None, None) or outcome(run) != expected:
                    problem = "does not end as a run that nobody disturbed"
            tally.add("good" if problem is None else "bad", problem and f"{phase}, call {call}: {problem}")
        good = f"{tally.counts['good']} ended in time, clean, and resumed bit-identical"
        return tally.finish(
            f"{count} times {signal.Signals(number).name} in {len(PHASES)} phases: {good}; at most {lost} "
            f"steps lost; the end took {slowest:.1f} s at most",
            steps_lost=lost,
            slowest_seconds=round(slowest, 1),
        )


def main() -> int:
    parser = command_parser(__doc__ or "")
    parser.add_argument("--times", type=int, default=5, help="signals in each phase (default: 5)")
    parser.add_argument("--signal", choices=["TERM", "INT"], default="TERM", help="default: TERM")
    arguments = parser.parse_args()
    return terminate(arguments.times, signal.Signals[f"SIG{arguments.signal}"], arguments.json)


if __name__ == "__main__":
    sys.exit(main())
