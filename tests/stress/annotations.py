"""Mutants of a real annotation file: each is read exactly as it should be, or refused with one helpful error.

    python -m tests.stress.annotations [--count 2000] [--seed 0]
    python -m tests.stress.annotations --train     # one of each operator through tools/train.py

Every mutant is made by one named operator, which also says what must come of it. What is read is compared
with a slow reading of the same tree, array by array, and the counts of what was put right with those that
the operator knows.
"""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tests.stress.annotation_corrections import CORRECTIONS
from tests.stress.annotation_files import Document, Original, original
from tests.stress.annotation_reference import differences, expect
from tests.stress.annotation_refusals import REFUSALS
from tests.stress.annotation_splits import SPLITS
from tests.stress.annotation_text import TEXTS
from tests.stress.verdicts import Accepted, Hang, Refused, Tally, at_most, command_parser, peak_memory
from tests.stress.workplace import ROOT, workplace
from vision_mtl.data.annotations import AnnotationIndex, read_annotations
from vision_mtl.data.config import DataConfig, SourceConfig
from vision_mtl.data.sources import open_evaluation
from vision_mtl.errors import DataError

SECONDS = 10.0  # that a mutant may take; a good one takes a hundredth of a second
MEMORY = 512 * 2**20  # bytes that all of them may need beyond what one good file needs

Verdict = Accepted | Refused
Mutate = Callable[[Document, np.random.Generator], tuple[bytes, Verdict]]


def in_text(change: Callable[[Document, np.random.Generator], Verdict]) -> Mutate:
    """Return a mutation of the tree as one of the text."""

    def mutate(document: Document, rng: np.random.Generator) -> tuple[bytes, Verdict]:
        verdict = change(document, rng)
        return json.dumps(document, indent=int(rng.integers(3)) or None).encode(), verdict

    return mutate


OPERATORS: dict[str, Mutate] = {
    **{name: in_text(change) for name, change in {**REFUSALS, **CORRECTIONS, **SPLITS}.items()},
    **TEXTS,
}


def mutant(name: str, source: Original, seed: int, number: int) -> tuple[bytes, Verdict]:
    """Return the text of a mutant and what must come of it; a pure function of its arguments."""
    rng = np.random.default_rng([seed, number, zlib.crc32(name.encode())])
    return OPERATORS[name](source.document(), rng)


def missing_words(message: str, path: Path, verdict: Refused) -> list[str]:
    """Return what an error should say and does not."""
    return [words for words in (path.name, *verdict.says) if words not in message]


def judge(
    name: str, content: bytes, verdict: Verdict, source: Original, folder: Path
) -> tuple[str, str | None]:
    """Read a mutant; return "accepted", "refused" or "uncaught", and what is wrong with that."""
    path = folder / "mutant.json"
    path.write_bytes(content)
    try:
        if name in SPLITS:
            index, wrong = read_beside(source, path)
        else:
            index, wrong = read_annotations(path, None), []
    except DataError as error:
        if isinstance(verdict, Accepted):
            return "refused", f"{name}: should be accepted: {error}"
        missing = missing_words(str(error), path, verdict)
        return "refused", f"{name}: the error does not say {missing}: {str(error)[:500]}" if missing else None
    except Exception as error:
        return "uncaught", f"{name}: {type(error).__name__}: {error}"
    if isinstance(verdict, Refused):
        return "accepted", f"{name}: should be refused, naming {verdict.says}"
    expected = expect(verdict.document)
    wrong += differences(index, expected)
    if verdict.found is not None:
        counts = expect(source.document()).found
        counts.update(verdict.found)
        if +counts != expected.found:
            wrong.append(f"corrections {dict(expected.found)} instead of {dict(+counts)}")
    return "accepted", f"{name}: wrong {', '.join(wrong)}" if wrong else None


def read_beside(source: Original, path: Path) -> tuple[AnnotationIndex, list[str]]:
    """Read `path` as the evaluation split of what was trained on the original; also return what is wrong with
    the classes that its categories get."""
    categories = read_annotations(source.path, None).categories
    split = SourceConfig(images=str(source.images), annotations=str(path))
    opened = open_evaluation(DataConfig(val=[split]), "val", {"objects": None}, {}, categories)
    got = [categories[place].name for place in opened.classes.classes]
    right = got == [category.name for category in opened.index.categories]
    return opened.index, [] if right else ["classes of the trained categories"]


