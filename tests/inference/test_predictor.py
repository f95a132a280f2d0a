"""The Python API."""

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from tests.inference.networks import picture, write_checkpoint
from vision_mtl.data.images import BadImageError
from vision_mtl.errors import ConfigError, DataError
from vision_mtl.predict import Predictor


@pytest.fixture(scope="module")
def predictor(checkpoint: str) -> Predictor:
    return Predictor.from_checkpoint(checkpoint, threshold=0.0)


def test_paths_arrays_and_tensors_have_the_same_answers(predictor: Predictor, tmp_path: Path) -> None:
    path = picture(tmp_path / "x.png", 48, 80)
    array = cv2.imread(str(path))[..., ::-1]  # not contiguous
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    results = predictor.predict([str(path), path, array, tensor, tensor.float() / 255])
    first = results[0].to_dict()
    assert first.keys() == {"file", "width", "height", "detections", "labels"}
    assert (first["file"], first["width"], first["height"]) == (str(path), 80, 48)
    assert len(first["detections"]) > 50
    for result in results[1:]:
        entry = result.to_dict()
        assert entry["width"] == 80
        for ours, theirs in zip(entry["detections"], first["detections"], strict=True):
            assert ours["category"] == theirs["category"]
            assert ours["bbox"] == pytest.approx(theirs["bbox"], abs=2e-3)
        assert entry["labels"]["count"]["value"] == pytest.approx(first["labels"]["count"]["value"], abs=1e-5)
    assert [result.path for result in results] == [str(path), str(path), None, None, None]


def test_one_image_gives_a_list_of_one(predictor: Predictor, tmp_path: Path) -> None:
    path = picture(tmp_path / "x.png", 48, 80)
    for image in (str(path), path, np.zeros((48, 80, 3), np.uint8), torch.zeros(3, 48, 80)):
        (result,) = predictor.predict(image)
        assert result.size == (48, 80)
    assert len(predictor.predict(torch.zeros(2, 3, 48, 80))) == 2
    assert predictor.predict([]) == []


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((4, 5), np.uint8), r"images\[1\]: found an array \(4, 5\) of uint8"),
        (np.zeros((3, 4, 5), np.uint8), r"\(3, 4, 5\)"),
        (np.zeros((4, 5, 3), np.float32), "float32"),
        (np.zeros((0, 5, 3), np.uint8), r"\(0, 5, 3\)"),
        (torch.zeros(4, 5, 3), r"found a tensor \(4, 5, 3\), expected a tensor \(3, H, W\)"),
        (torch.full((3, 4, 5), 2.0), "from 2 to 2"),
        (torch.full((3, 4, 5), float("nan")), "from nan to nan"),
        (torch.zeros(3, 4, 5, dtype=torch.int64), "int64"),
        (None, "found NoneType"),
    ],
)
def test_what_is_no_image_is_refused(predictor: Predictor, image: object, said: str) -> None:
    good = np.zeros((48, 80, 3), np.uint8)
    with pytest.raises(DataError, match=said):
        predictor.predict([good, image])  # type: ignore[list-item]


def test_a_file_that_cannot_be_read(predictor: Predictor, tmp_path: Path) -> None:
    good, bad = str(picture(tmp_path / "x.png", 48, 80)), str(tmp_path / "none.png")
    with pytest.raises(BadImageError, match=r"none\.png"):
        predictor.predict([good, bad])
    results = predictor.predict([bad, good], skip_bad=True)
    assert results[0].to_dict().keys() == {"file", "reason"}
    assert results[1].reason is None
    for method in (results[0].draw, results[0].to_supervision):
        with pytest.raises(DataError, match=r"none\.png"):
            method()


def test_streaming_reads_no_further_than_it_must(predictor: Predictor) -> None:
    read = 0

    def images() -> object:
        nonlocal read
        for _ in range(1000):
            read += 1
            yield np.zeros((48, 80, 3), np.uint8)

    next(predictor.stream(images()))  # type: ignore[arg-type]
    assert read <= 4 * predictor.pipeline.batch_size


def test_the_threshold_is_kept_to(checkpoint: str, predictor: Predictor) -> None:
    image = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)
    every = predictor.predict(image)[0].objects
    middle = every[50]["score"]
    (result,) = Predictor.from_checkpoint(checkpoint, threshold=middle).predict(image)
    assert result.objects == [found for found in every if found["score"] >= middle]
    assert result.detections is not None
    assert len(result.detections.scores) == len(result.objects)


@pytest.mark.parametrize("threshold", [-0.1, 50, float("nan")])
def test_a_threshold_that_is_no_score_is_refused(threshold: float) -> None:
    with pytest.raises(ConfigError, match="expected a number from 0 to 1"):
        Predictor.from_checkpoint("none.pt", threshold)


def test_drawings(predictor: Predictor, tmp_path: Path) -> None:
    path = picture(tmp_path / "x.png", 480, 640)
    (of_file,) = predictor.predict(path)
    (of_array,) = predictor.predict(cv2.imread(str(path))[..., ::-1])
    drawn = of_file.draw()
    assert drawn.dtype == np.uint8
    assert drawn.shape[1:] == (640, 3)
    assert drawn.shape[0] > 480  # the caption
    assert of_array.draw().shape == drawn.shape


def test_supervision(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("supervision")
    module.Detections = SimpleNamespace  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "supervision", module)
    image = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)
    (result,) = predictor.predict(image)
    found = result.to_supervision()
    assert found.xyxy.shape == (len(result.objects), 4)
    assert found.xyxy.dtype == found.confidence.dtype == np.float32
    x, y, right, bottom = found.xyxy[0].tolist()  # fails where there is none
    assert result.objects[0]["bbox"] == pytest.approx([x, y, right - x, bottom - y], abs=1e-3)
    assert found.data["class_name"].tolist() == [("bolt", "nut")[number] for number in found.class_id]


def test_without_supervision_the_error_says_so(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "supervision", None)
    (result,) = predictor.predict(np.zeros((48, 80, 3), np.uint8))
    with pytest.raises(ConfigError, match="pip install supervision"):
        result.to_supervision()


def test_supervision_itself(predictor: Predictor) -> None:
    pytest.importorskip("supervision", reason="the package supervision is not installed")
    supervision = importlib.import_module("supervision")
    (result,) = predictor.predict(np.zeros((48, 80, 3), np.uint8))
    assert isinstance(result.to_supervision(), supervision.Detections)


def test_a_network_without_boxes(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "labels.pt", ("kind", "count"))
    (result,) = Predictor.from_checkpoint(path).predict(np.zeros((48, 80, 3), np.uint8))
    assert result.detections is None
    assert result.labels.keys() == {"kind", "count"}
    with pytest.raises(ConfigError, match="no detection head"):
        result.to_supervision()
