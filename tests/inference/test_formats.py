"""What `tools/infer.py` writes in each format."""

import csv
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from tests.commands.helpers import write_config
from tests.conftest import TinyCoco
from tests.inference.networks import picture, write_checkpoint
from vision_mtl.commands.evaluate import evaluate_checkpoint
from vision_mtl.commands.infer import infer_with_checkpoint
from vision_mtl.commands.train import train_from_config
from vision_mtl.errors import ConfigError, DataError
from vision_mtl.inference.per_image import crop_area, safe_names, yolo_lines
from vision_mtl.inference.summary import Summary


def infer(inputs: list[Path], checkpoint: str, output: Path, *formats: str, **more: Any) -> int:
    threshold = more.pop("threshold", 0.0)
    files = [str(path) for path in inputs]
    return infer_with_checkpoint(files, checkpoint, output, threshold, False, False, formats=formats, **more)


def lines(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]


def test_json_and_csv_say_what_the_lines_say(checkpoint: str, tmp_path: Path) -> None:
    picture(tmp_path / "in/a.png", 48, 80)
    picture(tmp_path / "in/b.png", 80, 48)
    (tmp_path / "in/c.png").write_bytes(b"broken")
    out = tmp_path / "out"
    assert infer([tmp_path / "in"], checkpoint, out, "json", "csv") == 1
    answered, skipped = lines(out)[:2], lines(out)[2:]
    content = json.loads((out / "predictions.json").read_text())
    assert content == {
        "checkpoint": checkpoint,
        "threshold": 0.0,
        "operating_points": {},
        "ignored": 0,
        "images": answered,
        "skipped": skipped,
    }
    assert skipped[0].keys() == {"file", "reason"}
    with (out / "predictions.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["head"] == "objects"]
    found = [(entry["file"], d["category"], d["score"]) for entry in answered for d in entry["detections"]]
    assert [(row["file"], row["label"], float(row["score"])) for row in rows] == found
    about = json.loads((out / "inference.json").read_text())
    assert about["finished"]
    assert about["summary"]["images"] == 2
    assert sum(about["summary"]["objects"].values()) == len(found)


def test_only_the_lines(checkpoint: str, tmp_path: Path) -> None:
    infer([picture(tmp_path / "a.png", 48, 80)], checkpoint, tmp_path / "out", "jsonl")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {".lock", "inference.json", "predictions.jsonl"}


def test_yolo_numbers_by_hand() -> None:
    found = {"bbox": [10.0, 20.0, 30.0, 40.0], "category_id": 7, "score": 0.5}
    over = {"bbox": [150.0, 0.0, 60.0, 100.0], "category_id": 3, "score": 0.25}  # beyond the right edge
    entry = {"width": 200, "height": 100, "detections": [found, over]}
    classes = {3: 0, 7: 1}
    assert yolo_lines(entry, classes, confidence=False) == (
        "1 0.125000 0.400000 0.150000 0.400000\n0 0.900000 0.500000 0.300000 1.000000\n"
    )
    assert yolo_lines(entry, classes, confidence=True).splitlines()[0].endswith(" 0.500000")
    assert yolo_lines({**entry, "detections": []}, classes, confidence=True) == ""


def test_yolo_files(checkpoint: str, tmp_path: Path) -> None:
    picture(tmp_path / "in/a.png", 48, 80)
    out = tmp_path / "out"
    infer([tmp_path / "in"], checkpoint, out, "yolo", confidence=True)
    assert (out / "classes.txt").read_text() == "bolt\nnut\n"
    rows = [line.split() for line in (out / "labels/a.txt").read_text().splitlines()]
    (entry,) = lines(out)
    assert len(rows) == len(entry["detections"]) > 50
    for row, found in zip(rows, entry["detections"], strict=True):
        x, y, width, height = (float(n) * side for n, side in zip(row[1:5], (80, 48) * 2, strict=True))
        assert [x - width / 2, y - height / 2, width, height] == pytest.approx(found["bbox"], abs=2e-3)
        assert ("bolt", "nut")[int(row[0])] == found["category"]
        assert float(row[5]) == found["score"]
    picture(tmp_path / "in/a.jpg", 48, 80)
    with pytest.raises(DataError, match=r"'a\.jpg' and 'a\.png' would both write labels/a\.txt"):
        infer([tmp_path / "in"], checkpoint, tmp_path / "other", "yolo")
    assert not (tmp_path / "other").exists()


def test_coco_results_are_those_of_the_evaluation(tiny_coco: TinyCoco, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_from_config(write_config(tmp_path, tiny_coco.root), ["training.max_steps=1"], run)
    best = str(run / "checkpoints/best.pt")
    evaluate_checkpoint(best, [], "val", tmp_path / "evaluation")
    expected = json.loads((tmp_path / "evaluation/detections.json").read_text())
    threshold = sorted(found["score"] for found in expected)[len(expected) // 2]
    expected = [found for found in expected if found["score"] >= threshold]

    out, ids = tmp_path / "out", str(tiny_coco.annotations)
    infer([tiny_coco.images], best, out, "coco", ids=ids, threshold=threshold)
    found = json.loads((out / "detections.json").read_text())
    key = lambda found: (found["image_id"], -found["score"], found["bbox"])  # noqa: E731
    assert len(found) == len(expected)
    for ours, theirs in zip(sorted(found, key=key), sorted(expected, key=key), strict=True):
        assert (ours["image_id"], ours["category_id"]) == (theirs["image_id"], theirs["category_id"])
        assert ours["bbox"] == pytest.approx(theirs["bbox"], abs=2e-3)
        assert ours["score"] == pytest.approx(theirs["score"], abs=2e-6)
    assert len(COCO(ids).loadRes(str(out / "detections.json")).anns) == len(found)
    assert not (out / "images.json").exists()


def test_coco_results_without_ids_explain_their_own(checkpoint: str, tmp_path: Path) -> None:
    picture(tmp_path / "in/b.png", 48, 80)
    picture(tmp_path / "in/c.png", 48, 80)
    (tmp_path / "in/a.png").write_bytes(b"broken")
    infer([tmp_path / "in"], checkpoint, tmp_path / "out", "coco")
    truth = COCO(str(tmp_path / "out/images.json"))
    names = {number: Path(image["file_name"]).name for number, image in truth.imgs.items()}
    assert names == {2: "b.png", 3: "c.png"}  # the line numbers
    assert {number: category["name"] for number, category in truth.cats.items()} == {3: "bolt", 7: "nut"}
    found = truth.loadRes(str(tmp_path / "out/detections.json"))
    assert len(found.getAnnIds(imgIds=[2])) > 50


def test_ids_by_the_end_of_the_path_and_categories_by_name(checkpoint: str, tmp_path: Path) -> None:
    for name in ("a/1.png", "b/1.png"):
        picture(tmp_path / "in" / name, 48, 80)
    images = [{"id": 50, "file_name": "b/1.png"}, {"id": 60, "file_name": "1.png"}]
    known = tmp_path / "known.json"
    known.write_text(json.dumps({"images": images, "categories": [{"id": 99, "name": "nut"}]}))
    folders = [tmp_path / "in/a", tmp_path / "in/b"]
    infer(folders, checkpoint, tmp_path / "out", "coco", ids=str(known))
    found = json.loads((tmp_path / "out/detections.json").read_text())
    assert {result["image_id"] for result in found} == {50, 60}
    assert {result["category_id"] for result in found} == {99}
    nuts = [d for entry in lines(tmp_path / "out") for d in entry["detections"] if d["category"] == "nut"]
    assert len(found) == len(nuts)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"images": [{"id": 1, "file_name": "other.png"}]}, "none of 1 images has a file_name"),
        (
            {"images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "a.png"}]},
            "images 1 and 2 are both named",
        ),
        ({"images": [{"id": "1", "file_name": "a.png"}]}, "expected a COCO JSON"),
        ([], "expected a COCO JSON"),
    ],
)
def test_wrong_ids_write_nothing(checkpoint: str, tmp_path: Path, content: Any, said: str) -> None:
    image, known = picture(tmp_path / "a.png", 48, 80), tmp_path / "known.json"
    known.write_text(json.dumps(content))
    with pytest.raises(DataError, match=said):
        infer([image], checkpoint, tmp_path / "out", "coco", ids=str(known))
    assert not (tmp_path / "out").exists()


