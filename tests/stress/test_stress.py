"""Short versions of the stress commands: each must end with nothing wrong."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.stress import (
    annotations,
    checkpoints,
    images,
    inference,
    invariances,
    malicious,
    memory,
    nonfinite,
)
from tests.stress.annotation_corrections import CORRECTIONS
from tests.stress.image_files import Seen
from tests.stress.malicious_files import HARMLESS, REFUSALS
from tests.stress.verdicts import Hang, Refused, Tally, at_most
from tests.stress.workplace import ROOT
from tests.training.narrow import narrow_trunk
from vision_mtl.data.dataset import Dataset, Sample
from vision_mtl.data.images import BadImageError, read_image
from vision_mtl.errors import DataError
from vision_mtl.training import step

COMMANDS = re.findall(
    r"python -m tests\.stress\.(\w+)", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"tests.stress.{name}").main()
    assert ended.value.code == 0
    assert f"python -m tests.stress.{name}" in capsys.readouterr().out


def test_annotation_mutants(capfd: pytest.CaptureFixture[str]) -> None:
    assert len(annotations.OPERATORS) >= 40
    code = annotations.read_mutants(len(annotations.OPERATORS), seed=1, images=30)
    printed = capfd.readouterr()
    assert code == 0, printed.err
    assert "0 uncaught, 0 hangs, 0 wrong" in printed.out


def test_a_wrong_verdict_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    untouched = annotations.in_text(CORRECTIONS["untouched"])
    shifted = CORRECTIONS["box overhangs left"]
    refused = Refused(("unheard of",))
    wrong = {
        "good, to be refused": lambda document, rng: (untouched(document, rng)[0], refused),
        "bad, to be accepted": lambda document, rng: (b"{", untouched(document, rng)[1]),
        "another error": lambda document, rng: (b"{", refused),
        "other boxes": lambda document, rng: (
            untouched(document, rng)[0],
            shifted(document, rng),  # changed after it was written
        ),
    }
    monkeypatch.setattr(annotations, "OPERATORS", wrong)
    assert annotations.read_mutants(4, 0, tuple(wrong), images=5) == 1
    printed = capfd.readouterr()
    assert "4 wrong" in printed.out
    assert printed.err.count("WRONG") == 4


def test_image_kinds(tmp_path: Path) -> None:
    assert len(images.KINDS) >= 25
    files = images.write_files(tmp_path / "images", len(images.KINDS), seed=1)
    before = images.digests(files)
    tally = Tally()
    for file in files:
        try:
            seen, reason = read_image(file.path), None
        except BadImageError as error:
            seen, reason = None, error.reason
        tally.add("read", images.wrong_with(file, seen, reason))
    images.load_as_data_set(files, tmp_path, tally)
    assert tally.problems == []
    assert images.digests(files) == before


def test_wrong_pixels_are_noticed(tmp_path: Path) -> None:
    (file,) = images.write_files(tmp_path / "images", 1, seed=0)  # a JPEG that is cut off
    white = np.full((4, 5, 3), 255, np.uint8)
    assert "not refused" in str(images.wrong_with(file, white, None))
    assert "not 'replace the file'" in str(images.wrong_with(file, None, "another reason"))
    assert images.wrong_with(file, None, "replace the file") is None
    good = replace(file, verdict=Seen(white, tolerance=2))
    assert images.wrong_with(good, white - np.uint8(2), None) is None
    assert "off by up to 3" in str(images.wrong_with(good, white - np.uint8(3), None))
    assert "(5, 4, 3)" in str(images.wrong_with(good, white.transpose(1, 0, 2), None))
    assert "refused" in str(images.wrong_with(good, None, "a reason"))


@pytest.mark.filterwarnings("ignore")  # torch warns of what it refuses
def test_malicious_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(REFUSALS) + len(HARMLESS) >= 60
    code = malicious.attack_all()
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert " 0 wrong" in printed.out


def test_what_a_malicious_file_does_is_noticed(tmp_path: Path) -> None:
    def touches(folder: Path, canary: str) -> None:
        Path(canary).touch()

    def shows(folder: Path, canary: str) -> None:
        raise DataError((Path(canary).parent / "secret").read_text())

    def fails(folder: Path, canary: str) -> None:
        raise KeyError("state")

    attacks = {"touches": touches, "shows": shows, "fails": fails, "passes": lambda folder, canary: None}
    name = next(iter(REFUSALS))
    problems = {}
    for kind, attack in attacks.items():
        (tmp_path / kind).mkdir()
        problems[kind] = str(malicious.judge(name, attack, tmp_path / kind)[1])
    assert "canary" in problems["touches"]
    assert "root:" in problems["shows"]
    assert "uncaught KeyError" in problems["fails"]
    assert "should be refused" in problems["passes"]


def test_a_hang_is_noticed() -> None:
    with pytest.raises(Hang), at_most(0.05):
        time.sleep(5)


def test_the_tally_says_what_was_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally()
    tally.add("read")
    assert tally.finish("1 file") == 0
    tally.add("read", "the second one")
    assert tally.finish("2 files") == 1
    printed = capsys.readouterr()
    assert printed.err == "WRONG the second one\n"
    assert printed.out.startswith("1 file (")


def test_the_tally_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally()
    tally.progress(1, 4)
    assert capsys.readouterr().err == "", "it has only begun"
    tally.started -= 60
    tally.shown -= 60
    tally.progress(1, 4)
    tally.progress(2, 4)
    assert capsys.readouterr().err == "1 of 4, about 3:00 left\n"


def test_the_tally_writes_its_figures(tmp_path: Path) -> None:
    tally = Tally(tmp_path / "figures.json")
    tally.add("read", "a problem")
    assert tally.finish("1 file", grown=3) == 1
    found = json.loads((tmp_path / "figures.json").read_text())
    assert found.pop("seconds") < 60
    assert found == {"summary": "1 file", "counts": {"read": 1}, "grown": 3, "problems": ["a problem"]}


def test_killed_runs() -> None:
    """In a process of its own: this one has started threads, and so cannot fork."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.stress.kill", "--count", "3"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert re.match(r"3 kills .*: after 3 of 3 kills, resumed and bit-identical", done.stdout), done.stdout


