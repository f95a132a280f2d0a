"""What a stress command expects of a damaged file, and the count of what happened."""

from __future__ import annotations

import argparse
import faulthandler
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from vision_mtl.progress import duration

PAUSE = 10.0  # seconds between two lines of progress


@dataclass(frozen=True)
class Refused:
    """One error. Its message holds the file's name and all of `says`: the place, the ids and the cure."""

    says: tuple[str, ...]


@dataclass(frozen=True)
class Accepted:
    """The file is read as `document`, an annotation file's tree, says.

    Attributes:
        document: what there is to read.
        found: reason -> how many entries were corrected or dropped for it, beyond those of the file before
            it was changed; counted by hand by whoever changed it. None where that is left to the reading
            that the result is compared with.
        training: what training on the file is refused with, e.g. for want of images; None if it trains.
    """

    document: dict[str, Any]
    found: dict[str, int] | None = field(default_factory=dict)
    training: str | None = None


class Hang(BaseException):
    """Something took longer than it may; no `Exception`, so that no handler takes it for a damaged file."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise `Hang` where the block takes longer; end the process where it does not come back even then."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(
        6 * seconds, exit=True, file=2
    )  # signals wait until native code returns
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass
class Tally:
    """Counts by outcome, and what went wrong.

    Attributes:
        file: where `finish` also writes the figures, as JSON.
        counts: outcome -> how often.
        problems: what is wrong, in words.
        started: when, in seconds of the clock that `time.perf_counter` reads.
        shown: when `progress` last said something.
    """

    file: Path | None = None
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)
    shown: float = field(default_factory=time.perf_counter)

    def add(self, outcome: str, problem: str | None = None) -> None:
        """Count an outcome; `problem` says what is wrong with it."""
        self.counts[outcome] += 1
        if problem is not None:
            self.problems.append(problem)

    def progress(self, done: int, total: int) -> None:
        """Say on stderr how far the work is and how long the rest may take, every ten seconds at most."""
        now = time.perf_counter()
        if done and now - self.shown >= PAUSE:
            self.shown = now
            left = duration((now - self.started) * (total - done) / done)
            wrong = f", {len(self.problems)} wrong" if self.problems else ""
            print(f"{done} of {total}{wrong}, about {left} left", file=sys.stderr, flush=True)

    def finish(self, summary: str, shown: int = 20, **figures: Any) -> int:
        """Print the problems and the summary; return the exit code, 1 where anything was wrong.

        Args:
            summary: the last line.
            shown: how many problems to print.
            figures: what the file holds beside the summary and the counts.
        """
        seconds = time.perf_counter() - self.started
        if self.file is not None:
            found = {"summary": summary, "seconds": round(seconds, 1), "counts": dict(self.counts), **figures}
            found["problems"] = self.problems
            self.file.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        for problem in self.problems[:shown]:
            print(f"WRONG {problem}", file=sys.stderr)
        if len(self.problems) > shown:
            print(f"... and {len(self.problems) - shown} more", file=sys.stderr)
        print(f"{summary} ({seconds:.0f} s)")
        return 1 if self.problems else 0


def command_parser(text: str) -> argparse.ArgumentParser:
    """Return the parser of a stress command: `text` is its help, and `--json FILE` takes its figures."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    return parser


def peak_memory() -> int:
    """Return the largest resident memory that this process has had, in bytes; 0 where Linux does not say."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
    return int(lines["VmHWM"].split()[0]) * 1024
