"""The data set report, as its command prints it, and the drawings."""

from __future__ import annotations

import json
import math
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

TOOL = Path(__file__).parents[2] / "tools" / "inspect_data.py"


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(TOOL), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=110, check=False)


def words(output: str, start: str) -> list[str]:
    """Return the words of the first line that starts with `start`."""
    return next(line.split() for line in output.splitlines() if line.startswith(start))


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "data: {resize: {shorter: 64, longer: 96}}\n"
        "heads: {objects: {type: fcos}, kind: {type: classification, source: attribute, field: kind}}\n"
    )
    return path


def test_report(tiny_coco):
    tree = json.loads(tiny_coco.annotations.read_text())
    tree["annotations"][0]["bbox"] = [0, 0, 0, 5]
    tree["images"][0]["attributes"] = {"kind": None, "grade": [1, {}]}
    tiny_coco.annotations.write_text(json.dumps(tree))
    (tiny_coco.images / "002.png").unlink()
    result = run(tiny_coco.annotations, "--images", tiny_coco.images)
    assert result.returncode == 0, result.stderr
    out = result.stdout
    assert words(out, "images  ") == ["images", "8"]
    assert words(out, "portrait") == ["portrait", "4", "(50.0%)"]
    assert words(out, "without") == ["without", "annotations", "1", "(12.5%)"]
    assert words(out, "boxes per") == ["boxes", "per", "image", "0", "/", "1.5", "/", "3"]
    assert words(out, "crowds") == ["crowds", "1", "(8.3%)"]
    assert words(out, "nut") == ["nut", "7", "5", "41.7%", "4", "1"]
    assert words(out, "dirty") == ["dirty", "4"]
    assert words(out, "unknown") == ["unknown", "1"]
    assert "no label: " in out  # an attribute that is no label is shown, not fatal
    assert "dropped 1: box of zero or negative size (annotation ids 1)" in out
    assert "002.png (image id 12)" in out


def test_drawings(tiny_coco, tmp_path, config):
    output = tmp_path / "drawings"
    arguments = (tiny_coco.annotations, "--images", tiny_coco.images, "--draw", 3, "--output", output)
    result = run(*arguments, "--config", config, "data.min_visibility=0.1")
    assert result.returncode == 0, result.stderr
    names = ["sample-000.jpg", "sample-001.jpg", "sample-002.jpg", "samples.jpg"]
    assert sorted(path.name for path in output.iterdir()) == names
    assert cv2.imread(str(output / "samples.jpg")).shape == (800, 800, 3)


def test_errors(tiny_coco, tmp_path):
    missing = run(tmp_path / "absent.json", "--images", tiny_coco.images)
    assert missing.returncode == 2
    assert "absent.json: cannot read the annotations" in missing.stderr
    folder = run(tiny_coco.annotations, "--images", tmp_path / "absent")
    assert folder.returncode == 2
    assert folder.stderr.startswith("error: --images: no folder")


def test_a_file_that_is_one_of_several_sources_is_drawn_as_training_has_it(tiny_coco, tmp_path):
    tree = json.loads(tiny_coco.annotations.read_text())
    tree["categories"][0]["name"] = "rivet"
    for image in tree["images"]:
        del image["attributes"]
    (tiny_coco.root / "second.json").write_text(json.dumps(tree))
    (tiny_coco.images / "002.png").unlink()
    sources = ", ".join(f"{{images: images, annotations: {name}.json}}" for name in ("annotations", "second"))
    path = tmp_path / "run.yaml"
    path.write_text(
        f"data: {{root: '{tiny_coco.root}', train: [{sources}], resize: {{shorter: 64, longer: 96}}}}\n"
        "heads:\n"
        "  objects: {type: fcos}\n"
        "  kind: {type: classification, source: attribute, field: kind}\n"
        "  presence: {type: multilabel, source: boxes, categories: [bolt, rivet]}\n"
    )
    output = tmp_path / "drawings"
    arguments = ("--images", tiny_coco.images, "--draw", 9, "--output", output, "--config", path)
    result = run(tiny_coco.root / "second.json", *arguments)
    assert result.returncode == 0, result.stderr
    assert len(list(output.glob("sample-*.jpg"))) == 7  # all but the missing file


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ([1, 0, 1], "bolt, washer"),
        ([0, 0, 0], "none"),
        ([math.nan, 0, 1], "washer; unknown: bolt"),
        ([math.nan, 0, math.nan], "none; unknown: bolt, washer"),
        ([math.nan] * 3, "unknown"),
    ],
)
def test_labels_of_which_some_are_unknown(target, expected):
    text = runpy.run_path(str(TOOL))["label_text"]
    assert text(np.array(target, np.float32), ("bolt", "nut", "washer")) == expected
