"""Files to answers, as `tools/infer.py` gives them."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
import torch

from vision_mtl.commands.infer import infer_with_checkpoint
from vision_mtl.commands.shared import open_checkpoint
from vision_mtl.config import config_from_tree, to_tree
from vision_mtl.errors import CheckpointError, DataError, NumericsError
from vision_mtl.heads.base import LabelInfo
from vision_mtl.inference.files import find_images
from vision_mtl.inference.predictor import ImageResult, Predictor
from vision_mtl.models.multitask import build_model
from vision_mtl.structures import ClassScores, Detections
from vision_mtl.training.checkpoint import save_checkpoint

REPOSITORY = Path(__file__).resolve().parents[2]
ODD_IMAGES = REPOSITORY.parent / "shared" / "data" / "odd_images"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny untrained network with all kinds of heads, saved as a run would."""
    config = config_from_tree(
        {
            "data": {"resize": {"shorter": 64, "longer": 96}, "eval_batch_size": 2, "workers": 0},
            "trunk": {"name": "resnet18", "channels": 32},
            "heads": {
                "objects": {"type": "fcos", "depth": 1},
                "kind": {"type": "classification", "source": "attribute", "field": "kind"},
                "presence": {"type": "multilabel", "source": "boxes"},
                "count": {"type": "regression", "source": "count"},
            },
            "training": {"precision": "fp32"},
        },
        "test",
    )
    labels = {
        "objects": LabelInfo(("bolt", "nut"), (3, 7)),
        "kind": LabelInfo(("clean", "dirty")),
        "presence": LabelInfo(("bolt", "nut")),
        "count": LabelInfo(mean=2.0, std=1.5),
    }
    torch.manual_seed(0)
    model = build_model(config.model(), labels)
    path = tmp_path_factory.mktemp("checkpoint") / "best.pt"
    state = {
        "config": to_tree(config),
        "labels": msgspec.to_builtins(labels),
        "progress": {"step": 1, "epoch": 1, "best": 0.0, "best_step": 1, "since_best": 0},
        "average": model.state_dict(),
    }
    save_checkpoint(state, path)
    return str(path)


def picture(path: Path, height: int, width: int, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))
    return path


def predictor(checkpoint: str, **settings: object) -> Predictor:
    trained = open_checkpoint(checkpoint)
    values = {"batch_size": 2, "workers": 0, **settings}
    resize = trained.config.data.resize
    return Predictor(trained.model, resize, torch.device("cpu"), torch.float32, **values)  # type: ignore[arg-type]


def scores(result: ImageResult) -> torch.Tensor:
    answer = result.predictions["kind"]
    assert isinstance(answer, ClassScores)
    return answer.scores


@pytest.mark.parametrize("workers", [0, 2])
def test_order_sizes_and_neighbours(checkpoint: str, tmp_path: Path, workers: int) -> None:
    sizes = [(48, 80), (80, 48), (48, 80), (100, 100), (48, 80), (80, 48), (64, 64)]
    paths = [str(picture(tmp_path / f"{i}.png", *size, seed=i)) for i, size in enumerate(sizes)]
    paths.insert(3, str(tmp_path / "none.png"))
    together = list(predictor(checkpoint, workers=workers).predict_files(paths))
    assert [result.path for result in together] == paths
    assert [result.size for result in together if result.size] == sizes
    assert together[3].reason is not None
    assert not together[3].predictions
    for path, result in zip(paths, together, strict=True):
        (alone,) = predictor(checkpoint).predict_files([path])
        if alone.size is not None:
            torch.testing.assert_close(scores(alone), scores(result), rtol=0, atol=1e-6)


def test_boxes_are_in_original_pixels(checkpoint: str, tmp_path: Path) -> None:
    small, large = picture(tmp_path / "small.png", 64, 96), tmp_path / "large.png"
    image = cv2.imread(str(small))
    assert cv2.imwrite(str(large), cv2.resize(image, None, fx=3, fy=3, interpolation=cv2.INTER_NEAREST))
    results = list(predictor(checkpoint).predict_files([str(small), str(large)]))
    boxes = [result.predictions["objects"] for result in results]
    assert all(isinstance(found, Detections) and len(found.scores) == 100 for found in boxes)
    torch.testing.assert_close(boxes[1].boxes, boxes[0].boxes * 3, rtol=0, atol=0.05)


