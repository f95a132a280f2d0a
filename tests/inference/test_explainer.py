"""Pictures of what speaks for an answer, as `tools/infer.py --explain` writes them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.inference.networks import picture, pipeline
from vision_mtl.commands.infer import infer_with_checkpoint
from vision_mtl.errors import ConfigError
from vision_mtl.inference.explainer import Explainer
from vision_mtl.inference.pipeline import Pipeline
from vision_mtl.inference.thresholds import Thresholds

REPOSITORY = Path(__file__).resolve().parents[2]
EVERYTHING = Thresholds(0.0, {"presence": {"bolt": 0.0, "nut": 0.0}})


@pytest.fixture(scope="module")
def answering(checkpoint: str) -> Pipeline:
    return pipeline(checkpoint, thresholds=EVERYTHING)


def files_of(made: Explainer, image: Path | np.ndarray, shown: str) -> list[str]:
    """Explain one image; return what was written."""
    (result,) = made.pipeline.stream([image])
    count = made.write(result, shown)
    files = sorted(file.relative_to(made.folder).as_posix() for file in made.folder.rglob("*.*"))
    assert len(files) == count
    return files


@pytest.mark.parametrize(
    ("head", "label", "shown", "files"),
    [
        ("count", None, "a/x.webp", ["count/a/x.webp.jpg"]),
        ("kind", "dirty", "x.png", ["kind/x-dirty.png"]),
        ("presence", None, "x.jpg", ["presence/x-bolt.jpg", "presence/x-nut.jpg"]),
        ("objects", "nut", "x.png", ["objects/x-nut.png"]),
    ],
)
def test_pictures_are_named_by_head_and_class(
    answering: Pipeline, tmp_path: Path, head: str, label: str | None, shown: str, files: list[str]
) -> None:
    grey = tmp_path / "grey.png"
    assert cv2.imwrite(str(grey), np.random.default_rng(0).integers(0, 256, (40, 90), np.uint8))
    folder = tmp_path / "out"
    assert files_of(Explainer(answering, head, label, folder), grey, shown) == files
    drawn = cv2.imread(str(folder / files[0]))
    assert drawn.shape[1] == 8 * 90  # enlarged, as drawings are
    assert drawn.shape[0] > 8 * 40 + 30  # with a caption and a legend


def test_a_file_and_its_pixels_have_the_same_picture(answering: Pipeline, tmp_path: Path) -> None:
    file = picture(tmp_path / "x.png", 48, 80)
    pixels = np.ascontiguousarray(cv2.imread(str(file))[..., ::-1])
    written = []
    for name, image in {"file": file, "pixels": pixels}.items():
        made = Explainer(answering, "kind", "clean", tmp_path / name)
        written.append((made.folder / files_of(made, image, "x.png")[0]).read_bytes())
    assert written[0] == written[1]


def test_without_an_answer_there_is_no_picture(answering: Pipeline, tmp_path: Path) -> None:
    nothing = replace(answering, thresholds=Thresholds(1.0, {"presence": {"bolt": 1.1, "nut": 1.1}}))
    for head in ("objects", "presence"):
        made = Explainer(nothing, head, None, tmp_path / "out")
        assert files_of(made, picture(tmp_path / "x.png", 64, 64), "x.png") == []
        assert not made.folder.exists()


@pytest.mark.parametrize(
    ("head", "label", "message"),
    [
        ("kindd", None, r"--explain: found 'kindd', expected .*objects, kind, presence, count.*mean 'kind'"),
        (
            "kind",
            "dirt",
            r"--explain-class: found 'dirt', expected one of clean, dirty; .* 'dirty'",
        ),
        ("count", "bolt", r"head 'count' answers with a number"),
    ],
)
def test_unknown_heads_and_classes_write_nothing(
    checkpoint: str, tmp_path: Path, head: str, label: str | None, message: str
) -> None:
    image, out = picture(tmp_path / "a.png", 48, 80), tmp_path / "out"
    with pytest.raises(ConfigError, match=message):
        infer_with_checkpoint(
            [str(image)], checkpoint, out, 0.3, False, False, explain=head, explain_class=label
        )
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--explain-class", "nut"], "expected --explain HEAD"),
        (["--explain", "kind", "--compile"], "leave out --compile"),
    ],
)
def test_options_that_do_not_fit(options: list[str], message: str) -> None:
    command = [sys.executable, "tools/infer.py", "a.png", "--checkpoint", "c.pt", "--output", "out", *options]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert message in done.stderr


def test_explanations_lie_beside_answers_that_stay_the_same(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "in"
    picture(images / "a.png", 48, 80)
    (images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    written = {}
    for name, (head, label) in {"plain": (None, None), "explained": ("presence", "nut")}.items():
        out = tmp_path / name
        infer_with_checkpoint(
            [str(images)], checkpoint, out, 0.3, False, False, explain=head, explain_class=label
        )
        written[name] = (out / "predictions.json").read_text()
    assert written["plain"] == written["explained"]
    found = list((tmp_path / "explained").rglob("*.png"))
    assert found == [tmp_path / "explained/explain/presence/a-nut.png"]
    capsys.readouterr()
    out = tmp_path / "none"
    infer_with_checkpoint([str(images)], checkpoint, out, 1.0, False, False, explain="objects")
    assert "--explain: no answer to explain in a.png" in capsys.readouterr().out
    assert not (out / "explain").exists()
