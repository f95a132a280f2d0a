"""Malicious files: nothing in them is run, nothing outside is read or written, and each is one clear error.

python -m tests.stress.malicious
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from tests.stress.malicious_files import HARMLESS, REFUSALS, Attack
from tests.stress.verdicts import Hang, Tally, at_most, command_parser, peak_memory
from tests.stress.workplace import workplace
from vision_mtl.errors import VisionMTLError

SECONDS = 60.0
MEMORY = 512 * 2**20
LONGEST = 2000  # characters of an error


def judge(name: str, attack: Attack, place: Path) -> tuple[str, str | None]:
    """Carry out an attack in an empty folder below `place`; return what came of it and what is wrong."""
    folder, guarded = place / "attack", place / "guarded"
    folder.mkdir()
    guarded.mkdir()
    (guarded / "secret").write_text("root:guarded")
    before = _state(place)
    outcome, problem = "read", None
    try:
        with at_most(SECONDS):
            attack(folder, str(guarded / "canary"))
        if name in REFUSALS:
            problem = "should be refused"
    except VisionMTLError as error:
        outcome = "refused"
        text = str(error)
        if name in HARMLESS:
            problem = f"should be read: {text[:300]}"
        elif len(text) > LONGEST or "root:" in text:
            problem = f"an error of {len(text)} characters: {text[:300]}"
    except Hang:
        problem = f"not finished after {SECONDS:g} s"
    except Exception as error:
        problem = f"uncaught {type(error).__name__}: {str(error)[:300]}"
    after = _state(place)
    if after != before:
        problem = f"changed {sorted(set(after.items()) ^ set(before.items()))[:5]}"
    return outcome, problem and f"{name}: {problem}"


def _state(place: Path) -> dict[str, str]:
    """Return the files of a folder and their contents, those of the attack's own folder and the cache left
    out."""
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(place.rglob("*"))
        if path.relative_to(place).parts[0] not in ("attack", "cache")
    }


def attack_all(file: Path | None = None) -> int:
    """Carry out all attacks; return the exit code."""
    tally, attacks = Tally(file), {**REFUSALS, **HARMLESS}
    start = peak_memory()
    for number, (name, attack) in enumerate(attacks.items()):
        tally.progress(number, len(attacks))
        with workplace() as place:
            tally.add(*judge(name, attack, place))
    grown = peak_memory() - start
    if grown > MEMORY:
        tally.problems.append(f"memory grew by {grown / 2**20:.0f} MiB")
    counts = tally.counts
    return tally.finish(
        f"{len(attacks)} malicious files: {counts['refused']} refused, {counts['read']} "
        f"read without effect, {len(tally.problems)} wrong; memory grew by {grown / 2**20:.0f} MiB",
        grown_mib=round(grown / 2**20),
    )


def main() -> int:
    return attack_all(command_parser(__doc__ or "").parse_args().json)


if __name__ == "__main__":
    sys.exit(main())