def read_mutants(
    count: int,
    seed: int,
    names: Sequence[str] = tuple(OPERATORS),
    images: int | None = None,
    file: Path | None = None,
) -> int:
    """Read `count` mutants of a file with `images` in this process, each operator in turn; return the exit
    code."""
    tally = Tally(file)
    with workplace() as folder:
        source = original(folder, images)
        differences(read_annotations(source.path, None), expect(source.document()))
        before = peak_memory()
        for number in range(count):
            tally.progress(number, count)
            name = names[number % len(names)]
            content, verdict = mutant(name, source, seed, number)
            try:
                with at_most(SECONDS):
                    outcome, problem = judge(name, content, verdict, source, folder)
            except Hang:
                outcome, problem = "hangs", f"{name}: not finished after {SECONDS:g} s"
            tally.add(outcome, problem if problem is None else f"mutant {number}, {problem}")
    grown = peak_memory() - before
    if grown > MEMORY:
        tally.problems.append(f"memory grew by {grown / 2**20:.0f} MiB")
    counts = tally.counts
    wrong = len(tally.problems) - counts["uncaught"] - counts["hangs"]
    return tally.finish(
        f"{count} mutants of {len(names)} operators: {counts['accepted']} accepted, "
        f"{counts['refused']} refused, {counts['uncaught']} uncaught, {counts['hangs']} hangs, {wrong} wrong"
        f"; memory grew by {grown / 2**20:.0f} MiB",
        operators=len(names),
        grown_mib=round(grown / 2**20),
    )


CONFIG = """
data:
  root: {root}
  train: [{{images: {images}, annotations: {train}}}]
  val: [{{images: {images}, annotations: {val}}}]
  resize: {{shorter: 64, longer: 96}}
  batch_size: 4
  workers: 0
trunk: {{name: resnet18, channels: 32}}
heads:
  objects: {{type: fcos, depth: 1, norm: group}}
training: {{max_steps: 1, warmup_steps: 1, precision: fp32}}
"""


def train_mutants(seed: int, names: Sequence[str] = tuple(OPERATORS), file: Path | None = None) -> int:
    """Train on one mutant of each operator with `tools/train.py`; return the exit code."""
    tally = Tally(file)
    for number, name in enumerate(names):
        tally.progress(number, len(names))
        with workplace() as folder:
            source = original(folder, images=12)
            content, verdict = mutant(name, source, seed, 0)
            outcome, problem = train_on(name, content, verdict, source, folder)
        tally.add(outcome, problem)
    counts = tally.counts
    return tally.finish(
        f"{len(names)} operators through tools/train.py: {counts['trained']} trained, "
        f"{counts['refused']} refused, {len(tally.problems)} wrong"
    )


def train_on(
    name: str, content: bytes, verdict: Verdict, source: Original, folder: Path
) -> tuple[str, str | None]:
    """Run `tools/train.py` for one step; return "trained" or "refused", and what is wrong with that."""
    path = folder / "mutant.json"
    path.write_bytes(content)
    train = path.name
    if name in SPLITS:  # the other split is as it was
        train = source.path.name
    config = folder / "mutant.yaml"
    config.write_text(CONFIG.format(root=folder, images=source.images, train=train, val=path.name))
    output = folder / "run"
    command = [sys.executable, str(ROOT / "tools" / "train.py"), str(config), "--output", str(output)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    if done.returncode == 0:
        finished = (output / "checkpoints" / "last.pt").is_file()
        wrong = isinstance(verdict, Refused) or verdict.training is not None or not finished
        return "trained", f"{name}: trained, and should not have" if wrong else None
    message = done.stderr
    says = verdict.says if isinstance(verdict, Refused) else (verdict.training or "to be trained on",)
    problems = [f"does not say {words!r}" for words in says if words not in message]
    if done.returncode != 2:
        problems.append(f"exit code {done.returncode}")
    if "Traceback" in message or message.count("error: ") != 1:
        problems.append("not one error")
    if output.exists():
        problems.append("wrote the run folder")
    return "refused", f"{name}: {', '.join(problems)}: {message[-800:]}" if problems else None


def main() -> int:
    parser = command_parser(__doc__ or "")
    parser.add_argument("--count", type=int, default=2000, help="mutants to read (default: 2000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--train", action="store_true", help="train on one mutant of each operator instead")
    parser.add_argument("--only", metavar="WORDS", help="operators whose name holds these words")
    arguments = parser.parse_args()
    names = [name for name in OPERATORS if (arguments.only or "") in name]
    if arguments.train:
        return train_mutants(arguments.seed, names, arguments.json)
    return read_mutants(arguments.count, arguments.seed, names, file=arguments.json)


if __name__ == "__main__":
    sys.exit(main())
