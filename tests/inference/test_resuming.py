"""Runs that end early, and go on."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.inference.networks import INFER, picture
from vision_mtl.commands.infer import infer_with_checkpoint
from vision_mtl.errors import ConfigError, DataError
from vision_mtl.inference.pipeline import Pipeline
from vision_mtl.inference.record import Lines, cut_torn_line

REPOSITORY = Path(__file__).resolve().parents[2]
COUNT = 9
ALL = ("json", "csv", "coco", "yolo", "images")


def write_images(folder: Path) -> Path:
    for number in range(COUNT):
        picture(folder / f"{number}.png", 48, 80, seed=number)
    return folder


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "in")


def infer(images: Path, checkpoint: str, output: Path, resume: bool = False, **more: Any) -> int:
    formats, threshold = more.pop("formats", ("json",)), more.pop("threshold", 0.0)
    return infer_with_checkpoint(
        [str(images)], checkpoint, output, threshold, False, False, formats=formats, resume=resume, **more
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "inference.json"
    }


def infer_up_to(after: int, images: Path, checkpoint: str, output: Path, **more: Any) -> None:
    """Start a run that fails after so many images."""
    original = Pipeline.stream

    def stream(self: Pipeline, images: Any) -> Any:
        for number, result in enumerate(original(self, images)):
            if number == after:
                raise RuntimeError("killed")
            yield result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pipeline, "stream", stream)
        with pytest.raises(RuntimeError, match="killed"):
            infer(images, checkpoint, output, **more)


@pytest.fixture(scope="module")
def whole(checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in one go, of the images in `in` beside it."""
    folder = tmp_path_factory.mktemp("whole")
    infer(write_images(folder / "in"), checkpoint, folder / "whole", formats=ALL)
    return folder / "whole"


@pytest.mark.parametrize(
    ("after", "torn"), [(0, b""), (0, b'{"file": "x'), (4, b""), (4, "é".encode()[:1]), (COUNT - 1, b"{")]
)
def test_a_resumed_run_writes_the_same_files(
    checkpoint: str, whole: Path, tmp_path: Path, after: int, torn: bytes
) -> None:
    images, broken = whole.parent / "in", tmp_path / "broken"
    infer_up_to(after, images, checkpoint, broken, formats=ALL)
    record = broken / "predictions.jsonl"
    assert record.read_bytes().count(b"\n") == after
    assert not (broken / "predictions.json").exists()
    with record.open("ab") as file:
        file.write(torn)
    infer(images, checkpoint, broken, resume=True, formats=ALL)
    assert contents(broken) == contents(whole)


def test_resuming_a_finished_run_answers_what_is_new(checkpoint: str, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    infer(images, checkpoint, out, resume=True)  # nothing to resume: begins
    before = (out / "predictions.jsonl").read_bytes()
    infer(images, checkpoint, out, resume=True)
    assert (out / "predictions.jsonl").read_bytes() == before
    picture(images / "00.png", 48, 80)
    infer(images, checkpoint, out, resume=True)
    after = (out / "predictions.jsonl").read_bytes()
    assert after.startswith(before)
    assert after.count(b"\n") == COUNT + 1
    assert len(json.loads((out / "predictions.json").read_text())["images"]) == COUNT + 1


def test_other_settings_are_refused(checkpoint: str, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    infer(images, checkpoint, out)
    before = contents(out)
    with pytest.raises(DataError, match=r"threshold was 0\.0 and is 0\.5"):
        infer(images, checkpoint, out, resume=True, threshold=0.5)
    with pytest.raises(DataError, match="formats was"):
        infer(images, checkpoint, out, resume=True, formats=("csv",))
    with pytest.raises(DataError, match="explain was None and is 'kind'"):
        infer(images, checkpoint, out, resume=True, explain="kind")
    assert contents(out) == before


def test_an_interrupted_run_is_not_overwritten(checkpoint: str, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    infer_up_to(4, images, checkpoint, out)
    before = contents(out)
    with pytest.raises(DataError, match="holds an interrupted run; give --resume"):
        infer(images, checkpoint, out)
    assert contents(out) == before
    (out / "predictions.jsonl").unlink()
    infer(images, checkpoint, out)
    infer(images, checkpoint, out)  # a finished one is


def test_damage_elsewhere_is_found(checkpoint: str, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    infer(images, checkpoint, out)
    lines = (out / "predictions.jsonl").read_bytes().splitlines(keepends=True)
    (out / "predictions.jsonl").write_bytes(b"".join([*lines[:3], b"\0\0\0\n", *lines[4:]]))
    with pytest.raises(DataError, match=r"predictions\.jsonl, line 4"):
        infer(images, checkpoint, out, resume=True)
    (out / "inference.json").write_text("{")
    with pytest.raises(DataError, match=r"inference\.json' is damaged"):
        infer(images, checkpoint, out, resume=True)


def test_a_folder_serves_one_process(checkpoint: str, images: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    code = (
        "import fcntl, sys, time; file = open(sys.argv[1], 'a'); fcntl.lockf(file, fcntl.LOCK_EX)\n"
        "print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(out / ".lock")], stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match="in use by another process"):
            infer(images, checkpoint, out)
    finally:
        other.kill()
        other.communicate()


@pytest.mark.parametrize(
    ("content", "left"),
    [(b"", b""), (b"a\n", b"a\n"), (b"a\nb", b"a\n"), (b"torn", b""), (b"a\n" + b"b" * 200_000, b"a\n")],
)
def test_the_torn_line_is_cut(tmp_path: Path, content: bytes, left: bytes) -> None:
    path = tmp_path / "lines"
    path.write_bytes(content)
    cut_torn_line(path)
    assert path.read_bytes() == left


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is not here")
def test_a_full_disk_is_one_error() -> None:
    with (
        Lines(Path("/dev/full")) as lines,
        pytest.raises(DataError, match="cannot write '/dev/full': No space"),
    ):
        lines.add({"file": "a.png"})


def test_a_signal_leaves_a_run_that_goes_on(checkpoint: str, tmp_path: Path) -> None:
    image = picture(tmp_path / "0.png", 48, 80)
    (tmp_path / "in").mkdir()
    for link in range(3000):
        os.link(image, tmp_path / "in" / f"{link}.png")
    out = tmp_path / "out"
    command = [*INFER, str(tmp_path / "in"), "--checkpoint", checkpoint]
    command += ["--output", str(out), "--format", "json", "--set", "data.workers=1"]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    record, deadline = out / "predictions.jsonl", time.monotonic() + 300
    while not (record.exists() and record.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert errors == "ended by SIGTERM\n"
    content = record.read_bytes()
    assert content.endswith(b"}\n")
    done = content.count(b"\n")
    assert 0 < done < 3000
    assert printed == f"{done} images are answered in {record}; --resume goes on\n"
    assert not list(out.glob("predictions.json"))
    assert not list(out.glob(".*.tmp"))
