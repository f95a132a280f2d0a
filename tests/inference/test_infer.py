"""Files to answers, as `tools/infer.py` gives them."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch

from tests.inference.networks import INFER, picture, pipeline
from vision_mtl.commands.infer import infer_with_checkpoint
from vision_mtl.errors import CheckpointError, DataError, NumericsError
from vision_mtl.inference.files import find_images
from vision_mtl.inference.pipeline import Pipeline
from vision_mtl.inference.results import Result
from vision_mtl.structures import ClassScores, Detections

REPOSITORY = Path(__file__).resolve().parents[2]
ODD_IMAGES = REPOSITORY.parent / "shared" / "data" / "odd_images"


def scores(result: Result) -> torch.Tensor:
    answer = result.predictions["kind"]
    assert isinstance(answer, ClassScores)
    return answer.scores


@pytest.mark.parametrize("workers", [0, 2])
def test_order_sizes_and_neighbours(checkpoint: str, tmp_path: Path, workers: int) -> None:
    sizes = [(48, 80), (80, 48), (48, 80), (100, 100), (48, 80), (80, 48), (64, 64)]
    paths = [str(picture(tmp_path / f"{i}.png", *size, seed=i)) for i, size in enumerate(sizes)]
    paths.insert(3, str(tmp_path / "none.png"))
    together = list(pipeline(checkpoint, workers=workers).stream(paths))
    assert [result.path for result in together] == paths
    assert [result.size for result in together if result.size] == sizes
    assert together[3].reason is not None
    assert not together[3].predictions
    for path, result in zip(paths, together, strict=True):
        (alone,) = pipeline(checkpoint).stream([path])
        if alone.size is not None:
            torch.testing.assert_close(scores(alone), scores(result), rtol=0, atol=1e-6)


def test_boxes_are_in_original_pixels(checkpoint: str, tmp_path: Path) -> None:
    small, large = picture(tmp_path / "small.png", 64, 96), tmp_path / "large.png"
    image = cv2.imread(str(small))
    assert cv2.imwrite(str(large), cv2.resize(image, None, fx=3, fy=3, interpolation=cv2.INTER_NEAREST))
    results = list(pipeline(checkpoint).stream([str(small), str(large)]))
    boxes = [result.predictions["objects"] for result in results]
    assert all(isinstance(found, Detections) and len(found.scores) > 50 for found in boxes)
    torch.testing.assert_close(boxes[1].boxes, boxes[0].boxes * 3, rtol=0, atol=0.05)


def test_no_files(checkpoint: str) -> None:
    assert list(pipeline(checkpoint, workers=2).stream([])) == []


def test_drawings_inside_the_input_are_not_read_as_images(checkpoint: str, tmp_path: Path) -> None:
    picture(tmp_path / "x.png", 8, 8)
    for _ in range(2):
        infer_with_checkpoint([str(tmp_path)], checkpoint, tmp_path / "out", 0.3, True, True)
        assert len(json.loads((tmp_path / "out/predictions.json").read_text())["images"]) == 1


def test_what_is_no_regular_file_is_refused_not_waited_for(checkpoint: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (result,) = pipeline(checkpoint).stream(find_images([str(tmp_path / "pipe")], recursive=False).paths)
    assert "pipe" in str(result.reason)


def test_names_that_are_no_utf8_are_kept(checkpoint: str, tmp_path: Path) -> None:
    image = picture(tmp_path / "x.png", 8, 8)
    (tmp_path / "in").mkdir()
    shutil.copy(image, tmp_path / "in" / os.fsdecode(b"\xfe.png"))
    (tmp_path / "in" / os.fsdecode(b"\xff.png")).write_bytes(b"broken")
    assert infer_with_checkpoint([str(tmp_path / "in")], checkpoint, tmp_path / "out", 0.3, True, False) == 1
    content = json.loads((tmp_path / "out/predictions.json").read_text(encoding="utf-8"))
    assert os.fsencode(content["images"][0]["file"]).endswith(b"/\xfe.png")
    assert (tmp_path / "out/predictions.csv").read_text(encoding="utf-8").count("udcfe") >= 2
    assert [os.fsencode(path.name) for path in (tmp_path / "out/drawings").iterdir()] == [b"\xfe.png"]


def test_numbers_that_are_not_finite_stop_at_once(checkpoint: str, tmp_path: Path) -> None:
    broken = pipeline(checkpoint)
    with torch.no_grad():
        broken.model.named_heads()["count"].pooled.logits.bias.fill_(float("nan"))
    with pytest.raises(NumericsError, match=r"head 'count' answers '.*x\.png'"):
        list(broken.stream([str(picture(tmp_path / "x.png", 8, 8))]))


def test_an_output_that_cannot_be_made_is_found_first(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setattr(Pipeline, "stream", lambda *_: pytest.fail("predicted before the check"))
    with pytest.raises(DataError, match="cannot make the folder"):
        infer_with_checkpoint(
            [str(picture(tmp_path / "x.png", 8, 8))], checkpoint, tmp_path / "taken", 0.3, False, False
        )


@pytest.mark.parametrize("threshold", ["nan", "1.5", "-1", "half"])
def test_a_threshold_that_is_no_score_is_refused(threshold: str) -> None:
    command = [sys.executable, "tools/infer.py", "x", "--checkpoint", "c", "--output", "o"]
    done = subprocess.run(
        [*command, f"--threshold={threshold}"], capture_output=True, text=True, cwd=REPOSITORY
    )
    assert done.returncode == 2
    assert "--threshold" in done.stderr


@pytest.mark.parametrize("name", ["none", "empty"])
def test_nothing_to_predict_writes_nothing(checkpoint: str, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=name):
        infer_with_checkpoint([str(tmp_path / name)], checkpoint, tmp_path / "out", 0.3, False, False)
    assert not (tmp_path / "out").exists()


def test_a_wrong_checkpoint_writes_nothing(tmp_path: Path) -> None:
    image = picture(tmp_path / "x.png", 8, 8)
    with pytest.raises(CheckpointError, match=r"no checkpoint '.*none\.pt'"):
        infer_with_checkpoint([str(image)], str(tmp_path / "none.pt"), tmp_path / "out", 0.3, False, False)
    assert not (tmp_path / "out").exists()


def test_what_is_written(checkpoint: str, tmp_path: Path) -> None:
    picture(tmp_path / "in/a.png", 48, 80)
    (tmp_path / "in/broken.jpg").write_bytes(b"\xff\xd8\xff no picture")
    skipped = infer_with_checkpoint([str(tmp_path / "in")], checkpoint, tmp_path / "out", 0.0, True, False)
    assert skipped == 1
    content = json.loads((tmp_path / "out/predictions.json").read_text())
    (entry,) = content["images"]
    assert (entry["width"], entry["height"]) == (80, 48)
    assert entry["detections"]
    first = entry["detections"][0]
    assert first.keys() == {"bbox", "category_id", "category", "score"}
    assert (first["category_id"], first["category"]) in {(3, "bolt"), (7, "nut")}
    assert entry["labels"].keys() == {"kind", "presence", "count"}
    assert entry["labels"]["kind"]["label"] in ("clean", "dirty")
    assert entry["labels"]["kind"]["score"] == max(entry["labels"]["kind"]["scores"].values())
    assert content["skipped"][0]["file"].endswith("broken.jpg")
    assert content["skipped"][0]["reason"]
    with open(tmp_path / "out/predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sum(row["head"] == "objects" for row in rows) == len(entry["detections"])
    assert {row["head"] for row in rows} >= {"objects", "kind", "count"}
    drawing = cv2.imread(str(tmp_path / "out/drawings/a.png"))
    assert drawing.shape[1] == 640


def test_the_threshold_drops_detections_but_no_labels(checkpoint: str, tmp_path: Path) -> None:
    image = picture(tmp_path / "a.png", 48, 80)
    infer_with_checkpoint([str(image)], checkpoint, tmp_path / "out", 1.1, False, False)
    (entry,) = json.loads((tmp_path / "out/predictions.json").read_text())["images"]
    assert entry["detections"] == []
    assert entry["labels"]["count"]["value"] == pytest.approx(2.0, abs=1.5)


@pytest.mark.skipif(not ODD_IMAGES.is_dir(), reason="../shared/data/odd_images is not here")
def test_odd_images(checkpoint: str, tmp_path: Path) -> None:
    command = [*INFER, str(ODD_IMAGES), "--checkpoint", checkpoint]
    done = subprocess.run(
        [*command, "--output", str(tmp_path), "--set", "data.workers=1"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
    )
    assert done.returncode == 3, done.stderr
    content = json.loads((tmp_path / "predictions.json").read_text())
    sizes = {Path(entry["file"]).name: (entry["width"], entry["height"]) for entry in content["images"]}
    for number in range(1, 9):
        assert sizes[f"exif_samples__jpg__orientation__landscape_{number}.jpg"] == (600, 450)
        assert sizes[f"exif_samples__jpg__orientation__portrait_{number}.jpg"] == (450, 600)
    assert len(content["images"]) + len(content["skipped"]) == len(list(ODD_IMAGES.iterdir())) - 2
    assert len(content["skipped"]) == 11
    assert content["ignored"] == 2