def test_numbers_that_are_not_finite(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(nonfinite.PLACES) >= 10
    code = nonfinite.inject(["the gradient of a head", "the step before a checkpoint"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert "not finite at 2 places: at 2 nothing was changed" in printed.out


def test_a_step_that_is_taken_all_the_same_is_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(step, "skipping", lambda *_: nullcontext())
    assert nonfinite.inject(["the last step"]) == 1
    assert "it changed the model" in capsys.readouterr().err


def test_damaged_checkpoints(capfd: pytest.CaptureFixture[str]) -> None:
    assert checkpoints.read_damaged(60, seed=1) == 0
    assert ": 60 found and the one before taken" in capfd.readouterr().out


def test_interrupted_inference(capfd: pytest.CaptureFixture[str]) -> None:
    assert inference.infer_and_resume(count=200, kills=1, seed=0) == 0, capfd.readouterr().err
    assert "200 images, 1 kills, 1 torn lines: 0 wrong" in capfd.readouterr().out


def test_lost_and_doubled_images_are_noticed(tmp_path: Path) -> None:
    def line(number: int, size: tuple[int, int]) -> str:
        file = str(tmp_path / "000" / f"{number:07d}.jpg")
        return json.dumps({"file": file, "height": size[0], "width": size[1]}) + "\n"

    record, sizes = tmp_path / "record", [inference.size_of(number) for number in range(4)]
    record.write_text("".join(line(number, size) for number, size in enumerate(sizes)))
    assert inference.wrong_lines(record, tmp_path, 4) == []
    with record.open("a") as file:
        file.write(line(2, sizes[2]) + line(5, sizes[0]))
    (swapped, lost, doubled, unknown) = inference.wrong_lines(record, tmp_path, 5)
    assert "0000005.jpg: another image's answers" in swapped
    assert lost == "000/0000004.jpg is lost"
    assert doubled == "000/0000002.jpg is there 2 times"
    assert unknown == "000/0000005.jpg is no input"


def test_growing_memory_is_noticed() -> None:
    assert inference.Watched(0, [10**9] * 100).growth() == 0
    assert inference.Watched(0, [0] * 25 + [10**9] * 75).growth() == 0  # while it warms up
    assert inference.Watched(0, [10**9 + 10**6 * i for i in range(100)]).growth() > inference.GROWTH


def test_invariances(capsys: pytest.CaptureFixture[str]) -> None:
    with narrow_trunk():
        code = invariances.check_invariances(8, only="shuffled")
    printed = capsys.readouterr()
    assert code == 0, printed.err
    assert re.match(r"4 invariances .*: 4 hold, .*; 4 of 4 real changes noticed, 0 wrong", printed.out)


needs_smaps = pytest.mark.skipif(
    not Path("/proc/self/smaps_rollup").exists(), reason="no /proc/<pid>/smaps_rollup on this system"
)


@needs_smaps
def test_memory_of_loader_processes(capsys: pytest.CaptureFixture[str]) -> None:
    code = memory.watch(epochs=12, images=16, workers=1)
    assert code == 0, capsys.readouterr().err


class Leaking(torch.utils.data.Dataset):
    """Holds on to 1 MiB a sample."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, self.held = dataset, []

    def sizes(self) -> np.ndarray:
        return self.dataset.sizes()

    def __getitem__(self, key: tuple[int, int, int]) -> Sample | BadImageError:
        self.held.append(np.ones(2**20, np.uint8))
        return self.dataset[key]


@needs_smaps
def test_memory_that_grows_is_noticed(tmp_path: Path) -> None:
    leaking = Leaking(memory.small_set(tmp_path / "set", 16))
    assert memory.growth(memory.sizes_by_epoch(leaking, 1, 8, Tally())) > 2 * memory.GROWTH