def test_no_files(checkpoint: str) -> None:
    assert list(predictor(checkpoint, workers=2).predict_files([])) == []


def test_files_are_found_and_named_apart(tmp_path: Path) -> None:
    for name in ("a/x.png", "b/x.png", "b/deep/y.png"):
        picture(tmp_path / name, 8, 8)
    shutil.copy(tmp_path / "a/x.png", tmp_path / "a/no_extension")
    (tmp_path / "a/notes.txt").write_text("text")
    found = find_images(
        [str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "a/x.png")], recursive=False
    )
    assert [Path(path).relative_to(tmp_path).as_posix() for path in found.paths] == [
        "a/no_extension",
        "a/x.png",
        "b/x.png",
    ]
    assert found.names == ["no_extension", "x.png", "x-2.png"]
    assert found.ignored == 1
    assert "deep/y.png" in find_images([str(tmp_path / "b")], recursive=True).names


def test_a_file_counts_once_however_it_is_spelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = picture(tmp_path / "in/x.png", 8, 8)
    monkeypatch.chdir(tmp_path)
    assert find_images(["in/x.png", str(image), "in/../in"], recursive=False).paths == ["in/x.png"]


def test_drawings_inside_the_input_are_not_read_as_images(checkpoint: str, tmp_path: Path) -> None:
    picture(tmp_path / "x.png", 8, 8)
    for _ in range(2):
        infer_with_checkpoint([str(tmp_path)], checkpoint, tmp_path / "out", 0.3, True, True)
        assert len(json.loads((tmp_path / "out/predictions.json").read_text())["images"]) == 1


def test_what_is_no_regular_file_is_refused_not_waited_for(checkpoint: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (result,) = predictor(checkpoint).predict_files(
        find_images([str(tmp_path / "pipe")], recursive=False).paths
    )
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
    broken = predictor(checkpoint)
    with torch.no_grad():
        broken.model.named_heads()["count"].pooled.logits.bias.fill_(float("nan"))
    with pytest.raises(NumericsError, match=r"head 'count' answers '.*x\.png'"):
        list(broken.predict_files([str(picture(tmp_path / "x.png", 8, 8))]))


def test_an_output_that_cannot_be_made_is_found_first(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setattr(Predictor, "predict_files", lambda *_: pytest.fail("predicted before the check"))
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
    command = [sys.executable, "tools/infer.py", str(ODD_IMAGES), "--checkpoint", checkpoint]
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


def test_explanations_lie_beside_answers_that_stay_the_same(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "in"
    picture(images / "a.png", 48, 80)
    (images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    written = {}
    for name, asked in {"plain": (None, None), "explained": ("presence", "nut")}.items():
        out = tmp_path / name
        infer_with_checkpoint([str(images)], checkpoint, out, 0.3, False, False, (), False, *asked)
        written[name] = (out / "predictions.json").read_text()
    assert written["plain"] == written["explained"]
    found = list((tmp_path / "explained").rglob("*.png"))
    assert found == [tmp_path / "explained/explain/presence/a-nut.png"]
    capsys.readouterr()
    infer_with_checkpoint(
        [str(images)], checkpoint, tmp_path / "none", 1.0, False, False, (), False, "objects"
    )
    assert "--explain objects: nothing found in" in capsys.readouterr().out
    assert not (tmp_path / "none/explain").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--explain", "object"], "expected one of the network's heads: objects, kind, presence, count"),
        (["--explain-class", "nut"], "expected --explain HEAD"),
        (["--explain", "kind", "--compile"], "leave out --compile"),
    ],
)
def test_what_cannot_be_explained(
    checkpoint: str, tmp_path: Path, arguments: list[str], message: str
) -> None:
    image, out = picture(tmp_path / "a.png", 48, 80), tmp_path / "out"
    command = [sys.executable, "tools/infer.py", str(image), "--checkpoint", checkpoint, "--output", str(out)]
    done = subprocess.run([*command, *arguments], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()