def test_two_files_that_are_one_image(checkpoint: str, tmp_path: Path) -> None:
    images = [picture(tmp_path / name / "1.png", 48, 80) for name in ("a", "b")]
    known = tmp_path / "known.json"
    known.write_text(json.dumps({"images": [{"id": 1, "file_name": "1.png"}]}))
    with pytest.raises(DataError, match="are both its image 1"):
        infer(images, checkpoint, tmp_path / "out", "coco", ids=str(known))


@pytest.mark.parametrize(
    ("formats", "more", "said"),
    [
        (["cvs"], {}, "found 'cvs', expected some of .*; did you mean 'csv'"),
        (["video"], {}, "expected a video file as the only input"),
        (["csv"], {"ids": "x.json"}, "--ids: is for --format coco"),
    ],
)
def test_formats_that_do_not_fit(
    checkpoint: str, tmp_path: Path, formats: list[str], more: dict[str, str], said: str
) -> None:
    image = picture(tmp_path / "a.png", 48, 80)
    with pytest.raises(ConfigError, match=said):
        infer([image], checkpoint, tmp_path / "out", *formats, **more)
    assert not (tmp_path / "out").exists()


def test_formats_of_boxes_need_a_detection_head(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "labels.pt", ("kind",))
    image = picture(tmp_path / "a.png", 48, 80)
    for name in ("coco", "yolo", "crops"):
        with pytest.raises(ConfigError, match=f"--format {name}: the network has no detection head"):
            infer([image], path, tmp_path / "out", name)
    assert not (tmp_path / "out").exists()
    infer([image], path, tmp_path / "out", "json", "csv", "images", "gallery")


