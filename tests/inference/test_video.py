"""Videos, frame by frame."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.inference.networks import picture, pipeline
from vision_mtl.commands.infer import infer_with_checkpoint
from vision_mtl.errors import ConfigError, DataError
from vision_mtl.inference.video import VideoFile, open_video

REPOSITORY = Path(__file__).resolve().parents[2]
FRAMES, RATE = 11, 10.0


def colour(number: int) -> tuple[int, int, int]:
    """The RGB colour of a frame."""
    return 20 * number, 255 - 20 * number, 128


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    with VideoFile(path, RATE) as video:
        for number in range(FRAMES):
            video.add(np.full((64, 96, 3), colour(number), np.uint8))
    return path


def infer(inputs: list[Path], checkpoint: str, output: Path, *formats: str, **more: Any) -> int:
    files = [str(path) for path in inputs]
    return infer_with_checkpoint(files, checkpoint, output, 0.0, False, False, formats=formats, **more)


def test_a_video_is_read_as_it_was_written(clip: Path) -> None:
    assert [path.name for path in clip.parent.iterdir()] == ["clip.mp4"]
    video = open_video(str(clip))
    assert (video.rate, video.announced) == (RATE, FRAMES)
    frames = list(video.frames())
    assert [seconds for seconds, _ in frames] == pytest.approx([number / RATE for number in range(FRAMES)])
    for number, (_, pixels) in enumerate(frames):
        assert pixels.shape == (64, 96, 3)
        assert np.abs(pixels.mean((0, 1)) - colour(number)).max() < 4


def test_frames_are_answered_as_images_are(checkpoint: str, clip: Path) -> None:
    video = open_video(str(clip))
    answers = pipeline(checkpoint)
    results = list(video.answer(answers))
    alone = list(answers.stream([pixels for _, pixels in video.frames()]))
    assert [result.frame for result in results] == list(range(FRAMES))
    assert [result.seconds for result in results] == pytest.approx([n / RATE for n in range(FRAMES)])
    assert [result.answers for result in results] == [result.answers for result in alone]


def test_what_is_written_of_a_video(checkpoint: str, clip: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    formats = ("json", "csv", "coco", "yolo", "images", "video")
    assert infer([clip], checkpoint, out, *formats) == 0
    entries = json.loads((out / "predictions.json").read_text())["images"]
    assert [(entry["file"], entry["frame"]) for entry in entries] == [(str(clip), n) for n in range(FRAMES)]
    assert entries[3]["seconds"] == pytest.approx(0.3)
    assert len(list((out / "drawings").iterdir())) == len(list((out / "labels").iterdir())) == FRAMES
    images = json.loads((out / "images.json").read_text())["images"]
    assert (images[3]["id"], images[3]["frame"]) == (4, 3)
    assert (out / "predictions.csv").read_text().splitlines()[0].endswith(",frame,seconds")
    drawn = open_video(str(out / "video.mp4"))
    assert (drawn.rate, drawn.announced) == (RATE, FRAMES)
    (height, width, _), *others = [pixels.shape for _, pixels in drawn.frames()]
    assert (width, height > 448) == (672, True)  # enlarged 7 times, and a caption
    assert {shape[:2] for shape in others} == {(height, width)}
    infer([clip], checkpoint, out, *formats)  # overwrites


def test_an_error_leaves_no_half_video(tmp_path: Path) -> None:
    video = VideoFile(tmp_path / "video.mp4", RATE)
    video.add(np.zeros((64, 96, 3), np.uint8))
    video.__exit__(RuntimeError, RuntimeError("half"), None)
    assert list(tmp_path.iterdir()) == []


def test_odd_sides_lose_a_row_and_a_column(tmp_path: Path) -> None:
    with VideoFile(tmp_path / "video.mp4", RATE) as video:
        video.add(np.zeros((65, 97, 3), np.uint8))
    ((_, pixels),) = open_video(str(tmp_path / "video.mp4")).frames()
    assert pixels.shape == (64, 96, 3)


@pytest.mark.parametrize("size", [0, 600])
def test_a_broken_video(clip: Path, tmp_path: Path, size: int) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(clip.read_bytes()[:size])
    with pytest.raises(DataError, match=r"broken\.mp4': no frame can be decoded"):
        open_video(str(broken))


def test_a_broken_video_is_one_error(tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    command = [sys.executable, "tools/infer.py", str(broken), "--checkpoint", "none.pt"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "out")], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: '{broken}': no frame can be decoded")
    assert done.stderr.count("\n") == 1  # nothing of FFmpeg's or OpenCV's own
    assert not (tmp_path / "out").exists()


def test_a_video_comes_alone(checkpoint: str, clip: Path, tmp_path: Path) -> None:
    image = picture(tmp_path / "a.png", 8, 8)
    with pytest.raises(ConfigError, match="expected it as the only input"):
        infer([clip, image], checkpoint, tmp_path / "out", "json")
    with pytest.raises(ConfigError, match="--resume"):
        infer([clip], checkpoint, tmp_path / "out", "json", resume=True)
    with pytest.raises(ConfigError, match="--format gallery"):
        infer([clip], checkpoint, tmp_path / "out", "gallery")
    with pytest.raises(DataError, match=r"no file 'none\.mp4'"):
        infer([Path("none.mp4")], checkpoint, tmp_path / "out", "json")
    assert not (tmp_path / "out").exists()


def test_a_video_that_ends_early_is_said(
    checkpoint: str,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        "vision_mtl.commands.infer.open_video",
        lambda path: type(video := open_video(path))(video.path, video.rate, 100),
    )
    assert infer([clip], checkpoint, tmp_path / "out", "json") == 1
    assert f"announces 100 frames, and {FRAMES} could be decoded" in capsys.readouterr().out