def test_crops(checkpoint: str, tmp_path: Path) -> None:
    image = picture(tmp_path / "a.png", 48, 80)
    infer([image], checkpoint, tmp_path / "out", "crops")
    pixels = cv2.imread(str(image))
    (entry,) = lines(tmp_path / "out")
    for number, found in enumerate(entry["detections"], start=1):
        left, top, right, bottom = crop_area(found["bbox"], (48, 80))
        crop = cv2.imread(str(tmp_path / f"out/crops/{found['category']}/a-{number}.png"))
        assert np.array_equal(crop, pixels[top:bottom, left:right])


def test_crop_areas_by_hand() -> None:
    assert crop_area([1.2, 2.0, 3.0, 4.5], (100, 100)) == (1, 2, 5, 7)
    assert crop_area([-5.0, -5.0, 200.0, 200.0], (30, 40)) == (0, 0, 40, 30)
    assert crop_area([40.0, 30.0, 0.0, 0.0], (30, 40)) == (39, 29, 40, 30)
    assert crop_area([7.0, 8.0, 0.0, 0.0], (30, 40)) == (7, 8, 8, 9)


def test_names_of_files_are_safe_and_apart() -> None:
    names = {1: "../../etc", 2: "a/b", 3: "a:b", 4: "..", 5: "Ring", 6: "ring", 7: "weiß 1.5", 8: "A:b-2"}
    assert safe_names(names) == {
        1: "_.._etc",
        2: "a_b-2",
        3: "a_b-3",
        4: "category-4",
        5: "Ring-5",
        6: "ring-6",
        7: "weiß 1.5",
        8: "A_b-2-8",  # what 2 is named
    }


def test_the_summary_counts() -> None:
    summary = Summary()
    entry = {
        "file": "a.png",
        "detections": [{"category": "nut"}, {"category": "nut"}, {"category": "bolt"}],
        "labels": {
            "kind": {"label": "clean"},
            "presence": {"label": ["nut", "bolt"]},
            "count": {"value": 3.0},
        },
    }
    summary.add(entry)
    summary.add({**entry, "detections": [], "labels": {**entry["labels"], "count": {"value": 1.0}}})
    summary.add({"file": "b.png", "reason": "broken"})
    assert summary.to_dict() == {
        "images": 2,
        "skipped": 1,
        "objects": {"nut": 2, "bolt": 1},
        "labels": {"kind": {"clean": 2}, "presence": {"nut": 2, "bolt": 2}},
        "values": {"count": {"mean": 2.0, "min": 1.0, "max": 3.0}},
    }
    assert summary.lines()[0] == "3 objects: nut 2, bolt 1"
    assert summary.lines()[-1] == "count: mean 2, from 1 to 3"
